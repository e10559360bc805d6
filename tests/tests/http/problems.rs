//! Requests that are not as they should be.

use kvasm::model::Limits;
use kvasm_tests::guests::module;
use kvasm_tests::server::{Server, answer};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn unknown_routes_and_methods() {
    let server = Server::start().await;
    for path in [
        "/",
        "/v1",
        "/v1/apps/",
        "/v2/apps",
        "/a",
        "/a/",
        "/v1/apps/x/kv",
        "/admin",
    ] {
        let answer = server.root.get(path).await;
        assert_eq!(answer.status / 100, 4, "{path}");
        answer.problem();
    }
    server
        .root
        .get("/nothing")
        .await
        .refused(404, "route-not-found");
    for method in ["POST", "DELETE", "OPTIONS", "FROB"] {
        let answer = server.root.send(method, "/healthz").await;
        answer.refused(405, "method-not-allowed");
    }
}

#[tokio::test]
async fn the_requests_id_goes_in_and_out() {
    let server = Server::start().await;
    let given = "0190b2a4-7a5d-7cc1-8000-0123456789ab";
    let ask = |id: &str| {
        answer(
            server
                .root
                .ask("GET", "/v1/apps")
                .header("x-request-id", id),
        )
    };
    assert_eq!(ask(given).await.header("x-request-id"), given);
    let other = ask("../../etc/passwd").await;
    assert!(!other.header("x-request-id").contains("etc"));
    server.app("shop", true).await;
    let made = server
        .root
        .ask("POST", "/v1/apps")
        .header("x-request-id", given);
    answer(made.json(&json!({ "name": "new" })))
        .await
        .expect(201);
    let audit = server
        .root
        .get("/v1/apps/new/audit")
        .await
        .expect(200)
        .json();
    assert_eq!(audit["audit"][0]["request_id"], given);
}

#[tokio::test]
async fn bodies_that_are_not_what_they_say() {
    let server = Server::start().await;
    let api = &server.root;
    let post = async |body: &'static str| {
        api.bytes("POST", "/v1/apps", "application/json", body)
            .await
    };
    for bad in [
        "",
        "{",
        "[]",
        "{\"name\":1}",
        "{\"name\":\"x\",\"publik\":true}",
        "\u{feff}{}",
        "null",
    ] {
        post(bad).await.refused(400, "malformed-json");
    }
    let deep = "[".repeat(60_000);
    let deep = api
        .bytes("POST", "/v1/apps", "application/json", deep)
        .await;
    deep.refused(400, "malformed-json");
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(70_000));
    let long = api
        .bytes("POST", "/v1/apps", "application/json", long)
        .await;
    long.refused(413, "body-too-large");
    let form = api
        .bytes(
            "POST",
            "/v1/apps",
            "application/x-www-form-urlencoded",
            "name=x",
        )
        .await;
    form.refused(415, "unsupported-media-type");
    for name in ["", "..", "../x", "a/b", "A", "ä", "a\u{0}", "shop "] {
        let answer = api.json("POST", "/v1/apps", json!({ "name": name })).await;
        answer.refused(400, "invalid-argument");
    }
}

#[tokio::test]
async fn names_in_paths_reach_nothing_else() {
    let server = Server::start().await;
    server.deployed("shop", module("", "(i32.const 0)")).await;
    for name in [
        "%2e%2e",
        "..%2fshop",
        "shop%00",
        "sh%6fp%2f",
        "%ff",
        "shöp",
        "SHOP",
        "shop%20",
    ] {
        for target in [format!("/v1/apps/{name}/usage"), format!("/a/{name}/x")] {
            let head = format!(
                "GET {target} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {}\r\n\r\n",
                server.root.secret()
            );
            let answer = server.raw(head.as_bytes()).await;
            assert!(
                matches!(answer.status, 400 | 404),
                "{target}: {}",
                answer.status
            );
        }
    }
    // Percent-encoding of an unreserved character is the same name in a path.
    server.root.get("/v1/apps/%73hop").await.expect(200);
    let long = format!("/v1/apps/{}", "a".repeat(9_000));
    server.root.get(&long).await.refused(414, "uri-too-long");
    let unknown = server.root.get("/v1/apps?limitt=3").await;
    unknown.refused(400, "invalid-argument");
    server
        .root
        .get("/v1/apps?limit=1001")
        .await
        .refused(400, "invalid-argument");
    for function in ["absent", "ünï", "a%2Fb"] {
        let answer = server.root.call("shop", function, "").await;
        answer.refused(404, "function-not-found");
    }
    server
        .root
        .get("/a/shop/")
        .await
        .refused(404, "no-http-handler");
}

#[tokio::test]
async fn a_plugins_failures_are_told_apart_and_tell_no_more_than_they_should() {
    let server = Server::with(|builder| {
        // On a busy machine a second of computing takes long.
        builder.limits(Limits {
            wall_time: Duration::from_secs(60),
            ..Limits::default()
        })
    })
    .await;
    let fails = module(
        "oh no",
        "(drop (call $output_write (i32.const 0) (i32.const 5))) (i32.const 1)",
    );
    server.deployed("fails", fails).await;
    let failed = server.anonymous().call("fails", "run", "").await;
    failed.refused(500, "plugin-failed");
    assert_eq!(failed.json()["detail"], "oh no");
    let refuses = module(
        "no cents",
        "(drop (call $output_write (i32.const 0) (i32.const 8))) (i32.const 3)",
    );
    server.deployed("refuses", refuses).await;
    let refused = server.anonymous().call("refuses", "run", "").await;
    refused.refused(422, "input-refused");
    assert_eq!(refused.json()["detail"], "no cents");
    server.deployed("traps", module("", "unreachable")).await;
    let trapped = server.anonymous().call("traps", "run", "").await;
    trapped.refused(500, "plugin-trapped");
    assert!(
        !trapped.text().contains("unreachable"),
        "{}",
        trapped.text()
    );
    let logs = server
        .root
        .get("/v1/apps/traps/logs")
        .await
        .expect(200)
        .lines();
    assert_eq!(logs[0]["source"], "host");
    assert_eq!(logs[0]["request_id"], trapped.header("x-request-id"));
    assert!(logs[0]["message"].as_str().unwrap().contains("unreachable"));
    server
        .deployed("loops", module("", "(loop $l (br $l)) (i32.const 0)"))
        .await;
    let looped = server.anonymous().call("loops", "run", "").await;
    looped.refused(504, "plugin-timeout");
}
