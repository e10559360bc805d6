//! The inbox example: webhooks that are repeated, arrive in the wrong order, or make no sense.

use super::event_host::EventHost;
use kvasm_tests::guests::wasm;
use serde_json::{Value, json};

/// Sends a request to the HTTP handler. Returns the status and the body of its response.
async fn send(stage: &EventHost, method: &str, path: &str, id: &str, body: &str) -> (u64, String) {
    let (head, body) = stage.http(method, path, &[("webhook-id", id)], body).await;
    (head["status"].as_u64().unwrap(), body)
}

async fn post(stage: &EventHost, id: &str, event: &Value) -> u64 {
    let (status, _) = send(stage, "POST", "/events", id, &event.to_string()).await;
    status
}

async fn state(stage: &EventHost, id: &str) -> Value {
    let (_, body) = send(stage, "GET", &format!("/events/{id}"), "", "").await;
    serde_json::from_str(&body).unwrap()
}

/// 16 senders at once, and each event comes from two of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_is_processed_once() {
    const SENDERS: usize = 16;
    const EVENTS: usize = 96;
    let stage = EventHost::sqlite().await;
    stage.deploy(wasm("inbox")).await;
    let paid = json!({ "type": "paid", "account": "ada", "cents": 1 });
    let senders = (0..SENDERS).map(|sender| {
        let (stage, paid) = (&stage, &paid);
        async move {
            let mut queued = 0;
            for id in (sender % 8..EVENTS).step_by(8) {
                let status = post(stage, &id.to_string(), paid).await;
                assert!(matches!(status, 200 | 202), "{status}");
                queued += usize::from(status == 202);
            }
            queued
        }
    });
    let queued = futures_util::future::join_all(senders).await;
    assert_eq!(queued.iter().sum::<usize>(), EVENTS);
    stage.wait_until_idle().await;
    assert_eq!(stage.get("balances", "ada").await.unwrap(), "96");
    assert_eq!(state(&stage, "95").await["state"], "done");
    assert_eq!(post(&stage, "95", &paid).await, 200);
    assert!(stage.all("queue").await.is_empty() && stage.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_event_is_reported_and_replayed() {
    let stage = EventHost::sqlite().await;
    stage.deploy(wasm("inbox")).await;
    let mystery = json!({ "type": "mystery" });
    assert_eq!(post(&stage, "1", &mystery).await, 202);
    stage.wait_until_idle().await;
    let failed = json!({ "state": "failed", "reason": "deterministic", "attempts": 1 });
    assert_eq!(state(&stage, "1").await, failed);
    stage.replay().await;
    stage.wait_until_idle().await;
    assert_eq!(state(&stage, "1").await, failed);
    // Before its payment, a refund fails and is retried.
    let refund = json!({ "type": "refunded", "account": "ada", "cents": 2 });
    let paid = json!({ "type": "paid", "account": "ada", "cents": 5 });
    assert_eq!(post(&stage, "2", &refund).await, 202);
    assert_eq!(post(&stage, "3", &paid).await, 202);
    stage.wait_until_idle().await;
    assert_eq!(stage.get("balances", "ada").await.unwrap(), "3");
}
