//! A handler's own declaration of its retries, and what its dead letters say.

use super::event_host::{EventHost, until};
use kvasm::model::DeadReason;
use kvasm_tests::guests::wasm;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_declares_its_attempts_and_reads_its_dead_letters() {
    let stage = EventHost::sqlite().await;
    stage.deploy(wasm("web")).await;
    let [trigger] = stage.triggers().await.try_into().unwrap();
    assert_eq!(trigger.policy.attempts_max, 1);
    assert_eq!(trigger.policy.age_max, Duration::from_secs(3_600));
    stage.set("jobs", "a", "\"no more paper\"").await;
    stage.set("jobs", "b", "\"panic\"").await;
    until("both are dead", async || {
        stage.dead_letters().await.len() == 2
    })
    .await;
    for letter in stage.dead_letters().await {
        let reason = match letter.error.contains("no more paper") {
            true => DeadReason::Attempts,
            false => DeadReason::Deterministic,
        };
        assert_eq!((letter.attempts, letter.reason), (1, reason));
    }
    let letters = stage.call("letters", "").await;
    let letters: Vec<String> = serde_json::from_slice(&letters).unwrap();
    let found = |text: &str| letters.iter().find(|letter| letter.contains(text));
    assert!(found("no more paper").is_some(), "{letters:?}");
    // The message and the place.
    let panic = found("paper jam").unwrap();
    assert!(panic.contains("src/lib.rs:"), "{panic}");
}
