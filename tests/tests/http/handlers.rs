//! An HTTP handler that is written with the SDK's router, on a server.

use kvasm::server::ServerOptions;
use kvasm_tests::guests::wasm;
use kvasm_tests::server::{ApiResponse, Server, answer};
use serde_json::{Value, json};

async fn server() -> Server {
    let server = Server::start().await;
    server.deployed("shop", wasm("web")).await;
    server
}

async fn send(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> ApiResponse {
    let path = format!("/a/shop{path}");
    let mut request = server.anonymous().request(method, &path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request).await
}

#[tokio::test]
async fn router_answers_over_http() {
    let server = server().await;
    let send = async |method, path| send(&server, method, path, &[]).await;
    let echo = send("GET", "/notes/a%20b%2Fc%C3%A9/echo").await.expect(200);
    assert_eq!(echo.text(), "a b/cé");
    let head = send("HEAD", "/notes/a/echo").await.expect(200);
    assert_eq!(head.body, b"");
    assert_eq!(head.header("content-length"), "1", "that of a GET");
    send("GET", "/notes/%ff").await.expect(400);
    send("GET", "/none").await.expect(404);
    send("POST", "/sum/x").await.expect(400);
    let refused = send("DELETE", "/sum").await.expect(405);
    assert_eq!(refused.header("allow"), "GET, HEAD, OPTIONS");
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let options = send("OPTIONS", "/notes/a").await.expect(204);
    assert_eq!(options.header("allow"), "GET, HEAD, PUT, OPTIONS");
}

#[tokio::test]
async fn statuses_without_a_body_have_none_over_http() {
    let server = server().await;
    for status in [204, 205, 304] {
        let request = format!("GET /a/shop/status/{status} HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = server.raw(request.as_bytes()).await.expect(status);
        assert_eq!(answer.body, b"", "{status}");
        assert_eq!(answer.header("transfer-encoding"), "", "{status}");
        // RFC 9110: none with 204; the length of a 304 would be that of a 200.
        let length = if status == 205 { "0" } else { "" };
        assert_eq!(answer.header("content-length"), length, "{status}");
        let request = request.replace("GET", "HEAD");
        let answer = server.raw(request.as_bytes()).await.expect(status);
        assert_eq!(answer.body, b"", "HEAD {status}");
    }
    let answer = send(&server, "GET", "/status/206", &[]).await.expect(206);
    assert_eq!(answer.text(), "a body");
}

#[tokio::test]
async fn errors_have_statuses_and_their_text_stays_in_the_log() {
    let server = server().await;
    for (path, status) in [("json", 400), ("cursor", 400), ("key", 400), ("size", 413)] {
        let path = format!("/errors/{path}");
        let answer = send(&server, "GET", &path, &[]).await.expect(status);
        let mut expected = json!({"title": answer.json()["title"], "status": status});
        // What the client has sent, and not what the plugin makes of it.
        let detail = match path.as_str() {
            "/errors/json" => Some("not JSON: EOF while parsing a value at line 1 column 0"),
            "/errors/cursor" => Some("the cursor is not one of this list; start again without one"),
            _ => None,
        };
        if let Some(detail) = detail {
            expected["detail"] = json!(detail);
        }
        assert_eq!(answer.json(), expected, "{path}");
    }
    send(&server, "GET", "/errors/type", &[]).await.expect(500);
    for (how, status) in [("error", 507), ("text", 500), ("panic", 500)] {
        let path = format!("/undone/{how}");
        let answer = send(&server, "POST", &path, &[]).await.expect(status);
        assert!(!answer.text().contains("secret"), "{}", answer.text());
    }
    let log = server.root.get("/v1/apps/shop/logs").await.expect(200);
    let found = log.text().matches("the secret reason").count();
    assert!(found >= 3, "{}", log.text());
}

#[tokio::test]
async fn response_that_is_an_error_undoes_the_handlers_writes() {
    let server = server().await;
    for (how, status, kept) in [
        ("problem", 409, 404),
        ("error", 507, 404),
        ("text", 500, 404),
        ("panic", 500, 404),
        ("ok", 409, 200),
    ] {
        let path = format!("/undone/{how}");
        send(&server, "POST", &path, &[]).await.expect(status);
        let note = send(&server, "GET", "/notes/undone", &[]).await;
        assert_eq!(note.status, kept, "{how}");
    }
}

#[tokio::test]
async fn concurrent_requests_of_a_transactional_handler_lose_nothing() {
    const CALLERS: usize = 16;
    const CALLS: usize = 10;
    let server = server().await;
    let callers = (0..CALLERS).map(|_| async {
        for _ in 0..CALLS {
            send(&server, "POST", "/sum/1", &[]).await.expect(200);
        }
    });
    futures_util::future::join_all(callers).await;
    let sum = send(&server, "GET", "/sum", &[]).await.expect(200);
    assert_eq!(sum.json(), json!(CALLERS * CALLS));
}

#[tokio::test]
async fn repeated_request_of_a_transactional_handler_takes_effect_once() {
    let server = server().await;
    let key = [("idempotency-key", "1")];
    for _ in 0..3 {
        let answer = send(&server, "POST", "/sum/7", &key).await.expect(200);
        assert_eq!(answer.json(), json!(7));
    }
    // A failure is not the request's answer.
    let key = [("idempotency-key", "2")];
    for _ in 0..2 {
        let answer = send(&server, "POST", "/undone/error", &key).await;
        assert_eq!(answer.expect(507).header("idempotency-replayed"), "");
    }
}

#[tokio::test]
async fn etags_of_versions_make_requests_conditional() {
    let server = server().await;
    let put =
        async |headers: &[(&str, &str)]| send(&server, "PUT", "/notes/a", headers).await.status;
    assert_eq!(put(&[("if-match", "*")]).await, 412);
    assert_eq!(put(&[("if-none-match", "*")]).await, 204);
    assert_eq!(put(&[("if-none-match", "*")]).await, 412);
    let first = send(&server, "GET", "/notes/a", &[]).await.expect(200);
    let tag = first.header("etag");
    let again = send(&server, "GET", "/notes/a", &[("if-none-match", tag)]).await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(again.header("etag"), tag);
    assert_eq!(put(&[("if-match", tag)]).await, 204);
    assert_eq!(put(&[("if-match", tag)]).await, 412);
    assert_eq!(put(&[("if-match", "7")]).await, 400);
    assert_eq!(put(&[]).await, 204);
}

#[tokio::test]
async fn handler_knows_its_mount_and_its_client() {
    let server = server().await;
    let forged = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "192.0.2.1"),
        ("host", "own.test"),
    ];
    let seen = send(&server, "GET", "/where", &forged)
        .await
        .expect(200)
        .json();
    let expected = [
        "/a/shop",
        "http",
        "own.test",
        "127.0.0.1",
        "http://own.test/a/shop/x?y",
    ];
    assert_eq!(seen, json!(expected));

    let options = ServerOptions {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..ServerOptions::default()
    };
    let server = Server::with_options(options).await;
    server.deployed("shop", wasm("web")).await;
    let seen: Value = send(&server, "GET", "/where", &forged)
        .await
        .expect(200)
        .json();
    let expected = [
        "/a/shop",
        "https",
        "own.test",
        "192.0.2.1",
        "https://own.test/a/shop/x?y",
    ];
    assert_eq!(seen, json!(expected));
}
