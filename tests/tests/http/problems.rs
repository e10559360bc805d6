//! Invalid requests.

use crate::openapi::{OF_A_SHOP, document, operations};
use kvasm::model::{Limits, Scope};
use kvasm_tests::guests::module;
use kvasm_tests::server::{Server, answer};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn unknown_routes_and_methods_are_rejected() {
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
        .expect_problem(404, "route-not-found");
    for method in ["POST", "DELETE", "OPTIONS", "FROB"] {
        let answer = server.root.send(method, "/healthz").await;
        answer.expect_problem(405, "method-not-allowed");
    }
}

#[tokio::test]
async fn request_id_is_accepted_and_returned() {
    let server = Server::start().await;
    let given = "0190b2a4-7a5d-7cc1-8000-0123456789ab";
    let ask = |id: &str| {
        answer(
            server
                .root
                .request("GET", "/v1/apps")
                .header("x-request-id", id),
        )
    };
    assert_eq!(ask(given).await.header("x-request-id"), given);
    let other = ask("../../etc/passwd").await;
    assert!(!other.header("x-request-id").contains("etc"));
    server.app("shop", true).await;
    let made = server
        .root
        .request("POST", "/v1/apps")
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
async fn mismatched_content_types_are_rejected() {
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
        post(bad).await.expect_problem(400, "malformed-json");
    }
    server.app("shop", false).await;
    for bad in ["", "{", "nul", "1 2"] {
        let entry = "/v1/apps/shop/kv/entry?collection=c&key=k";
        let put = api.bytes("PUT", entry, "application/json", bad).await;
        put.expect_problem(400, "malformed-json");
    }
    let deep = "[".repeat(60_000);
    let deep = api
        .bytes("POST", "/v1/apps", "application/json", deep)
        .await;
    deep.expect_problem(400, "malformed-json");
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(70_000));
    let long = api
        .bytes("POST", "/v1/apps", "application/json", long)
        .await;
    long.expect_problem(413, "body-too-large");
    let form = api
        .bytes(
            "POST",
            "/v1/apps",
            "application/x-www-form-urlencoded",
            "name=x",
        )
        .await;
    form.expect_problem(415, "unsupported-media-type");
    for name in ["", "..", "../x", "a/b", "A", "ä", "a\u{0}", "shop "] {
        let answer = api.json("POST", "/v1/apps", json!({ "name": name })).await;
        answer.expect_problem(400, "invalid-argument");
    }
}

#[tokio::test]
async fn path_names_cannot_escape_their_resource() {
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
    // A percent-encoded unreserved character in a path is the same name.
    server.root.get("/v1/apps/%73hop").await.expect(200);
    let long = format!("/v1/apps/{}", "a".repeat(9_000));
    server
        .root
        .get(&long)
        .await
        .expect_problem(414, "uri-too-long");
    let unknown = server.root.get("/v1/apps?limitt=3").await;
    unknown.expect_problem(400, "invalid-argument");
    server
        .root
        .get("/v1/apps?limit=1001")
        .await
        .expect_problem(400, "invalid-argument");
    for function in ["absent", "ünï", "a%2Fb"] {
        let answer = server.root.call("shop", function, "").await;
        answer.expect_problem(404, "function-not-found");
    }
    server
        .root
        .get("/a/shop/")
        .await
        .expect_problem(404, "no-http-handler");
}

#[tokio::test]
async fn plugin_failures_map_to_problems_without_details() {
    let server = Server::with(|builder| {
        // On a busy machine a second of CPU time takes long.
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
    failed.expect_problem(500, "plugin-failed");
    assert!(!failed.text().contains("oh no"), "{}", failed.text());
    let refuses = module(
        "no cents",
        "(drop (call $output_write (i32.const 0) (i32.const 8))) (i32.const 3)",
    );
    server.deployed("refuses", refuses).await;
    let refused = server.anonymous().call("refuses", "run", "").await;
    refused.expect_problem(422, "input-refused");
    assert_eq!(refused.json()["detail"], "no cents");
    let app = server.deployed("traps", module("", "unreachable")).await;
    let trapped = server.anonymous().call("traps", "run", "").await;
    trapped.expect_problem(500, "plugin-trapped");
    assert!(
        !trapped.text().contains("unreachable"),
        "{}",
        trapped.text()
    );
    let absent = server.anonymous().call("traps", "absent", "").await;
    absent.expect_problem(404, "function-not-found");
    assert!(!absent.text().contains("run"), "{}", absent.text());
    // Callers without the scope log:read are no different from the public; those with it see all.
    let writer = server
        .client(Some(&app), &[Scope::ScriptRead, Scope::ScriptWrite])
        .await;
    let trapped = writer.call("traps", "run", "").await;
    assert!(!trapped.text().contains("unreachable"));
    let reader = server.client(Some(&app), &[Scope::LogRead]).await;
    let trapped = reader.call("traps", "run", "").await;
    trapped.expect_problem(500, "plugin-trapped");
    let detail = trapped.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("unreachable") && detail.contains("0: "),
        "{detail}"
    );
    let absent = reader.call("traps", "absent", "").await;
    let detail = absent.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.ends_with("it has run"), "{detail}");
    let logs = server
        .root
        .get("/v1/apps/traps/logs")
        .await
        .expect(200)
        .lines();
    let id = trapped.header("x-request-id");
    let line = logs.iter().find(|line| line["request_id"] == id).unwrap();
    assert_eq!(line["source"], "host");
    assert!(line["message"].as_str().unwrap().contains("unreachable"));
    server
        .deployed("loops", module("", "(loop $l (br $l)) (i32.const 0)"))
        .await;
    let looped = server.anonymous().call("loops", "run", "").await;
    looped.expect_problem(504, "plugin-timeout");
}

/// A value that does not fit a schema, and the description of what it accepts.
fn invalid_value(schema: &Value) -> Option<(&'static str, String)> {
    let is = |name: &str| match &schema["type"] {
        Value::Array(types) => types.iter().any(|found| found == name),
        found => found == name,
    };
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
        return Some(("abc", words.join(", ")));
    }
    if schema["format"] == "uuid" {
        return Some(("abc", "a UUID".to_owned()));
    }
    if is("boolean") {
        return Some(("abc", "true or false".to_owned()));
    }
    let bounds = || format!("from {} to {}", schema["minimum"], schema["maximum"]);
    is("integer").then(|| ("abc", bounds()))
}

/// For every route, the answer names the invalid parameter, its value, and the expected type.
#[tokio::test]
async fn invalid_parameter_reports_name_value_and_expected_type() {
    let server = Server::start().await;
    server.deployed("shop", module("", "(i32.const 0)")).await;
    let refused = async |method: &str, target: &str| {
        let refused = server.root.send(method, target).await;
        refused.expect_problem(400, "invalid-argument");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(!detail.contains("deserialize"), "{target}: {detail}");
        assert!(!detail.contains("Invalid URL"), "{target}: {detail}");
        detail
    };
    let mut seen = 0;
    for operation in operations(&document(&server.root).await) {
        if operation.path.starts_with("/a/") {
            continue;
        }
        let target = operation.target(&OF_A_SHOP);
        let and = if target.contains('?') { '&' } else { '?' };
        for parameter in operation.parameters("query") {
            let name = parameter["name"].as_str().unwrap();
            if parameter["required"] == true {
                let without = target.replace(&format!("{name}=x"), "");
                let detail = refused(&operation.method, &without).await;
                assert!(detail.contains(&format!("{name:?}")), "{detail}");
            }
            let Some((value, takes)) = invalid_value(&parameter["schema"]) else {
                continue;
            };
            let bad = format!("{target}{and}{name}={value}");
            let detail = refused(&operation.method, &bad).await;
            let says = format!("the parameter {name:?} is \"abc\"; it must be ");
            assert!(detail.starts_with(&says), "{bad}: {detail}");
            assert!(detail.ends_with(&takes), "{bad}: {detail}");
            seen += 1;
        }
        for parameter in operation.parameters("path") {
            let name = parameter["name"].as_str().unwrap();
            let Some((value, takes)) = invalid_value(&parameter["schema"]) else {
                continue;
            };
            let at = OF_A_SHOP
                .iter()
                .position(|(known, _)| *known == name)
                .unwrap();
            let mut values = OF_A_SHOP;
            values[at].1 = value;
            let detail = refused(&operation.method, &operation.target(&values)).await;
            assert!(detail.contains(&format!("{name:?} is \"abc\"")), "{detail}");
            assert!(detail.ends_with(&takes), "{detail}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
    // Text that only the handler can validate.
    for target in [
        "/v1/apps?after=A%20b",
        "/v1/apps/shop/kv/collections?after=",
        "/v1/apps/shop/kv/list?collection=c&cursor=..",
        "/v1/apps/shop/deliveries?after=x",
    ] {
        let detail = refused("GET", target).await;
        assert!(
            detail.contains("of the previous page"),
            "{target}: {detail}"
        );
    }
    // The value given for an id may be a secret.
    let detail = refused("DELETE", "/v1/tokens/kvasm_1_2").await;
    assert!(
        detail.contains("\"token\"") && !detail.contains("kvasm"),
        "{detail}"
    );
    let between = "/v1/apps/shop/dead-letters?from=7&until=3";
    let detail = refused("GET", between).await;
    assert!(detail.contains('7') && detail.contains('3'), "{detail}");
}

/// On every route: bodies are read as they are, so an encoded body is rejected rather than
/// misread.
#[tokio::test]
async fn content_encoding_is_rejected() {
    let server = Server::start().await;
    server.deployed("shop", module("", "(i32.const 0)")).await;
    let mut seen = 0;
    for operation in operations(&document(&server.root).await) {
        if operation.path.starts_with("/a/") || operation.json["requestBody"].is_null() {
            continue;
        }
        let target = operation.target(&[("app", "shop"), ("function", "run"), ("name", "n")]);
        let types = operation.json["requestBody"]["content"].as_object();
        let content_type = types.and_then(|types| types.keys().next()).unwrap();
        for coding in ["gzip", "GZIP", "br", "identity, gzip", "zstd, identity"] {
            let request = server.root.request(&operation.method, &target);
            let request = request.header("content-type", content_type);
            let request = request.header("content-encoding", coding).body("{}");
            let refused = answer(request).await;
            refused.expect_problem(415, "unsupported-content-encoding");
            assert_eq!(refused.header("accept-encoding"), "identity");
            assert!(refused.text().contains("identity"), "{}", refused.text());
        }
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
    for (target, coding, status) in [
        ("/v1/apps/shop/call/run", "identity", 200),
        ("/v1/apps/shop/call/run", "Identity, identity", 200),
        ("/v1/apps/shop/call/run", "", 200),
        // A plugin sees the header and decides; this one has no handler.
        ("/a/shop/x", "gzip", 404),
    ] {
        let request = server.root.request("POST", target).body("{}");
        answer(request.header("content-encoding", coding))
            .await
            .expect(status);
    }
}

#[tokio::test]
async fn token_errors_explain_the_cause() {
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    let api = server.client(Some(&app), &[Scope::AppAdmin]).await;
    for path in ["/v1/tokens", "/v1/apps/shop/tokens"] {
        let new = json!({ "name": "t", "scopes": [] });
        let refused = server.root.json("POST", path, new).await;
        refused.expect_problem(400, "invalid-argument");
        assert!(
            refused.text().contains("at least 1 scope"),
            "{}",
            refused.text()
        );
    }
    for (refused, scope, extent) in [
        (api.get("/v1/tokens").await, "instance:admin", "every app"),
        (
            api.json("POST", "/v1/apps", json!({ "name": "x" })).await,
            "app:admin",
            "every app",
        ),
        (api.get("/v1/apps/shop/logs").await, "log:read", "this app"),
    ] {
        refused.expect_problem(403, "forbidden");
        let says = format!("this call needs the scope {scope} for {extent},");
        assert!(refused.text().contains(&says), "{}", refused.text());
    }
}
