//! Users who change the same app concurrently do not overwrite each other's changes.

use kvasm::model::{AppName, Scope};
use kvasm_tests::server::{ApiResponse, Server, answer};
use reqwest::Body;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMITS: &str = "/v1/apps/shop/limits";

/// A request of which the head and half the body are sent.
struct PartialRequest {
    stream: TcpStream,
    rest: String,
}

impl PartialRequest {
    /// Sends a request except the end of its body, and waits until the server reads the body:
    /// with `Expect: 100-continue` it requests the body once it has found the app and checked
    /// the token.
    async fn begin(server: &Server, head: &str, token: &str, body: &str) -> PartialRequest {
        PartialRequest::begin_with(server, head, "", token, body).await
    }

    /// The same, with more headers.
    async fn begin_with(
        server: &Server,
        head: &str,
        headers: &str,
        token: &str,
        body: &str,
    ) -> PartialRequest {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let length = body.len();
        let head = format!(
            "{head} HTTP/1.1\r\nhost: localhost\r\n{headers}authorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\
             expect: 100-continue\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut asked = [0; 25];
        let asks = stream.read_exact(&mut asked);
        tokio::time::timeout(Duration::from_secs(60), asks)
            .await
            .expect("the server asks for the body")
            .unwrap();
        assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
        let (begun, rest) = body.split_at(length / 2);
        stream.write_all(begun.as_bytes()).await.unwrap();
        PartialRequest {
            stream,
            rest: rest.to_owned(),
        }
    }

    /// Sends the rest. Returns the status, and the body if it is JSON.
    async fn end(mut self) -> (u16, Value) {
        self.stream.write_all(self.rest.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        let read = self.stream.read_to_end(&mut text);
        tokio::time::timeout(Duration::from_secs(60), read)
            .await
            .expect("an answer")
            .unwrap();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }
}

async fn limits(server: &Server) -> Value {
    server.root.get(LIMITS).await.expect(200).json()
}

/// The actions of the app's audit log with their details, oldest first.
async fn audit(server: &Server, app: &str) -> Vec<(String, Value)> {
    let path = format!("/v1/apps/{app}/audit");
    let audit = server.root.get(&path).await.expect(200).json();
    let rows = audit["audit"].as_array().unwrap().iter().rev();
    let shown = |row: &Value| {
        let action = row["action"].as_str().unwrap().to_owned();
        (action, row["detail"].clone())
    };
    rows.map(shown).collect()
}

/// A tenant's slow `PATCH`, sent around the operator's `PUT` of the limits.
#[tokio::test]
async fn slow_patch_does_not_overwrite_newer_limits() {
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    let tenant = server.client(Some(&app), &[Scope::AppAdmin]).await;
    let patch = r#"{"public": true}"#;
    let slow = PartialRequest::begin(&server, "PATCH /v1/apps/shop", tenant.secret(), patch).await;
    let put = json!({ "entries": 10, "bytes": 2000, "calls_per_second": 3, "calls_at_once": 4 });
    server
        .root
        .json("PUT", LIMITS, put.clone())
        .await
        .expect(200);
    let (status, shown) = slow.end().await;
    // The answer shows the current state, not the one read before the body.
    assert_eq!(
        (status, &shown["public"], &shown["limits"]),
        (200, &json!(true), &put)
    );
    assert_eq!(limits(&server).await, put);
    let expected = [
        ("app.limits".to_owned(), put),
        ("app.update".to_owned(), json!({ "public": true })),
    ];
    // After the app's creation and the tenant's token.
    let rows = audit(&server, "shop").await;
    assert_eq!(rows[2..], expected);
}

/// The reverse: a slow `PUT` of limits does not make an app public again.
#[tokio::test]
async fn slow_limits_put_does_not_overwrite_tenant_changes() {
    let server = Server::start().await;
    server.app("shop", true).await;
    for (method, body) in [
        (
            "PUT",
            r#"{"entries": 5, "bytes": null, "calls_per_second": null, "calls_at_once": null}"#,
        ),
        ("PATCH", r#"{"entries": 6}"#),
    ] {
        let head = format!("{method} {LIMITS}");
        let slow = PartialRequest::begin(&server, &head, server.root.secret(), body).await;
        let private = json!({ "public": false });
        server
            .root
            .json("PATCH", "/v1/apps/shop", private)
            .await
            .expect(200);
        let (status, shown) = slow.end().await;
        assert_eq!((status, &shown["public"]), (200, &json!(false)));
        let public = json!({ "public": true });
        server
            .root
            .json("PATCH", "/v1/apps/shop", public)
            .await
            .expect(200);
    }
}

/// A request that was authorised for one app does not affect another app of the same name.
#[tokio::test]
async fn slow_request_does_not_reach_a_recreated_app() {
    let server = Server::start().await;
    let name = AppName::parse("shop").unwrap();
    let all_limits =
        r#"{"entries": 5, "bytes": null, "calls_per_second": null, "calls_at_once": null}"#;
    for (head, body) in [
        ("PATCH /v1/apps/shop", r#"{"public": true}"#),
        ("PUT /v1/apps/shop/limits", all_limits),
        ("PATCH /v1/apps/shop/limits", r#"{"entries": 5}"#),
        ("PUT /v1/apps/shop/triggers/t", r#"{"collection": "c"}"#),
        (
            "POST /v1/apps/shop/tokens",
            r#"{"name": "x", "scopes": ["app:read"]}"#,
        ),
        (
            "POST /v1/apps/shop/dead-letters/discard",
            r#"{"all": true}"#,
        ),
    ] {
        for again in [false, true] {
            server.app("shop", false).await;
            let slow = PartialRequest::begin(&server, head, server.root.secret(), body).await;
            server
                .root
                .send("DELETE", "/v1/apps/shop")
                .await
                .expect(204);
            if again {
                server.app("shop", false).await;
            }
            let (status, problem) = slow.end().await;
            assert_eq!(status, 404, "{head}");
            assert_eq!(problem["type"], "urn:kvasm:problem:app-not-found", "{head}");
            if again {
                let app = server.host.app(&name).await.unwrap().unwrap();
                assert_eq!((app.public, app.limits), (false, Default::default()));
                assert!(
                    server
                        .host
                        .store()
                        .triggers(app.id)
                        .await
                        .unwrap()
                        .is_empty()
                );
                assert_eq!(audit(&server, "shop").await.len(), 1, "{head}");
                server
                    .root
                    .send("DELETE", "/v1/apps/shop")
                    .await
                    .expect(204);
            }
        }
    }
}

/// Two operators who change different limits of an app do not overwrite each other; one who
/// changes what both have read is rejected, with `If-Match`.
#[tokio::test]
async fn concurrent_operator_changes_do_not_overwrite_each_other() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let api = &server.root;
    let with = async |method: &str, body: Value, tag: &str| -> ApiResponse {
        let request = api.request(method, LIMITS).header("if-match", tag);
        let request = request.header("content-type", "application/json");
        answer(request.body(Body::from(body.to_string()))).await
    };
    let tag = |answer: ApiResponse| {
        let answer = answer.expect(200);
        answer.headers["etag"].to_str().unwrap().to_owned()
    };
    let first = tag(api.get(LIMITS).await);
    assert_eq!(tag(api.get(LIMITS).await), first);

    // Different limits, without reading the other's change.
    let (one, two) = (
        json!({ "entries": 10 }),
        json!({ "bytes": 2000, "calls_at_once": null }),
    );
    let (head, body) = (format!("PATCH {LIMITS}"), two.to_string());
    let slow = PartialRequest::begin(&server, &head, api.secret(), &body).await;
    let answered = api.json("PATCH", LIMITS, one.clone()).await;
    let second = tag(answered);
    assert_eq!(slow.end().await.0, 200);
    let both = json!({
        "entries": 10, "bytes": 2000, "calls_per_second": null, "calls_at_once": null,
    });
    assert_eq!(limits(&server).await, both);

    // The same limits, after reading: earlier ETags no longer match.
    for old in [&first, &second] {
        assert_ne!(*old, tag(api.get(LIMITS).await));
        let refused = with("PATCH", json!({ "entries": 11 }), old).await;
        refused.expect_problem(412, "precondition-failed");
        let refused = with("PUT", both.clone(), old).await;
        refused.expect_problem(412, "precondition-failed");
    }
    let current = tag(api.get(LIMITS).await);
    let answered = with("PUT", both.clone(), &current).await;
    assert_eq!(tag(answered), current, "the same limits");
    let answered = with("PATCH", json!({ "entries": 11 }), &current).await;
    assert_eq!(answered.json()["limits"]["entries"], 11);
    assert_eq!(tag(answered), tag(api.get(LIMITS).await));
    with("PATCH", json!({ "entries": 12 }), "*")
        .await
        .expect(200);

    // The audit log has the changes, and no row for a rejection.
    let rows = audit(&server, "shop").await;
    let details: Vec<_> = rows[1..].iter().map(|(_, detail)| detail.clone()).collect();
    let entries = |n: u64| json!({ "entries": n });
    assert_eq!(details, [one, two, both, entries(11), entries(12)]);
}

/// An ETag that matched when the request began may no longer match at its end.
#[tokio::test]
async fn one_of_two_writers_with_the_same_etag_is_rejected() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let read = server.root.get(LIMITS).await;
    let tag = read.headers["etag"].to_str().unwrap();
    let (head, headers) = (format!("PATCH {LIMITS}"), format!("if-match: {tag}\r\n"));
    let body = r#"{"entries": 1}"#;
    let slow =
        PartialRequest::begin_with(&server, &head, &headers, server.root.secret(), body).await;
    let request = server.root.request("PATCH", LIMITS).header("if-match", tag);
    let request = request.header("content-type", "application/json");
    answer(request.body(r#"{"entries": 2}"#)).await.expect(200);
    let (status, problem) = slow.end().await;
    assert_eq!(
        (status, &problem["type"]),
        (412, &json!("urn:kvasm:problem:precondition-failed"))
    );
    assert_eq!(limits(&server).await["entries"], 2);
}

#[tokio::test]
async fn invalid_limits_are_rejected() {
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    let api = &server.root;
    for bad in [json!({}), json!({ "calls_at_once": 0 })] {
        let answer = api.json("PATCH", LIMITS, bad).await;
        answer.expect_problem(400, "invalid-argument");
    }
    for bad in [
        json!({ "public": true }),
        json!({ "entries": -1 }),
        json!({ "bytes": "1" }),
    ] {
        let answer = api.json("PATCH", LIMITS, bad).await;
        answer.expect_problem(400, "malformed-json");
    }
    for (tag, status, problem) in [
        ("7", 400, "invalid-argument"),
        ("\"", 400, "invalid-argument"),
        // ETags that do not match these limits.
        ("\"a\", \"b\"", 412, "precondition-failed"),
        ("W/\"a\"", 412, "precondition-failed"),
    ] {
        let request = api.request("PATCH", LIMITS).header("if-match", tag);
        let request = request.json(&json!({ "entries": 1 }));
        answer(request).await.expect_problem(status, problem);
    }
    let tenant = server
        .client(Some(&app), &[Scope::AppAdmin, Scope::AppRead])
        .await;
    tenant.get(LIMITS).await.expect(200);
    let mine = tenant
        .json("PATCH", LIMITS, json!({ "entries": null }))
        .await;
    mine.expect_problem(403, "forbidden");
    let nowhere = json!({ "entries": 1 });
    let nowhere = api.json("PATCH", "/v1/apps/nope/limits", nowhere).await;
    nowhere.expect_problem(404, "app-not-found");
}

/// An audit row is small, whatever a request names.
#[tokio::test]
async fn audit_row_size_is_limited() {
    let server = Server::start().await;
    server.app("shop", false).await;
    // Each of these characters is six bytes of JSON.
    let key = "%01".repeat(1024);
    let path = format!("/v1/apps/shop/kv/entry?collection=c&key={key}");
    server.root.json("PUT", &path, json!(1)).await.expect(200);
    let rows = audit(&server, "shop").await;
    let (action, detail) = &rows[1];
    assert_eq!(
        (action.as_str(), &detail["collection"]),
        ("kv.set", &json!("c"))
    );
    assert!(detail.to_string().len() <= 1024);
    assert_eq!(detail["cut"], json!({ "key": 1024 }));
    assert!(
        "\u{1}"
            .repeat(1024)
            .starts_with(detail["key"].as_str().unwrap())
    );
}
