//! Configuration values and secrets of an app.

use crate::openapi::{OF_A_SHOP, document, operations};
use kvasm::service::Keyring;
use kvasm::store::MemoryStore;
use kvasm_store_testing::faulty::{FaultyStore, Operation, failed, unavailable};
use kvasm_tests::guests::{manifest, module, module_with, wasm};
use kvasm_tests::server::{ApiResponse, Server, answer};
use serde_json::{Value, json};
use std::sync::Arc;

const SECRET: &str = "correct-horse-battery-staple";
/// Its base64 form, without the last byte.
const BASE64: &str = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBs";

async fn put(server: &Server, path: &str, kind: &str, body: impl Into<Vec<u8>>) -> ApiResponse {
    let path = format!("/v1/apps/shop/{path}");
    let request = server.root.request("PUT", &path);
    answer(request.header("content-type", kind).body(body.into())).await
}

async fn shop() -> Server {
    let server = Server::start().await;
    server.app("shop", false).await;
    server
}

async fn list(server: &Server, path: &str) -> Value {
    let target = format!("/v1/apps/shop/{path}");
    let page = server.root.get(&target);
    page.await.expect(200).json()[path].clone()
}

#[tokio::test]
async fn config_values_can_be_set_listed_and_removed() {
    let server = shop().await;
    assert_eq!(list(&server, "config").await, json!([]));
    for (name, value) in [("b", "1"), ("a", "ä\n"), ("b", "")] {
        let path = format!("config/{name}");
        put(&server, &path, "text/plain; charset=utf-8", value)
            .await
            .expect(204);
    }
    let all = list(&server, "config").await;
    assert_eq!(
        (&all[0]["name"], &all[0]["value"]),
        (&json!("a"), &json!("ä\n"))
    );
    assert_eq!(
        (&all[1]["name"], &all[1]["value"]),
        (&json!("b"), &json!(""))
    );
    let remove = async || server.root.send("DELETE", "/v1/apps/shop/config/b").await;
    remove().await.expect(204);
    remove().await.expect_problem(404, "config-not-found");
    assert_eq!(list(&server, "config").await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn secrets_are_listed_by_name_only() {
    let server = shop().await;
    for (name, kind) in [("key", "application/octet-stream"), ("a", "text/plain")] {
        let path = format!("secrets/{name}");
        put(&server, &path, kind, SECRET).await.expect(204);
    }
    put(
        &server,
        "secrets/bytes",
        "application/octet-stream",
        [0, 0xff],
    )
    .await
    .expect(204);
    let all = list(&server, "secrets").await;
    let names: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["name"])
        .collect();
    assert_eq!(names, ["a", "bytes", "key"]);
    let fields: Vec<_> = all[0].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["name", "updated_at"]);
    let remove = async || {
        server
            .root
            .send("DELETE", "/v1/apps/shop/secrets/key")
            .await
    };
    remove().await.expect(204);
    remove().await.expect_problem(404, "secret-not-found");
    server
        .root
        .send("DELETE", "/v1/apps/shop/config/a")
        .await
        .expect_problem(404, "config-not-found");
}

#[tokio::test]
async fn invalid_settings_are_refused() {
    let server = shop().await;
    let text = "text/plain";
    for path in [
        "config/a%20b",
        "secrets/a%2Fb",
        &format!("config/{}", "n".repeat(65)),
    ] {
        put(&server, path, text, SECRET)
            .await
            .expect_problem(400, "invalid-argument");
    }
    for bad in [b"a\0b".as_slice(), b"\xff"] {
        put(&server, "config/a", text, bad)
            .await
            .expect_problem(400, "invalid-argument");
    }
    let json = put(&server, "config/a", "application/json", "{}").await;
    json.expect_problem(415, "unsupported-media-type");
    for path in ["config/a", "secrets/a"] {
        let long = "x".repeat(16 * 1024 + 1);
        put(&server, path, text, long)
            .await
            .expect_problem(413, "body-too-large");
        put(&server, path, text, "x".repeat(16 * 1024))
            .await
            .expect(204);
    }
    let mut answers = Vec::new();
    for number in 0..20 {
        let path = format!("config/n{number}");
        answers.push(put(&server, &path, text, "x".repeat(16 * 1024)).await);
    }
    let last = answers.pop().unwrap();
    assert!(
        last.text().contains("262144 bytes of settings"),
        "{}",
        last.text()
    );
    last.expect_problem(507, "quota-exceeded");
}

#[tokio::test]
async fn host_without_a_key_refuses_secrets_and_says_why() {
    let server = Server::with(|builder| builder.secrets(Keyring::default())).await;
    server.app("shop", false).await;
    let refused = put(&server, "secrets/a", "text/plain", SECRET).await;
    assert!(
        refused.text().contains("KVASM_SECRETS_KEY_FILE"),
        "{}",
        refused.text()
    );
    assert!(!refused.text().contains(SECRET));
    refused.expect_problem(503, "secrets-unavailable");
    assert_eq!(list(&server, "secrets").await, json!([]));
    put(&server, "config/a", "text/plain", "v")
        .await
        .expect(204);
}

/// A plugin that returns the configuration value "n".
pub fn echo_config() -> Vec<u8> {
    let get = "(call $config_get (i32.const 0) (i32.const 1) (i32.const 64) (i32.const 99))";
    let write = format!("(call $output_write (i32.const 64) (i32.wrap_i64 {get}))");
    module("n", &format!("(drop {write}) (i32.const 0)"))
}

#[tokio::test]
async fn next_call_sees_a_change_that_was_acknowledged() {
    let server = Server::start().await;
    server.deployed("shop", echo_config()).await;
    for round in 0..20 {
        let value = format!("value {round}");
        put(&server, "config/n", "text/plain", value.clone())
            .await
            .expect(204);
        let answer = server.root.call("shop", "run", "").await.expect(200);
        assert_eq!(answer.text(), value);
    }
}

/// Values of both sizes: those that fit the SDK's first buffer, and longer ones.
#[tokio::test]
async fn sdk_plugin_reads_configuration_values() {
    let server = Server::start().await;
    server.deployed("shop", wasm("sdk")).await;
    let call = async || server.root.call("shop", "settings", "").await;
    assert_eq!(call().await.expect(200).json(), json!([null, null]));
    for currency in [String::new(), "x".repeat(16 * 1024)] {
        for (path, body) in [
            ("config/currency", currency.as_str()),
            ("config/retries", "3"),
        ] {
            put(&server, path, "text/plain", body).await.expect(204);
        }
        let read = call().await.expect(200).json();
        assert_eq!(read, json!([currency, 3]));
    }
    put(&server, "config/retries", "text/plain", "many")
        .await
        .expect(204);
    let failed = call().await;
    let text = failed.text();
    assert!(text.contains("the configuration value retries"), "{text}");
    failed.expect_problem(500, "plugin-failed");
}

/// Calls of an app without settings, or of a plugin that reads none, do not notice.
#[tokio::test]
async fn call_fails_with_503_if_the_settings_cannot_be_read() {
    let (store, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
    let server = Server::over(store, None).await;
    server.deployed("shop", echo_config()).await;
    let idle = r#"(module (memory (export "memory") 1)
        (func (export "run") (result i32) (i32.const 0)))"#;
    let idle = wat::parse_str(idle).unwrap();
    server.deployed("without-reads", idle).await;
    server.deployed("without-settings", echo_config()).await;
    for path in ["shop", "without-reads"] {
        let path = format!("/v1/apps/{path}/config/n");
        let set = server.root.bytes("PUT", &path, "text/plain", "v").await;
        set.expect(204);
    }
    faults.on(Operation::Settings).fail(unavailable);
    let refused = server.root.call("shop", "run", "").await;
    refused.expect_problem(503, "store-unavailable");
    for app in ["without-reads", "without-settings"] {
        let answer = server.root.call(app, "run", "").await;
        assert_ne!(answer.status, 503, "{app}: {}", answer.text());
    }
    faults.clear();
    faults.on(Operation::Settings).fail(failed);
    let broken = server.root.call("shop", "run", "").await;
    broken.expect_problem(500, "internal");
    faults.clear();
    let answer = server.root.call("shop", "run", "").await.expect(200);
    assert_eq!(answer.text(), "v");
}

/// Every route that returns something, after a secret was set and refused in every way.
#[tokio::test]
async fn no_response_contains_a_secret() {
    let server = shop().await;
    let mut answers = Vec::new();
    for (path, kind, body) in [
        ("secrets/n", "text/plain", SECRET.to_owned()),
        ("secrets/n", "text/plain", SECRET.repeat(1000)),
        ("secrets/n", "application/json", format!("{{{SECRET:?}}}")),
        ("secrets/n%20", "text/plain", SECRET.to_owned()),
        // An administrator who mistakes the one for the other.
        ("config/n", "text/plain", format!("{SECRET}\0")),
    ] {
        answers.push(put(&server, path, kind, body).await);
    }
    assert_eq!(answers[0].status, 204);
    // A plugin that traps, or fails, once it has read the secret.
    for end in ["unreachable", "(i32.const 1)"] {
        let get =
            "(drop (call $secret_get (i32.const 0) (i32.const 1) (i32.const 64) (i32.const 99)))";
        let declared = manifest(&[
            r#"{"kind":"function","name":"run"}"#,
            r#"{"kind":"secret","name":"n"}"#,
        ]);
        let wasm = module_with("n", &declared, &format!("{get} {end}"));
        let grants = json!({ "grants": [{ "kind": "secret", "name": "n" }] });
        let granted = server.root.json("POST", "/v1/apps/shop/grants", grants);
        granted.await.expect(200);
        server.root.upload("shop", wasm).await.expect(201);
        let failed = server.root.call("shop", "run", "").await;
        assert_eq!(failed.status, 500, "{}", failed.text());
        answers.push(failed);
    }
    let operations = operations(&document(&server.root).await);
    let reads = operations
        .iter()
        .filter(|operation| operation.method == "GET");
    let reads: Vec<_> = reads.collect();
    assert!(reads.len() > 20, "only {} routes were found", reads.len());
    for operation in reads {
        let mut parameters = OF_A_SHOP.to_vec();
        parameters.push(("path", "x"));
        let target = operation.target(&parameters);
        answers.push(server.root.get(&target).await);
    }
    let audit = server.root.get("/v1/apps/shop/audit").await;
    let row = &audit.json()["audit"][0];
    assert!(audit.text().contains("secret.set"), "{row}");
    answers.push(audit);
    let hex = hex(SECRET.as_bytes());
    for answer in answers {
        let shown = format!("{} {:?}", answer.text(), answer.headers);
        for form in [SECRET, &hex, BASE64] {
            assert!(!shown.contains(form), "{}: {shown}", answer.request);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}
