//! The server of a test of the console.

use kvasm_tests::program::process::{Home, Server};
use kvasm_tests::program::raw_client::{RawConnection, Response, request};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

/// HTML, a script, and characters that change the direction of text or are not drawn.
pub const HOSTILE: &str =
    "<img src=x onerror=\"hit=1\"><script>hit=1</script>\u{202e}fdp.exe\u{200b}\u{7}&amp;";
/// The same, percent-encoded.
pub const ENCODED: &str = "%3Cimg%20src%3Dx%20onerror%3D%22hit%3D1%22%3E%3Cscript%3Ehit%3D1%3C%2Fscript%3E\
     %E2%80%AEfdp.exe%E2%80%8B%07%26amp%3B";
/// How the console shows it.
pub const SHOWN: &str =
    "<img src=x onerror=\"hit=1\"><script>hit=1</script>⟨U+202E⟩fdp.exe⟨U+200B⟩⟨U+0007⟩&amp;";

/// A server with the console.
pub struct Stage {
    pub server: Server,
    admin: SocketAddr,
    pub home: Home,
}

impl Stage {
    pub fn start() -> Stage {
        Stage::with(&[])
    }

    /// Starts it with these settings, such as `pages.sandbox=off`.
    pub fn with(settings: &[&str]) -> Stage {
        Stage::start_at(Home::new(), 0, settings)
    }

    /// Starts a server that serves everything at one address, and so no console.
    pub fn one_address(settings: &[&str]) -> Stage {
        let home = Home::new();
        let arguments: Vec<&str> = settings.iter().flat_map(|each| ["--set", *each]).collect();
        let server = home.start(&arguments);
        Stage {
            admin: server.address,
            server,
            home,
        }
    }

    fn start_at(home: Home, port: u16, settings: &[&str]) -> Stage {
        let listen = format!("admin.listen=127.0.0.1:{port}");
        let settings = settings.iter().copied().chain([listen.as_str()]);
        let arguments: Vec<&str> = settings.flat_map(|each| ["--set", each]).collect();
        let server = home.start(&arguments);
        let stdout = server.stdout();
        let (_, rest) = stdout.split_once("Administration on http://").unwrap();
        let (address, _) = rest.split_once('\n').unwrap();
        Stage {
            admin: address.parse().unwrap(),
            server,
            home,
        }
    }

    /// Stops the server, and starts it again at the same address.
    pub fn restart(self) -> Stage {
        self.server.stop();
        Stage::start_at(self.home, self.admin.port(), &[])
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.admin)
    }

    pub fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Response {
        self.send_as(&self.server.token, method, path, content_type, body)
    }

    /// Sends a request with another token.
    pub fn send_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Response {
        let mut line = RawConnection::open(self.admin, Arc::clone(&self.server.received));
        let authorization = format!("Authorization: Bearer {token}\r\n");
        let headers =
            format!("Connection: close\r\nContent-Type: {content_type}\r\n{authorization}");
        line.send(request(method, path, &headers, body));
        line.answer().expect("an answer")
    }

    pub fn json(&self, method: &str, path: &str, body: Value) -> Response {
        self.send(
            method,
            path,
            "application/json",
            body.to_string().as_bytes(),
        )
    }

    pub fn put(&self, app: &str, collection: &str, key: &str, value: Value) {
        let path = format!("/v1/apps/{app}/kv/entry?collection={collection}&key={key}");
        self.json("PUT", &path, value).ok();
    }

    pub fn get(&self, app: &str, collection: &str, key: &str) -> String {
        let path = format!("/v1/apps/{app}/kv/entry?collection={collection}&key={key}");
        self.send("GET", &path, "application/json", b"").ok().text()
    }

    /// Creates a token and returns its id and secret.
    pub fn token(&self, path: &str, scopes: &[&str]) -> (String, String) {
        let made = self.json("POST", path, json!({"name": "t", "scopes": scopes}));
        let made: Value = serde_json::from_str(&made.text()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&made["token"]["id"]), text(&made["secret"]))
    }
}
