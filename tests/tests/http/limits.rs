//! Quotas and rates, and how the API reports them.

use kvasm::model::ENTRY_BYTES;
use kvasm_tests::guests::module;
use kvasm_tests::server::{Server, eventually};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

fn limits(entries: Value, bytes: Value, rate: Value, at_once: Value) -> Value {
    json!({ "entries": entries, "bytes": bytes, "calls_per_second": rate, "calls_at_once": at_once })
}

async fn set(server: &Server, limits: Value) {
    let answer = server
        .root
        .json("PUT", "/v1/apps/shop/limits", limits)
        .await;
    answer.expect(200);
}

/// Two entries whose names and values total 20 bytes.
const QUOTA: u64 = 2 * ENTRY_BYTES + 20;
const PUT: &str = "/v1/apps/shop/kv/entry?collection=c&key=";

#[tokio::test]
async fn quota_applies_to_administrators_and_plugins() {
    let server = Server::start().await;
    // Sets the entry `c`/`k` to 1 and returns the status.
    let guest = module(
        "ck1",
        "(i32.wrap_i64 (i64.sub (i64.const 0) (call $kv_set (i32.const 0) (i32.const 1)
           (i32.const 1) (i32.const 1) (i32.const 2) (i32.const 1) (i32.const 0) (i32.const 0))))",
    );
    server.deployed("shop", guest).await;
    set(
        &server,
        limits(json!(2), json!(QUOTA), Value::Null, Value::Null),
    )
    .await;
    let api = &server.root;
    let put = async |key: &str, value: &str| {
        let path = format!("{PUT}{key}");
        api.bytes("PUT", &path, "application/octet-stream", value.to_owned())
            .await
    };
    put("a", "12345678").await.expect(200);
    put("b", "123456789")
        .await
        .expect_problem(507, "quota-exceeded");
    put("b", "12345678").await.expect(200);
    put("a", "123456789")
        .await
        .expect_problem(507, "quota-exceeded");
    let usage = api.get("/v1/apps/shop/usage").await.expect(200).json();
    assert_eq!(
        (&usage["entries"], &usage["bytes"]),
        (&json!(2), &json!(QUOTA))
    );
    assert_eq!(usage["limits"]["bytes"], json!(QUOTA));
    // The guest gets QUOTA, which is -6.
    let refused = api.call("shop", "run", "").await;
    refused.expect_problem(500, "plugin-failed");
    assert!(
        server
            .host
            .metrics()
            .encode()
            .contains("outcome=\"failed\"} 1")
    );
    api.send("DELETE", &format!("{PUT}a")).await.expect(204);
    let usage = api.get("/v1/apps/shop/usage").await.expect(200).json();
    assert_eq!(
        (&usage["entries"], &usage["bytes"]),
        (&json!(1), &json!(ENTRY_BYTES + 10))
    );
    set(
        &server,
        limits(json!(1), json!(5), Value::Null, Value::Null),
    )
    .await;
    // Over the quota, writes that do not add are accepted.
    put("b", "1").await.expect(200);
}

#[tokio::test]
async fn calls_over_the_rate_get_retry_after() {
    let server = Server::start().await;
    server.deployed("shop", module("", "(i32.const 0)")).await;
    server.deployed("other", module("", "(i32.const 0)")).await;
    set(
        &server,
        limits(Value::Null, Value::Null, json!(1), Value::Null),
    )
    .await;
    let api = server.anonymous();
    let mut refused = None;
    for _ in 0..50 {
        let asked = Instant::now();
        let answer = api.call("shop", "run", "").await;
        if answer.status == 429 {
            refused = Some((answer, asked.elapsed()));
            break;
        }
        answer.expect(200);
    }
    let (refused, took) = refused.expect("a refusal");
    refused.expect_problem(429, "rate-limited");
    // A client that retries immediately costs others little.
    assert!(took >= Duration::from_millis(100), "{took:?}");
    assert_eq!(refused.header("retry-after"), "1");
    for _ in 0..20 {
        api.call("other", "run", "").await.expect(200);
    }
    set(
        &server,
        limits(Value::Null, Value::Null, Value::Null, Value::Null),
    )
    .await;
    for _ in 0..20 {
        api.call("shop", "run", "").await.expect(200);
    }
    let zero = limits(Value::Null, Value::Null, Value::Null, json!(0));
    let zero = server.root.json("PUT", "/v1/apps/shop/limits", zero).await;
    zero.expect_problem(400, "invalid-argument");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_wait_in_a_limited_queue() {
    let server = Server::with(|builder| builder.queue(2)).await;
    // Sleeps for a second.
    let text = r#"(module (import "wasi_snapshot_preview1" "poll_oneoff"
        (func $poll (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 2)
      (func (export "run") (result i32)
        (i32.store (i32.const 1040) (i32.const 1)) (i64.store (i32.const 1048) (i64.const 1000000000))
        (drop (call $poll (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 4096)))
        (i32.const 0)))"#;
    server.deployed("shop", wat::parse_str(text).unwrap()).await;
    server.deployed("other", module("", "(i32.const 0)")).await;
    set(
        &server,
        limits(Value::Null, Value::Null, Value::Null, json!(1)),
    )
    .await;
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        let api = server.anonymous();
        calls.spawn(async move { api.call("shop", "run", "").await.status });
    }
    let queued = async || {
        server
            .host
            .metrics()
            .encode()
            .contains("kvasm_admission_queue 2")
    };
    eventually("two calls in the queue", queued).await;
    let refused = server.anonymous().call("shop", "run", "").await;
    refused.expect_problem(429, "rate-limited");
    server
        .anonymous()
        .call("other", "run", "")
        .await
        .expect(200);
    assert_eq!(calls.join_all().await, [200, 200, 200]);
}

/// Writes with tokens add audit rows, which do not count against the quota.
#[tokio::test]
async fn entry_writes_count_against_the_app_rate() {
    let server = Server::start().await;
    server.app("shop", true).await;
    set(
        &server,
        limits(Value::Null, Value::Null, json!(2), Value::Null),
    )
    .await;
    let api = &server.root;
    let mut refused = None;
    for _ in 0..1_000 {
        let path = format!("{PUT}a");
        let answer = api
            .bytes("PUT", &path, "application/octet-stream", "1")
            .await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("more than two a second");
    assert!(!refused.header("retry-after").is_empty());
    refused.expect_problem(429, "rate-limited");
    // Reads do not count as writes.
    api.get("/v1/apps/shop/kv/entry?collection=c&key=a")
        .await
        .expect(200);
}
