//! The orders example: a total for each customer, a bug, its dead letters, the fix.

use super::event_host::{EventHost, until};
use kvasm::model::DeadReason;
use kvasm_tests::guests::{of_each_release, wasm};
use serde_json::json;

async fn place(stage: &EventHost, id: &str, customer: &str, cents: u32) {
    let order = json!({ "id": id, "customer": customer, "cents": cents });
    stage.call("place", order.to_string()).await;
}

async fn total(stage: &EventHost, customer: &str) -> i64 {
    let output = stage.call("total", json!(customer).to_string()).await;
    serde_json::from_slice(&output).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_follow_new_orders() {
    for wasm in of_each_release("orders") {
        totals_follow(wasm).await;
    }
}

async fn totals_follow(orders: Vec<u8>) {
    let stage = EventHost::sqlite().await;
    stage.deploy(orders).await;
    let names: Vec<_> = stage
        .triggers()
        .await
        .iter()
        .map(|t| t.name.to_string())
        .collect();
    assert_eq!(names, ["count", "tidy"]);
    for n in 0..20 {
        place(
            &stage,
            &n.to_string(),
            if n % 2 == 0 { "ada" } else { "bob" },
            n,
        )
        .await;
    }
    stage.wait_until_idle().await;
    assert_eq!(
        (total(&stage, "ada").await, total(&stage, "bob").await),
        (90, 100)
    );
    stage.call("cancel", "\"19\"").await;
    stage.wait_until_idle().await;
    assert_eq!(total(&stage, "bob").await, 81);
    assert!(stage.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_delivery_is_dead_lettered_and_replayed_after_a_fix() {
    let stage = EventHost::sqlite().await;
    stage.deploy(wasm("orders_bug")).await;
    place(&stage, "good", "ada", 5).await;
    place(&stage, "free", "ada", 0).await;
    until("the delivery is dead", async || {
        !stage.dead_letters().await.is_empty()
    })
    .await;
    assert_eq!(total(&stage, "ada").await, 5);
    let [letter] = stage.dead_letters().await.try_into().unwrap();
    assert_eq!(
        (letter.reason, letter.attempts),
        (DeadReason::Deterministic, 3)
    );
    let (version, _) = letter.plugin.unwrap();
    assert_eq!(version.0, 1);
    // The message and the location of the panic, which the SDK logs before the trap.
    let error = &letter.error;
    assert!(error.starts_with("the plugin panicked at "), "{error}");
    assert!(error.contains("src/lib.rs:"), "{error}");
    assert!(letter.trace.unwrap().contains("0:"), "where it trapped");
    assert_eq!(stage.call("stuck", "").await, b"[\"free\"]");
    // The fix, and the missed event.
    stage.deploy(wasm("orders")).await;
    // The failed version is deleted, and its module with it.
    let (actor, app) = (stage.host.operator("a test"), stage.app().await);
    let admin = stage.host.admin();
    admin.delete_plugin(&actor, &app, version).await.unwrap();
    stage.replay().await;
    stage.wait_until_idle().await;
    assert!(stage.dead_letters().await.is_empty());
    assert_eq!(stage.call("stuck", "").await, b"[]");
    assert!(stage.get("counted", "free").await.is_some());
    assert_eq!(total(&stage, "ada").await, 5);
}
