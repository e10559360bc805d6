//! Runs the program as docs/embedding.md shows.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A plugin built by `cargo xtask guests`.
fn counter() -> Vec<u8> {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    let folder = std::env::var_os("KVASM_GUESTS").map_or_else(built, PathBuf::from);
    std::fs::read(folder.join("counter.wasm")).unwrap()
}

/// How many programs were started: tests run at the same time.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// The program with its own store, killed when this is dropped.
struct Service {
    child: Child,
    address: String,
    folder: PathBuf,
    /// The lines of its standard error.
    lines: Receiver<String>,
}

impl Service {
    fn start() -> Service {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.join(format!(
            "embed-axum-{}-{}",
            std::process::id(),
            STARTED.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_embed-axum"));
        command.arg(folder.join("service.db")).arg("127.0.0.1:0");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = sender.send(line);
            }
        });
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().unwrap().to_owned();
        Service {
            child,
            address,
            folder,
            lines,
        }
    }

    /// Waits for the line of a span, and returns its trace, its parent and its own id.
    fn span(&self, name: &str) -> [String; 3] {
        let name = format!(" {name} ");
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|_| panic!("no span{name}"));
            if line.contains(&name) {
                let mut parts = line.split(' ').map(str::to_owned);
                return [(); 3].map(|()| parts.next().unwrap());
            }
        }
    }

    /// Sends a request. Returns the status and the body of the answer.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let timeout = Some(Duration::from_secs(60));
        stream.set_read_timeout(timeout).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn customer_plugins_are_isolated_from_each_other() {
    let service = Service::start();
    assert_eq!(service.ask("GET", "/health", b""), (200, "ok\n".to_owned()));
    let module = counter();
    let input = br#"{"name":"visits","by":1}"#;
    let add = |customer: &str| {
        let path = format!("/customers/{customer}/hooks/add");
        service.ask("POST", &path, input)
    };
    assert_eq!(add("acme").0, 404);
    for customer in ["acme", "globex"] {
        let path = format!("/customers/{customer}/plugin");
        let deployed = service.ask("PUT", &path, &module);
        assert_eq!(deployed, (200, "version 1 is active\n".to_owned()));
    }
    assert_eq!(add("acme"), (200, r#"{"value":1}"#.to_owned()));
    assert_eq!(add("acme"), (200, r#"{"value":2}"#.to_owned()));
    assert_eq!(add("globex"), (200, r#"{"value":1}"#.to_owned()));
    let refused = service.ask("POST", "/customers/acme/hooks/add", b"not JSON");
    assert!((400..503).contains(&refused.0), "{refused:?}");
    let refused = service.ask("PUT", "/customers/acme/plugin", b"not wasm");
    assert_eq!(refused.0, 422, "{refused:?}");
}

#[test]
fn spans_of_a_call_are_printed() {
    let service = Service::start();
    let deployed = service.ask("PUT", "/customers/acme/plugin", &counter());
    assert_eq!(deployed.0, 200, "{deployed:?}");
    let input = br#"{"name":"visits","by":1}"#;
    let called = service.ask("POST", "/customers/acme/hooks/add", input);
    assert_eq!(called.0, 200, "{called:?}");
    // Spans end from the inside.
    let committed = service.span("commit");
    let called = service.span("call add");
    assert_eq!(committed[0], called[0]);
    // It begins the trace.
    assert_eq!(called[1], "0".repeat(16));
    assert_ne!(called[2], committed[2]);
}
