//! A handler that replays all dead letters, and changes what it watches.

use super::scenarios::set;
use super::{ORIGIN, StepCall, deploy, on_harness, on_host};
use crate::event_host::EventHost;
use kvasm_guest::kv;
use kvasm_guest::testing::Harness;
use kvasm_tests::guests::wasm;

/// The number of runs of the handler that succeed: one for each depth.
const RUNS: i64 = 8;

/// A change whose handler fails at once, each time: once and after each replay fewer than ten times,
/// after which a host pauses its trigger.
fn failing() -> StepCall {
    ("steps", vec![set("watched", "w1", "permanent")])
}

fn begin() -> StepCall {
    ("steps", vec![set("replaying", "k", "0")])
}

fn assert_ended(runs: i64, replays: i64, letters: usize) {
    assert_eq!(runs, RUNS);
    // If it has failed again before the next run, that run has replayed it again.
    assert!((1..=RUNS).contains(&replays), "{replays} replays");
    assert_eq!(letters, 2, "it, and the event at depth 9");
}

#[test]
fn handlers_that_replay_each_others_letters_come_to_an_end() {
    let mut harness = Harness::new();
    on_harness(&mut harness, &failing());
    assert_eq!(harness.settle().dead.len(), 1);
    on_harness(&mut harness, &begin());
    harness.settle();
    let count = |collection: &str, key: &str| {
        let value = kv::collection(collection).get::<i64>(key);
        value.expect("a count").unwrap_or_default()
    };
    assert_ended(
        count("replaying", "k"),
        count("counts", "replays"),
        harness.dead_letters().len(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_replay_each_others_letters_come_to_an_end_on_a_host() {
    let host = EventHost::sqlite().await;
    deploy(&host, wasm("conformance"), ORIGIN).await;
    on_host(&host, &failing()).await;
    host.wait_until_idle().await;
    on_host(&host, &begin()).await;
    host.wait_until_idle().await;
    let count = async |collection: &str, key: &str| -> i64 {
        let value = host.get(collection, key).await.expect("a count");
        serde_json::from_slice(value.as_bytes()).expect("a number")
    };
    assert_ended(
        count("replaying", "k").await,
        count("counts", "replays").await,
        host.dead_letters().await.len(),
    );
}
