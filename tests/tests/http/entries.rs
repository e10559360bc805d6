//! Entries, their export and import, logs, and the audit log.

use kvasm_tests::guests::{module, wasm};
use kvasm_tests::server::{Server, answer, eventually};
use serde_json::json;

const ENTRY: &str = "/v1/apps/shop/kv/entry?collection=c&key=";

#[tokio::test]
async fn entry_preconditions_are_enforced() {
    let server = Server::start().await;
    server.app("shop", false).await;
    let api = &server.root;
    let put = async |name: &str, value: &str| {
        let request = api.request("PUT", &format!("{ENTRY}k")).header(name, value);
        answer(request.json(&json!({ "n": 1 }))).await
    };
    let made = put("if-none-match", "*").await.expect(200);
    put("if-none-match", "*")
        .await
        .expect_problem(412, "precondition-failed");
    let tag = made.header("etag").to_owned();
    put("if-match", "\"999999\"")
        .await
        .expect_problem(412, "precondition-failed");
    let second = put("if-match", &tag).await.expect(200);
    assert_ne!(second.header("etag"), tag);
    put("if-match", "7")
        .await
        .expect_problem(400, "invalid-argument");
    let read = api.get(&format!("{ENTRY}k")).await.expect(200);
    assert_eq!(read.json(), json!({ "n": 1 }));
    assert_eq!(read.header("etag"), second.header("etag"));
    assert_eq!(read.header("content-type"), "application/json");
    let stale = api
        .request("DELETE", &format!("{ENTRY}k"))
        .header("if-match", &tag);
    answer(stale)
        .await
        .expect_problem(412, "precondition-failed");
    api.send("DELETE", &format!("{ENTRY}k")).await.expect(204);
    api.send("DELETE", &format!("{ENTRY}k"))
        .await
        .expect_problem(404, "entry-not-found");
    api.get(&format!("{ENTRY}k"))
        .await
        .expect_problem(404, "entry-not-found");
    // Any text is a valid key.
    for key in ["..", "%2F%2e", "%20", "%F0%9F%A6%80"] {
        let path = format!("{ENTRY}{key}");
        let bytes = api
            .bytes("PUT", &path, "application/octet-stream", vec![0, 255])
            .await;
        bytes.expect(200);
        let read = api.get(&path).await.expect(200);
        assert_eq!(
            (read.body.as_slice(), read.header("content-type")),
            (&[0, 255][..], "application/octet-stream")
        );
    }
    let short = api
        .bytes(
            "PUT",
            &format!("{ENTRY}t&ttl_ms=1"),
            "application/json",
            "1",
        )
        .await;
    short.expect(200);
    let gone = async || api.get(&format!("{ENTRY}t")).await.status == 404;
    eventually("the entry has expired", gone).await;
}

#[tokio::test]
async fn export_can_be_imported_in_arbitrary_chunks() {
    let server = Server::start().await;
    server.app("shop", false).await;
    server.app("copy", false).await;
    let api = &server.root;
    for n in 0..700 {
        let line = json!({ "collection": format!("c{}", n % 3), "key": format!("k{n}"), "json": { "n": n } });
        let line = format!("{line}\n");
        if n == 0 {
            api.bytes("POST", "/v1/apps/shop/kv/import", "application/jsonl", line)
                .await
                .expect(200);
            continue;
        }
        let path = format!("/v1/apps/shop/kv/entry?collection=c{}&key=k{n}", n % 3);
        api.json("PUT", &path, json!({ "n": n })).await.expect(200);
    }
    let exported = api.get("/v1/apps/shop/kv/export").await.expect(200);
    assert_eq!(exported.lines().len(), 700);
    // In chunks that end anywhere in a line.
    let parts: Vec<_> = exported
        .body
        .chunks(37)
        .map(|part| Ok::<_, std::io::Error>(part.to_vec()))
        .collect();
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    let done = api
        .bytes("POST", "/v1/apps/copy/kv/import", "application/jsonl", body)
        .await;
    assert_eq!(
        done.expect(200).json(),
        json!({ "imported": 700, "expired": 0 })
    );
    assert_eq!(api.keys("copy", "c1").await.len(), 100);
    let one = api
        .get("/v1/apps/copy/kv/export?collection=c1")
        .await
        .expect(200);
    assert_eq!(one.lines().len(), 233);
    let bad = "{\"collection\":\"c\",\"key\":\"a\",\"json\":1}\nno\n";
    let bad = api
        .bytes("POST", "/v1/apps/copy/kv/import", "application/jsonl", bad)
        .await;
    bad.expect_problem(400, "malformed-line");
    assert!(
        bad.text().contains("1 entries were imported, then: line 2"),
        "{}",
        bad.text()
    );
}

#[tokio::test]
async fn every_change_adds_an_audit_row() {
    let server = Server::start().await;
    let api = &server.root;
    api.json(
        "POST",
        "/v1/apps",
        json!({ "name": "shop", "public": true }),
    )
    .await
    .expect(201);
    api.json("PATCH", "/v1/apps/shop", json!({ "public": false }))
        .await
        .expect(200);
    api.json("PUT", "/v1/apps/shop/limits", json!({}))
        .await
        .expect(200);
    api.upload("shop", module("", "(i32.const 0)"))
        .await
        .expect(201);
    api.upload("shop", module("x", "(i32.const 0)"))
        .await
        .expect(201);
    api.send("POST", "/v1/apps/shop/rollback").await.expect(200);
    api.send("POST", "/v1/apps/shop/plugins/2/activate")
        .await
        .expect(200);
    api.send("DELETE", "/v1/apps/shop/plugins/1")
        .await
        .expect(204);
    api.json("PUT", &format!("{ENTRY}k"), json!(1))
        .await
        .expect(200);
    api.send("DELETE", &format!("{ENTRY}k")).await.expect(204);
    let token = json!({ "name": "ci", "scopes": ["app:read"] });
    let made = api
        .json("POST", "/v1/apps/shop/tokens", token)
        .await
        .expect(201)
        .json();
    let id = made["token"]["id"].as_str().unwrap();
    api.send("DELETE", &format!("/v1/apps/shop/tokens/{id}"))
        .await
        .expect(204);
    api.send("DELETE", "/v1/apps/shop").await.expect(204);
    let audit = api.get("/v1/audit").await.expect(200).json();
    let rows = audit["audit"].as_array().unwrap();
    let actions: Vec<_> = rows
        .iter()
        .rev()
        .map(|row| row["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "token.bootstrap",
            "app.create",
            "app.update",
            "app.limits",
            "plugin.upload",
            "plugin.upload",
            "plugin.rollback",
            "plugin.activate",
            "plugin.delete",
            "kv.set",
            "kv.delete",
            "token.create",
            "token.revoke",
            "app.delete",
        ]
    );
    assert!(
        rows[..rows.len() - 1]
            .iter()
            .all(|row| row["actor"] == "bootstrap" && row["app"] == "shop")
    );
    let secret = made["secret"].as_str().unwrap();
    assert!(
        !audit
            .to_string()
            .contains(secret.rsplit('_').next().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followed_log_ends_when_the_server_stops() {
    let server = Server::start().await;
    let log = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 5))) (i32.const 0)";
    server.deployed("shop", module("hello", log)).await;
    server.anonymous().call("shop", "run", "").await.expect(200);
    let following = server
        .root
        .request("GET", "/v1/apps/shop/logs?follow=true")
        .send();
    let mut following = following.await.unwrap();
    let first = following.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("hello"));
    let called = server.anonymous().call("shop", "run", "").await.expect(200);
    let second = following.chunk().await.unwrap().unwrap();
    let second: serde_json::Value = serde_json::from_slice(&second).unwrap();
    assert_eq!(second["request_id"], called.header("x-request-id"));
    server.begin_stop();
    assert_eq!(following.chunk().await.unwrap(), None);
}

/// The log ends immediately, not when the token is next checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followed_log_ends_when_its_app_is_deleted() {
    let server = Server::start().await;
    let log = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 5))) (i32.const 0)";
    server.deployed("shop", module("hello", log)).await;
    server.anonymous().call("shop", "run", "").await.expect(200);
    let path = "/v1/apps/shop/logs?follow=true";
    let mut following = server.root.request("GET", path).send().await.unwrap();
    let first = following.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("hello"));
    server
        .root
        .send("DELETE", "/v1/apps/shop")
        .await
        .expect(204);
    assert_eq!(following.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn plugin_serves_http() {
    let server = Server::start().await;
    server.deployed("shop", wasm("shortener")).await;
    let api = server.anonymous();
    let put = api
        .bytes(
            "PUT",
            "/a/shop/rust",
            "text/plain",
            "https://www.rust-lang.org/",
        )
        .await;
    put.expect(201);
    let redirect = api.get("/a/shop/rust").await.expect(302);
    assert_eq!(redirect.header("location"), "https://www.rust-lang.org/");
    assert_eq!(api.send("HEAD", "/a/shop/rust").await.body, b"");
    assert_eq!(
        api.get("/a/shop").await.expect(200).json()["links"][0]["slug"],
        "rust"
    );
    api.get("/a/shop/absent").await.expect(404);
    // The HTTP handler is not callable as a function.
    api.call("shop", "handle", "")
        .await
        .expect_problem(404, "function-not-found");
    assert_eq!(
        api.call("shop", "stats", "").await.expect(200).json()["links"],
        1
    );
}
