//! Additions of transactions under contention.

use super::contention::{CALLERS, assert_no_locks, call_all, on_memory, on_postgres, on_sqlite};
use super::event_host::{EventHost, manifest};
use kvasm_tests::guests::module_with;

/// Adds 1 to the entry "n" and writes an entry whose key is the input.
fn counting() -> Vec<u8> {
    let count = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let body = "(drop (call $input_read (i32.const 0) (i32.const 100) (i32.const 8)))
         (if (i64.lt_s (call $kv_add (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
            (i64.const 1)) (i64.const 0)) (then unreachable))
         (if (i64.lt_s (call $kv_set (i32.const 0) (i32.const 1) (i32.const 100) (i32.const 8)
            (i32.const 100) (i32.const 4) (i32.const 1) (i32.const 0)) (i64.const 0))
            (then unreachable))
         (i32.const 0)";
    module_with("cn", &count, body)
}

/// Transactions of many callers that add to one entry: none is run twice.
async fn count(stages: Vec<EventHost>, each: u64) {
    stages[0].deploy(counting()).await;
    let stages = call_all(stages, each, |_, caller, at| format!("{caller:04}{at:04}")).await;
    assert_eq!(
        stages[0].get("c", "n").await,
        Some((CALLERS * each).to_string())
    );
    for stage in &*stages {
        let metrics = stage.host.metrics().encode();
        let reruns = "kvasm_transaction_reruns_total 0";
        assert!(metrics.lines().any(|line| line == reruns), "{metrics}");
    }
    assert_no_locks(&stages);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_do_not_conflict_on_sqlite() {
    count(vec![on_sqlite().await], 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_do_not_conflict_on_two_hosts_in_memory() {
    count(on_memory(2).await, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_do_not_conflict_on_two_hosts_on_postgres() {
    count(on_postgres().await, 5).await;
}

/// Like the bank, but each transfer adds to the totals "t" in "a" and in "z", whose keys sort before
/// and after the accounts. The last digit of the input says which of them it also reads.
fn bank_with_totals() -> Vec<u8> {
    let transfer = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let step = |call: String| format!("(if (i64.lt_s {call} (i64.const 0)) (then unreachable))");
    let increment = |c: u32, key: u32, len: u32, by: i32| {
        step(format!(
            "(call $kv_increment (i32.const {c}) (i32.const 1) (i32.const {key}) (i32.const {len})
                (i64.const {by}) (i32.const 200))"
        ))
    };
    let total = |c: u32, digit: u32| {
        let add = step(format!(
            "(call $kv_add (i32.const {c}) (i32.const 1) (i32.const 3) (i32.const 1) (i64.const 1))"
        ));
        let read = increment(c, 3, 1, 1);
        format!(
            "(if (i32.eq (i32.load8_u (i32.const 104)) (i32.const {digit})) (then {read}) (else {add}))"
        )
    };
    let body = format!(
        "(drop (call $input_read (i32.const 0) (i32.const 100) (i32.const 5))) {} {} {} {} (i32.const 0)",
        total(1, 49),
        increment(0, 100, 2, -1),
        increment(0, 102, 2, 1),
        total(2, 50),
    );
    module_with("bazt", &transfer, &body)
}

/// Transfers between few accounts, most of which add to totals that some of them read: those who
/// add wait for those who read, and no wait is endless.
async fn transfer_with_totals(stages: Vec<EventHost>, each: u64) {
    stages[0].deploy(bank_with_totals()).await;
    let stages = call_all(stages, each, |rng, _, _| {
        let (from, to, reads) = (rng.below(2), rng.below(2), rng.below(6));
        format!("{from:02}{to:02}{reads}")
    })
    .await;
    for c in ["a", "z"] {
        assert_eq!(
            stages[0].get(c, "t").await,
            Some((CALLERS * each).to_string())
        );
    }
    assert_no_locks(&stages);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contended_transfers_with_totals_do_not_fail_on_sqlite() {
    transfer_with_totals(vec![on_sqlite().await], 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contended_transfers_with_totals_do_not_fail_on_two_hosts_on_postgres() {
    transfer_with_totals(on_postgres().await, 3).await;
}
