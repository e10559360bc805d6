//! Parts of a run that a guest makes a transaction.

use super::event_host::{EventHost, manifest, until};
use kvasm::model::{Batch, Collection, Commit, Key, Op, Timestamp, Value};
use kvasm::store::{MemoryStore, Store};
use kvasm::{Host, InvokeError};
use kvasm_abi::{PROVISIONAL_VERSION_MIN, Status, TRANSACTIONS_MAX};
use kvasm_tests::guests::{meanwhile, module_importing, wasm};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const FUNCTION: &str = r#"{"kind":"function","name":"run"}"#;
const TRANSACTION: &str = r#"{"kind":"function","name":"run","transaction":true}"#;
const BEGIN: &str = "(call $transaction_begin)";
const COMMIT: &str = "(call $transaction_commit)";
const DROP: &str = "(call $transaction_drop)";

/// Counts one more under a key of one letter in the collection "c".
fn count(key: char) -> String {
    format!(
        "(call $kv_increment (i32.const 0) (i32.const 1) (i32.const {}) (i32.const 1)
            (i64.const 1) (i32.const 900))",
        "cabm".find(key).unwrap()
    )
}

/// Appends what a call returns to the output, as 8 bytes.
fn told(call: &str) -> String {
    format!(
        "(i64.store (i32.const 64) {call}) (drop (call $output_write (i32.const 64) (i32.const 8)))"
    )
}

fn all(calls: &[&str]) -> String {
    calls.iter().map(|call| told(call)).collect()
}

/// A plugin whose function `run` has this body. The call of `$meanwhile` returns 0.
fn plugin(declaration: &str, body: &str) -> Vec<u8> {
    let import = "(import \"test_v1\" \"meanwhile\" (func $meanwhile (result i64)))";
    let section = manifest(&[declaration]);
    module_importing(import, "cabm", &section, &format!("{body} (i32.const 0)"))
}

fn answers(output: &[u8]) -> Vec<i64> {
    let (answers, rest) = output.as_chunks();
    assert!(rest.is_empty());
    answers
        .iter()
        .map(|answer| i64::from_le_bytes(*answer))
        .collect()
}

/// A host on which `$meanwhile` changes the entry "a" of "c" to 100, `times` times.
async fn stage(times: u32) -> EventHost {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (other, left) = (Arc::clone(&store), Arc::new(AtomicU32::new(times)));
    let builder = meanwhile(Host::builder(), move |app| {
        let (other, left) = (Arc::clone(&other), Arc::clone(&left));
        async move {
            let counted = |left: u32| left.checked_sub(1);
            let more = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, counted);
            if more.is_ok() {
                let set = Op::Set {
                    collection: Collection::parse("c").unwrap(),
                    key: Key::parse("a").unwrap(),
                    value: Value::json("100", 8).unwrap(),
                    expires_at: None,
                };
                let commit = Commit::new(app, Timestamp::now(), Batch::of(vec![set]));
                other.commit(commit).await.unwrap();
            }
            0_i64
        }
    });
    EventHost::with_builder(builder, store, Box::new(())).await
}

/// Runs a plugin with this body. Returns its answers, and the entries "a", "b" and "m".
async fn run(declaration: &str, body: &str, meanwhile: u32) -> (Vec<i64>, [Option<String>; 3]) {
    let stage = stage(meanwhile).await;
    stage.deploy(plugin(declaration, body)).await;
    let answers = answers(&stage.call("run", "").await);
    (answers, entries(&stage).await)
}

async fn entries(stage: &EventHost) -> [Option<String>; 3] {
    [
        stage.get("c", "a").await,
        stage.get("c", "b").await,
        stage.get("c", "m").await,
    ]
}

fn some(numbers: [u32; 3]) -> [Option<String>; 3] {
    numbers.map(|number| (number > 0).then(|| number.to_string()))
}

#[tokio::test]
async fn committed_part_takes_effect_and_a_dropped_one_does_not() {
    let body = all(&[
        BEGIN,
        &count('a'),
        &count('b'),
        COMMIT,
        BEGIN,
        &count('m'),
        &count('a'),
        DROP,
    ]);
    let (answers, entries) = run(FUNCTION, &body, 0).await;
    assert_eq!(entries, some([1, 1, 0]));
    assert_eq!(
        [answers[0], answers[3], answers[4], answers[7]],
        [1, 0, 1, 0]
    );
    assert!(answers[1] > PROVISIONAL_VERSION_MIN as i64);
}

#[tokio::test]
async fn nested_part_is_undone_alone() {
    let body = all(&[
        BEGIN,
        &count('a'),
        BEGIN,
        &count('a'),
        &count('b'),
        DROP,
        &count('m'),
        BEGIN,
        &count('m'),
        COMMIT,
        COMMIT,
    ]);
    let (answers, entries) = run(FUNCTION, &body, 0).await;
    assert_eq!(entries, some([1, 0, 2]));
    assert_eq!([answers[0], answers[2], answers[7]], [1, 2, 2]);
    // No provisional version is assigned twice.
    let versions = [1, 3, 4, 6, 8].map(|at: usize| answers[at]);
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
}

/// In a function that is a transaction, the parts are parts of it.
#[tokio::test]
async fn part_of_a_transactional_function_joins_it() {
    let body = all(&[
        BEGIN,
        &count('a'),
        COMMIT,
        BEGIN,
        &count('b'),
        DROP,
        &count('m'),
    ]);
    let (answers, entries) = run(TRANSACTION, &body, 0).await;
    assert_eq!(entries, some([1, 0, 1]));
    assert_eq!([answers[0], answers[2], answers[3]], [2, 0, 2]);
    // Its failure undoes the committed part too.
    let stage = stage(0).await;
    let failed = format!(
        "{} (return (i32.const 1))",
        all(&[BEGIN, &count('a'), COMMIT])
    );
    stage.deploy(plugin(TRANSACTION, &failed)).await;
    stage.try_call("run", "").await.unwrap_err();
    assert_eq!(self::entries(&stage).await, some([0, 0, 0]));
}

#[tokio::test]
async fn conflict_writes_nothing_and_the_repetition_succeeds() {
    let attempt = [BEGIN, &count('a'), &count('b'), "(call $meanwhile)", COMMIT];
    let body = all(&[&attempt[..], &attempt[..]].concat());
    let (answers, entries) = run(FUNCTION, &body, 1).await;
    let conflict = Status::Conflict.code();
    assert_eq!([answers[4], answers[9]], [conflict, 0]);
    assert_eq!(entries, some([101, 1, 0]));
}

/// What it has read may be why it was dropped.
#[tokio::test]
async fn drop_reports_that_a_read_is_no_longer_current() {
    let attempt = [BEGIN, &count('a'), "(call $meanwhile)", DROP];
    let body = all(&[&attempt[..], &attempt[..]].concat());
    let (answers, entries) = run(FUNCTION, &body, 1).await;
    let conflict = Status::Conflict.code();
    assert_eq!([answers[3], answers[7]], [conflict, 0]);
    assert_eq!(entries, some([100, 0, 0]));
}

#[tokio::test]
async fn wrong_calls_are_rejected() {
    let invalid = Status::Invalid.code();
    let (answers, _) = run(FUNCTION, &all(&[COMMIT, DROP]), 0).await;
    assert_eq!(answers, [invalid; 2]);
    let deep = [BEGIN; TRANSACTIONS_MAX + 1];
    let body = all(&[&deep[..], &[COMMIT; TRANSACTIONS_MAX + 1]].concat());
    let (answers, _) = run(FUNCTION, &body, 0).await;
    assert_eq!(answers, [1, 2, 3, 4, invalid, 0, 0, 0, 0, invalid]);
    let (answers, _) = run(TRANSACTION, &body, 0).await;
    assert_eq!(
        answers,
        [2, 3, 4, invalid, invalid, 0, 0, 0, invalid, invalid]
    );
    let fetch = "(call $http_fetch (i32.const 0) (i32.const 8) (i32.const 0) (i32.const 0))";
    let (answers, _) = run(FUNCTION, &all(&[BEGIN, fetch, DROP]), 0).await;
    assert_eq!(answers, [1, invalid, 0]);
}

/// It fails, instead of losing the writes silently.
#[tokio::test]
async fn transaction_left_open_fails_the_call() {
    for (declaration, kept) in [(FUNCTION, 1), (TRANSACTION, 0)] {
        let stage = stage(0).await;
        let body = all(&[&count('a'), BEGIN, &count('b')]);
        stage.deploy(plugin(declaration, &body)).await;
        let failed = stage.try_call("run", "").await.unwrap_err();
        assert!(failed.to_string().contains("without ending"), "{failed}");
        assert!(matches!(failed, InvokeError::Call(_)));
        assert_eq!(entries(&stage).await, some([kept, 0, 0]));
    }
}

#[tokio::test]
async fn trap_inside_leaves_what_was_written_before() {
    let stage = stage(0).await;
    let body = format!("{} unreachable", all(&[&count('a'), BEGIN, &count('b')]));
    stage.deploy(plugin(FUNCTION, &body)).await;
    stage.try_call("run", "").await.unwrap_err();
    assert_eq!(entries(&stage).await, some([1, 0, 0]));
}

/// The deadline ends a guest that repeats a transaction forever.
#[tokio::test]
async fn endless_repetition_ends_at_the_deadline() {
    let stage = stage(u32::MAX).await;
    let attempt = all(&[BEGIN, &count('a'), "(call $meanwhile)", COMMIT]);
    let body = format!("(loop $again {attempt} (br $again))");
    stage.deploy(plugin(FUNCTION, &body)).await;
    stage.try_call("run", "").await.unwrap_err();
    assert_eq!(entries(&stage).await, some([100, 0, 0]));
}

async fn increments_of(stage: EventHost) {
    const CALLERS: u64 = 16;
    const CALLS: u64 = 8;
    const FUNCTIONS: [(&str, &str); 4] = [
        ("count_in_part", ""),
        ("count_by_call", ""),
        ("count_by_update", ""),
        ("count_both", "1"),
    ];
    let stage = Arc::new(stage);
    stage.deploy(wasm("sdk")).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move {
                for _ in 0..CALLS {
                    for (function, input) in FUNCTIONS {
                        stage.call(function, input).await;
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let sum = (CALLERS * CALLS * FUNCTIONS.len() as u64).to_string();
    for key in ["one", "other"] {
        assert_eq!(stage.get("parts", key).await, Some(sum.clone()));
    }
}

/// A part of a call, a transactional function that the plugin calls and one that the host calls, and
/// updates of one entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost_among_concurrent_callers() {
    increments_of(EventHost::sqlite().await).await;
    let [one, _other] = EventHost::two_on_postgres().await;
    increments_of(one).await;
}

/// A handler's run is a transaction already: the parts join it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_of_a_handler_joins_its_run() {
    let mut stage = stage(0).await;
    stage.start();
    let watch = r#"{"kind":"on_change","name":"run","collection":"w"}"#;
    let body = all(&[BEGIN, &count('a'), COMMIT, BEGIN, &count('b'), DROP]);
    stage.deploy(plugin(watch, &body)).await;
    stage.set("w", "k", "1").await;
    until("it has run", async || stage.get("c", "a").await.is_some()).await;
    stage.wait_until_idle().await;
    assert_eq!(entries(&stage).await, some([1, 0, 0]));
}
