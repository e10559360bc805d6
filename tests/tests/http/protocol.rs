//! HTTP on the wire, as RFC 9110 and RFC 9112 specify it.

use crate::openapi::{Access, OF_A_SHOP, document, operations};
use kvasm::model::Scope;
use kvasm_tests::guests::{manifest, module, module_with};
use kvasm_tests::server::{Server, answer};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use uuid::Uuid;

const ENTRY: &str = "/v1/apps/shop/kv/entry?collection=c&key=k";

#[tokio::test]
async fn entry_preconditions_follow_rfc_9110() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let send = async |method: &str, headers: &[(&str, &str)]| {
        let mut request = server.root.request(method, ENTRY).body("1");
        request = request.header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request).await
    };
    // The entry does not exist.
    for method in ["PUT", "DELETE"] {
        for tag in ["*", "\"1\"", "\"1\", \"2\""] {
            let refused = send(method, &[("if-match", tag)]).await;
            refused.expect_problem(412, "precondition-failed");
        }
    }
    let first = send("PUT", &[("if-none-match", "*")]).await.expect(200);
    let tag = first.header("etag").to_owned();
    send("PUT", &[("if-none-match", "*")])
        .await
        .expect_problem(412, "precondition-failed");
    let next = send("PUT", &[("if-match", "*")]).await.expect(200);
    assert_ne!(next.header("etag"), tag);
    send("PUT", &[("if-match", &tag)])
        .await
        .expect_problem(412, "precondition-failed");
    let both = format!("{tag}, {}", next.header("etag"));
    let last = send("PUT", &[("if-match", &both)]).await.expect(200);
    let tag = last.header("etag").to_owned();
    let weak = format!("W/{tag}");
    send("PUT", &[("if-match", &weak)])
        .await
        .expect_problem(412, "precondition-failed");
    send("PUT", &[("if-none-match", &weak)])
        .await
        .expect_problem(412, "precondition-failed");
    // Reads.
    for method in ["GET", "HEAD"] {
        for same in [tag.as_str(), &weak, "*", &format!("\"0\", {tag}")] {
            let unchanged = send(method, &[("if-none-match", same)]).await.expect(304);
            assert_eq!(unchanged.header("etag"), tag, "{method} {same}");
            assert_eq!(unchanged.body, b"");
        }
        send(method, &[("if-none-match", "\"0\"")])
            .await
            .expect(200);
        send(method, &[("if-match", &tag)]).await.expect(200);
        send(method, &[("if-match", "\"0\"")]).await.expect(412);
    }
    for bad in ["7", "\"7", "w/\"7\"", "*, \"7\""] {
        for name in ["if-match", "if-none-match"] {
            send("PUT", &[(name, bad)])
                .await
                .expect_problem(400, "invalid-argument");
        }
    }
    send("DELETE", &[("if-match", "*")]).await.expect(204);
    send("GET", &[])
        .await
        .expect_problem(404, "entry-not-found");
}

#[tokio::test]
async fn write_only_token_can_use_preconditions() {
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    let writer = server.client(Some(&app), &[Scope::ScriptWrite]).await;
    let put = async |name: &str| {
        let request = writer.request("PUT", ENTRY).json(&1);
        answer(request.header(name, "*")).await
    };
    put("if-match")
        .await
        .expect_problem(412, "precondition-failed");
    put("if-none-match").await.expect(200);
    put("if-match").await.expect(200);
}

#[tokio::test]
async fn limits_preconditions_follow_rfc_9110() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let path = "/v1/apps/shop/limits";
    let tag = server.root.get(path).await.expect(200);
    let tag = tag.header("etag").to_owned();
    let same = server
        .root
        .request("GET", path)
        .header("if-none-match", &tag);
    answer(same).await.expect(304);
    let patch = async |tags: &str| {
        let request = server.root.request("PATCH", path).header("if-match", tags);
        answer(request.json(&serde_json::json!({ "entries": 7 }))).await
    };
    patch(&format!("W/{tag}"))
        .await
        .expect_problem(412, "precondition-failed");
    patch(&format!("\"x\", {tag}")).await.expect(200);
    patch(&tag).await.expect_problem(412, "precondition-failed");
    patch("*").await.expect(200);
    let changed = server
        .root
        .request("GET", path)
        .header("if-none-match", &tag);
    answer(changed).await.expect(200);
}

/// A module whose handler answers with this status and a body.
fn with_status(status: u16) -> Vec<u8> {
    let head = format!("{{\"status\":{status}}}");
    let data = format!(
        "\\{:02x}\\00\\00\\00{}body",
        head.len(),
        head.replace('"', "\\\"")
    );
    let body = format!(
        "(drop (call $output_write (i32.const 0) (i32.const {}))) (i32.const 0)",
        4 + head.len() + 4
    );
    module_with(
        &data,
        &manifest(&[r#"{"kind":"http","name":"run"}"#]),
        &body,
    )
}

#[tokio::test]
async fn bodiless_responses_have_no_body_or_length() {
    let server = Server::start().await;
    server.app("none", false).await;
    for status in [204, 205, 304] {
        server
            .deployed(&format!("s{status}"), with_status(status))
            .await;
        let target = format!("/a/s{status}/");
        let got = raw(
            server.address,
            &format!("GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"),
        )
        .await;
        let (head, body) = got.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert_eq!(body, "");
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("transfer-encoding"), "{head}");
        // A 205 declares a length of 0.
        let length = head.contains("content-length");
        assert!(
            !length || (status == 205 && head.contains("content-length: 0")),
            "{head}"
        );
    }
    let request = format!(
        "DELETE /v1/apps/none HTTP/1.1\r\nHost: t\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        server.root.secret()
    );
    let got = raw(server.address, &request).await;
    assert!(got.starts_with("HTTP/1.1 204"), "{got}");
    assert!(
        !got.to_ascii_lowercase().contains("content-length"),
        "{got}"
    );
    assert!(got.ends_with("\r\n\r\n"), "{got}");
}

/// Sends a request, and reads until the server closes the connection.
async fn raw(address: SocketAddr, request: &str) -> String {
    let request = request.to_owned();
    let exchange = move || {
        let mut line = RawConnection::open(address);
        line.stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        line.stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

#[tokio::test]
async fn request_must_have_exactly_one_host_header() {
    let server = Server::start().await;
    for (hosts, status) in [
        ("", 400),
        ("Host: a\r\nHost: a\r\n", 400),
        ("Host: a b\r\n", 400),
        ("Host: u@a\r\n", 400),
        ("Host: a/b\r\n", 400),
        ("Host:\r\n", 200),
        ("Host: a\r\n", 200),
        ("Host: a.example:7180\r\n", 200),
        ("Host: [::1]:7180\r\n", 200),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\n{hosts}\r\n");
        let answer = server.raw(request.as_bytes()).await;
        assert_eq!(answer.status, status, "{hosts}");
        if status == 400 {
            answer.expect_problem(400, "invalid-argument");
        }
    }
    // HTTP/1.0 does not require the header.
    let old = server.raw(b"GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.status, 200);
}

#[tokio::test]
async fn unsupported_transfer_encoding_is_rejected() {
    let server = Server::start().await;
    server.deployed("shop", with_status(200)).await;
    for (coding, status) in [
        ("chunked", 200),
        ("Chunked", 200),
        ("gzip, chunked", 400),
        ("chunked, chunked", 400),
        ("gzip\r\nTransfer-Encoding: chunked", 400),
        ("chunked\r\nTransfer-Encoding: chunked", 400),
    ] {
        let request = format!(
            "POST /a/shop/ HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: {coding}\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n"
        );
        let answer = server.raw(request.as_bytes()).await;
        assert_eq!(answer.status, status, "{coding}");
        if status == 400 {
            answer.expect_problem(400, "invalid-argument");
        }
    }
}

#[tokio::test]
async fn head_is_supported_wherever_get_is() {
    let server = Server::start().await;
    let app = server.deployed("shop", with_status(200)).await;
    let api = server.client(None, &Scope::ALL).await;
    let put = api.request("PUT", ENTRY).json(&1);
    answer(put).await.expect(200);
    for operation in operations(&document(&server.root).await) {
        if operation.method != "GET" {
            continue;
        }
        let target = operation.target(&[
            ("app", app.name.as_str()),
            ("version", "1"),
            ("id", "00000000-0000-0000-0000-000000000099"),
            ("path", "x"),
        ]);
        let id = Uuid::nil().to_string();
        let send = |method| answer(api.request(method, &target).header("x-request-id", &id));
        let (get, head) = (send("GET").await, send("HEAD").await);
        assert_eq!(
            (head.status, head.body.as_slice()),
            (get.status, &b""[..]),
            "{target}"
        );
        let names = |answer: &kvasm_tests::server::ApiResponse| {
            let names = answer.headers.keys().map(ToString::to_string);
            names
                .filter(|name| name != "transfer-encoding")
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(names(&head), names(&get), "{target}");
    }
    let refused = server.root.send("PUT", "/healthz").await;
    refused.expect_problem(405, "method-not-allowed");
    assert_eq!(refused.header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn anonymous_callers_cannot_probe_for_private_apps() {
    let server = Server::start().await;
    server.app("closed", false).await;
    for operation in operations(&document(&server.root).await) {
        if !operation.path.contains("{app}") {
            continue;
        }
        assert_ne!(operation.access, Access::Open);
        let mut answers = Vec::new();
        for app in ["closed", "absent"] {
            let target = operation.target(&[
                ("app", app),
                ("version", "1"),
                ("token", "00000000000000000000000000000099"),
                ("function", "f"),
                ("name", "n"),
                ("id", "00000000-0000-0000-0000-000000000099"),
                ("path", "x"),
            ]);
            let request = server.anonymous().request(&operation.method, &target);
            let request = request.header("x-request-id", Uuid::nil().to_string());
            let answer = answer(request).await;
            answers.push((answer.status, answer.text()));
        }
        let place = format!("{} {}", operation.method, operation.path);
        assert_eq!(answers[0].0, 401, "{place}");
        assert_eq!(answers[0], answers[1], "{place}");
    }
}

#[tokio::test]
async fn unexpected_url_parts_are_rejected() {
    let server = Server::start().await;
    server.deployed("shop", module("", "(i32.const 0)")).await;
    for operation in operations(&document(&server.root).await) {
        if operation.path.starts_with("/a/") {
            continue;
        }
        let target = operation.target(&OF_A_SHOP);
        let and = if target.contains('?') { '&' } else { '?' };
        for (more, named) in [
            ("limitt=1", "limitt"),
            ("=1", ""),
            ("limit=%ff", ""),
            ("%ff=1", ""),
            ("limit=%2", ""),
        ] {
            let target = format!("{target}{and}{more}");
            let refused = server.root.send(&operation.method, &target).await;
            refused.expect_problem(400, "invalid-argument");
            assert!(refused.text().contains(named), "{}", refused.text());
        }
        for parameter in operation.parameters("query") {
            let name = parameter["name"].as_str().unwrap();
            let twice = format!("{target}{and}{name}=1&{name}=1");
            let refused = server.root.send(&operation.method, &twice).await;
            refused.expect_problem(400, "invalid-argument");
            assert!(refused.text().contains(name), "{}", refused.text());
        }
    }
    for path in [
        "/v1/apps/shop/call/%ff",
        "/v1/apps/shop/call/%",
        "/v1/apps/shop/triggers/%zz/pause",
    ] {
        server
            .root
            .send("POST", path)
            .await
            .expect_problem(400, "invalid-argument");
    }
    server.root.call("shop", "run", "").await.expect(200);
}

/// A client with a single connection.
struct RawConnection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl RawConnection {
    fn open(address: SocketAddr) -> RawConnection {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let read = Vec::new();
        RawConnection { stream, read }
    }

    /// Sends a request as simple clients do: completely, before reading the answer. Returns the
    /// status, and whether the server closes the connection.
    fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> (u16, bool) {
        let len = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n"
        );
        self.stream.write_all(head.as_bytes()).unwrap();
        self.stream.write_all(body).unwrap();
        loop {
            let text = String::from_utf8_lossy(&self.read).to_ascii_lowercase();
            if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.lines().next().unwrap().parse().unwrap();
                if rest.len() >= length {
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    let closes = head.contains("connection: close");
                    self.read.clear();
                    return (status, closes);
                }
            }
            let mut part = [0; 4096];
            let len = self.stream.read(&mut part).unwrap();
            assert!(len > 0, "the answer ended early: {text}");
            self.read.extend_from_slice(&part[..len]);
        }
    }
}

const REFUSING: [(&str, &str, u16); 7] = [
    ("POST", "/v1/apps", 401),
    ("PUT", "/v1/apps/shop/kv/entry?collection=c&key=k", 401),
    ("POST", "/v1/apps/shop/kv/import", 401),
    ("POST", "/v1/apps/absent/call/f", 401),
    ("POST", "/v1/apps/shop/call/absent", 404),
    ("POST", "/nothing", 404),
    ("PUT", "/healthz", 405),
];

#[tokio::test]
async fn early_rejection_reaches_a_client_that_sends_20_mib_first() {
    let server = Server::start().await;
    server.deployed("shop", module("", "(i32.const 0)")).await;
    let address = server.address;
    let ask = move || {
        let body = vec![b'x'; 20 << 20];
        for (method, target, status) in REFUSING {
            let answer = RawConnection::open(address).ask(method, target, &body);
            assert_eq!(answer, (status, true), "{method} {target}");
        }
    };
    tokio::task::spawn_blocking(ask).await.unwrap();
}

#[tokio::test]
async fn rejected_body_does_not_corrupt_the_next_request() {
    let server = Server::start().await;
    server.deployed("shop", module("", "(i32.const 0)")).await;
    let address = server.address;
    let ask = move || {
        let body = vec![b'x'; 100 * 1024];
        let mut line = RawConnection::open(address);
        for (method, target, status) in REFUSING {
            let (found, closes) = line.ask(method, target, &body);
            assert_eq!(found, status, "{method} {target}");
            if closes {
                // Closing the connection is allowed if it is announced: the machine was too
                // slow.
                line = RawConnection::open(address);
            }
            let next = line.ask("POST", "/v1/apps/shop/call/run", b"");
            assert_eq!(next, (200, false), "{method} {target}");
        }
    };
    tokio::task::spawn_blocking(ask).await.unwrap();
}

/// The HTTP library rejects the largest lengths, as docs/http.md says, and the server all
/// others.
#[tokio::test]
async fn impossible_content_length_is_rejected() {
    let server = Server::start().await;
    server.deployed("shop", module("", "(i32.const 0)")).await;
    for (length, status) in [
        (u64::MAX, 431),
        (u64::MAX - 1, 431),
        (u64::MAX - 2, 413),
        (1 << 40, 413),
    ] {
        let head = format!(
            "POST /v1/apps/shop/call/run HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n"
        );
        let answer = server.raw(head.as_bytes()).await;
        assert_eq!(answer.status, status, "{length}");
    }
    server.root.call("shop", "run", "").await.expect(200);
}
