//! An app's log: filters, and how long it can be followed.

use kvasm::model::{Scope, Timestamp};
use kvasm_tests::guests::module;
use kvasm_tests::server::Server;
use serde_json::Value;
use std::time::Duration;

const LOGS: &str = "/v1/apps/shop/logs";
/// Logs "hello" at level info.
const SAY: &str = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 5))) (i32.const 0)";

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_are_filtered_by_request_level_and_time() {
    let server = Server::start().await;
    server.deployed("shop", module("hello", SAY)).await;
    let mut requests = Vec::new();
    for _ in 0..3 {
        let called = server.anonymous().call("shop", "run", "").await.expect(200);
        requests.push(called.header("x-request-id").to_owned());
    }
    let found = async |query: &str| {
        let answer = server.root.get(&format!("{LOGS}?{query}")).await;
        lines(&answer.expect(200).text())
    };
    assert_eq!(found("").await.len(), 3);
    let of_request = found(&format!("request={}", requests[1])).await;
    assert_eq!(of_request.len(), 1);
    assert_eq!(of_request[0]["request_id"], requests[1]);
    assert_eq!(found("level=info").await.len(), 3);
    assert_eq!(found("level=warn").await.len(), 0);
    let last = of_request[0]["at"].as_i64().unwrap();
    assert!(found(&format!("since={last}")).await.len() >= 2);
    assert_eq!(found("since=9999999999999").await.len(), 0);
    assert_eq!(
        found(&format!("level=trace&limit=1&request={}", requests[0]))
            .await
            .len(),
        1
    );
    for bad in ["request=x", "level=loud", "since=yesterday"] {
        let refused = server.root.get(&format!("{LOGS}?{bad}")).await;
        refused.expect_problem(400, "invalid-argument");
    }
}

/// A followed log checks its token repeatedly, and so its expiry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followed_log_ends_when_its_token_expires() {
    let server = Server::start().await;
    let app = server.deployed("shop", module("hello", SAY)).await;
    server.anonymous().call("shop", "run", "").await.expect(200);
    let soon = Timestamp::now().plus_ms(3_000);
    let token = server
        .token(Some(&app), &[Scope::LogRead], Some(soon))
        .await;
    let reader = server.root.with_token(Some(token));
    let following = reader.request("GET", &format!("{LOGS}?follow=true"));
    let mut following = following.send().await.unwrap();
    let first = following.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("hello"));
    // Blank lines until the stream ends.
    let to_the_end = async {
        while let Some(part) = following.chunk().await.unwrap() {
            assert_eq!(part, "\n");
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), to_the_end).await;
    ended.expect("it ends with the token");
    assert!(Timestamp::now() >= soon);
}
