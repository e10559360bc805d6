//! Transactional functions.

use super::event_host::{EventHost, manifest};
use kvasm::model::{AppName, Key, LimitsPatch, Op, Principal, Scope, Value};
use kvasm::store::{MemoryStore, Store};
use kvasm::{Call, CallError, Host, InvokeError};
use kvasm_tests::guests::{self, module_with};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::task::JoinSet;

const TRANSACTION: &str = r#"{"kind":"function","name":"run","transaction":true}"#;
/// The collection "c", the keys "k" and "l", a JSON 1.
const DATA: &str = "ckl1";

fn transaction(body: &str) -> Vec<u8> {
    module_with(DATA, &manifest(&[TRANSACTION]), body)
}

const SET: &str = "(drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
    (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 0)))";
/// Whether "k" exists.
const HAS: &str = "(call $kv_has (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1))";
/// Fails with code 9 unless an i64 has the expected value.
fn expect(value: &str, expected: i64) -> String {
    format!("(if (i64.ne {value} (i64.const {expected})) (then (return (i32.const 9))))")
}

async fn staged(body: &str) -> EventHost {
    let stage = EventHost::sqlite().await;
    stage.deploy(transaction(body)).await;
    stage
}

fn error_of(result: Result<kvasm::Response, InvokeError>) -> CallError {
    match result {
        Err(InvokeError::Call(failure)) => failure.error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_reads_its_own_writes() {
    let delete =
        "(call $kv_delete (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 0))";
    let body = [
        expect(HAS, 0),
        SET.to_owned(),
        expect(HAS, 1),
        expect(delete, 1),
        expect(HAS, 0),
        expect(delete, 0),
        SET.to_owned(),
        "(i32.const 0)".to_owned(),
    ];
    let stage = staged(&body.join(" ")).await;
    stage.call("run", "").await;
    assert_eq!(stage.get("c", "k").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_and_error_roll_back_the_transaction() {
    for end in ["unreachable", "(i32.const 1)", "(loop (br 0)) unreachable"] {
        let stage = staged(&format!("{SET} {end}")).await;
        stage.try_call("run", "").await.unwrap_err();
        assert_eq!(stage.get("c", "k").await, None, "{end}");
    }
    // Without the declaration, the write stays.
    let stage = EventHost::sqlite().await;
    stage
        .deploy(module_with(DATA, "", &format!("{SET} unreachable")))
        .await;
    stage.try_call("run", "").await.unwrap_err();
    assert_eq!(stage.get("c", "k").await.as_deref(), Some("1"));
}

/// Versions from within a run can be used like those of the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provisional_versions_work_as_preconditions_in_their_run() {
    // Options at 64: size 24, mask 2, the version at 80.
    let guarded = "(call $kv_set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
        (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 64))";
    let body = format!(
        "(local $version i64)
         (i32.store (i32.const 64) (i32.const 24)) (i32.store (i32.const 68) (i32.const 2))
         (i64.store (i32.const 80) (i64.const 0))
         (local.set $version {guarded})
         (if (i64.lt_s (local.get $version) (i64.const 0x4000000000000000)) (then (return (i32.const 7))))
         {conflict}
         (i64.store (i32.const 80) (local.get $version))
         (if (i64.lt_s {guarded} (i64.const 0)) (then (return (i32.const 8))))
         {conflict}
         (i32.const 0)",
        conflict = expect(guarded, -2)
    );
    let stage = staged(&body).await;
    stage.call("run", "").await;
    assert_eq!(stage.get("c", "k").await.as_deref(), Some("1"));
}

/// Reads "k" and writes its value plus one under "l" and then under "k".
const COPY: &str = "
    (local $n i32)
    (local.set $n (i32.wrap_i64 (call $kv_get (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
        (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 8))))
    (drop (call $log (i32.const 3) (i32.const 100) (local.get $n)))
    (drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 1) (i64.const 1) (i32.const 200)))
    (drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
        (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 0)))
    (i32.const 0)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicting_run_is_retried_and_its_log_marked_discarded() {
    let stage = Arc::new(staged(COPY).await);
    stage.set("c", "k", "0").await;
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let stage = Arc::clone(&stage);
        callers.spawn(async move {
            let mut done = 0;
            for _ in 0..40 {
                match stage.try_call("run", "").await {
                    Ok(_) => done += 1,
                    Err(error) => {
                        let error = error_of(Err(error));
                        assert!(matches!(error, CallError::Conflict { .. }), "{error}");
                    }
                }
            }
            done
        });
    }
    let done: u32 = callers.join_all().await.into_iter().sum();
    assert_eq!(
        stage.get("c", "l").await,
        Some(done.to_string()),
        "each counted once"
    );
    // Those may have waited for each other. Here the first run must conflict.
    let stage = meanwhile(1).await;
    stage.host.call_keeper().attach();
    stage.call("run", "").await;
    let [call] = stage.recorded().await.try_into().unwrap();
    assert_eq!((&*call.outcome, call.cost.unwrap().runs), ("ok", 2));
    let app = stage.app().await;
    let lines = stage.host.logs().read(app.id, 0, usize::MAX);
    assert!(lines.iter().any(|line| line.discarded), "no run conflicted");
    assert!(lines.iter().any(|line| !line.discarded));
}

/// Logs a line, reads "k", lets another caller write "k" and "l", reads "l", and traps unless
/// both values are the same.
fn reads_twice() -> Vec<u8> {
    let read = |key: u32, out: u32| {
        format!(
            "(i64.store (i32.const {out}) (i64.const 0))
             (drop (call $kv_get (i32.const 0) (i32.const 1) (i32.const {key}) (i32.const 1)
                (i32.const 0) (i32.const 0) (i32.const {out}) (i32.const 8)))"
        )
    };
    let body = format!(
        "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 1)))
         {} (call $meanwhile) {}
         (if (i64.ne (i64.load (i32.const 100)) (i64.load (i32.const 116))) (then unreachable))
         (i32.const 0)",
        read(1, 100),
        read(2, 116)
    );
    let text = format!(
        "(module
            (import \"kvasm_v1\" \"kv_get\"
                (func $kv_get (param i32 i32 i32 i32 i32 i32 i32 i32) (result i64)))
            (import \"kvasm_v1\" \"log\" (func $log (param i32 i32 i32) (result i64)))
            (import \"test_v1\" \"meanwhile\" (func $meanwhile))
            (memory (export \"memory\") 1) (data (i32.const 0) \"{DATA}\") {}
            (func (export \"run\") (result i32) {body}))",
        manifest(&[TRANSACTION])
    );
    wat::parse_str(text).unwrap()
}

/// A host on which "meanwhile" writes both keys in its first `times` calls.
async fn meanwhile(times: u32) -> EventHost {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (of_guest, left) = (Arc::clone(&store), Arc::new(AtomicU32::new(times)));
    let builder = guests::meanwhile(Host::builder(), move |app| {
        let (store, left) = (Arc::clone(&of_guest), Arc::clone(&left));
        async move {
            let count = |left: u32| left.checked_sub(1);
            let left = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
            if let Ok(left) = left {
                let set = |key: &str| Op::Set {
                    collection: super::event_host::collection("c"),
                    key: Key::parse(key).unwrap(),
                    value: Value::json(left.to_string(), 100).unwrap(),
                    expires_at: None,
                };
                guests::write_directly(&store, app, vec![set("k"), set("l")]).await;
            }
        }
    });
    let stage = EventHost::with_builder(builder, store, Box::new(())).await;
    stage.deploy(reads_twice()).await;
    stage
}

#[tokio::test]
async fn trap_after_an_inconsistent_read_is_retried() {
    let stage = meanwhile(1).await;
    stage.call("run", "").await;
    // A run that never gets a consistent view fails with a conflict, not with the trap.
    let stage = meanwhile(u32::MAX).await;
    let error = error_of(stage.try_call("run", "").await);
    assert!(matches!(error, CallError::Conflict { .. }), "{error}");
}

/// Both runs have a cost, of two reads each. The values are read by the second run only.
#[tokio::test]
async fn cost_of_a_rerun_transaction_includes_all_runs() {
    let stage = meanwhile(1).await;
    let cost = stage.try_call("run", "").await.unwrap().cost;
    let reads = (cost.entries_read, cost.bytes_read);
    assert_eq!((cost.runs, reads, cost.host_calls), (2, (4, 3), 6));
    assert_eq!(cost.memory_bytes, 65_536, "of one run at a time");
    // Also if no run succeeds.
    let stage = meanwhile(u32::MAX).await;
    let Err(InvokeError::Call(failure)) = stage.try_call("run", "").await else {
        panic!("each run loses");
    };
    let cost = failure.cost;
    assert!(cost.runs > 1, "{cost:?}");
    // The last run may have been cut off.
    let of_runs = |runs: u32| u64::from(runs) * 2;
    let expected = of_runs(cost.runs - 1)..=of_runs(cost.runs);
    assert!(expected.contains(&cost.entries_read), "{cost:?}");
}

/// A transaction whose commit is refused has run, and has a cost.
#[tokio::test]
async fn uncommitted_transaction_has_a_cost() {
    let stage = staged(&format!("{SET} (i32.const 0)")).await;
    let app = stage.app().await;
    let none = LimitsPatch {
        entries: Some(Some(0)),
        ..LimitsPatch::default()
    };
    let actor = stage.host.operator("test");
    let admin = stage.host.admin();
    admin.set_limits(&actor, &app, none, None).await.unwrap();
    let Err(InvokeError::Call(failure)) = stage.try_call("run", "").await else {
        panic!("the quota allows no entry");
    };
    assert!(matches!(failure.error, CallError::Commit(_)));
    assert_eq!((failure.cost.runs, failure.cost.entries_written), (1, 1));
}

/// A list shows the run's own writes among those of the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_merge_uncommitted_writes_in_key_order() {
    // Deletes "k", writes "l", lists all with a limit of 2, and returns the page.
    let body = "
        (drop (call $kv_delete (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 0)))
        (drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 1)
            (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 0)))
        (i32.store (i32.const 64) (i32.const 52)) (i32.store (i32.const 68) (i32.const 0x10))
        (i32.store (i32.const 104) (i32.const 2))
        (drop (call $output_write (i32.const 1024) (i32.wrap_i64 (call $kv_list
            (i32.const 0) (i32.const 1) (i32.const 64) (i32.const 1024) (i32.const 1024)))))
        (i32.const 0)";
    let stage = staged(body).await;
    for key in ["a", "k", "m", "z"] {
        stage.set("c", key, "0").await;
    }
    let output = stage.call("run", "").await;
    let page = kvasm_abi::Page::decode(&output, false).unwrap();
    let keys: Vec<_> = page
        .entries
        .map(|entry| String::from_utf8_lossy(entry.unwrap().key).into_owned())
        .collect();
    assert_eq!(keys, ["a", "l"], "the deleted entry takes no place");
    assert!(page.cursor.is_some(), "the list continues");
    let all: Vec<_> = stage
        .all("c")
        .await
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(all, ["a", "l", "m", "z"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_checks_apply_within_a_transaction() {
    let stage = staged(&format!("{SET} (i32.wrap_i64 {HAS})")).await;
    let app = stage.app().await;
    for (scopes, has) in [
        (vec![Scope::ScriptRead], 0),
        (vec![Scope::ScriptRead, Scope::ScriptWrite], 1),
    ] {
        let principal = Principal::for_app(app.id, scopes);
        let call = Call::function("run").principal(principal);
        let code = match stage.host.invoke(&app, call).await {
            Ok(_) => 0,
            Err(error) => match error_of(Err(error)) {
                CallError::Failed { code, .. } => code,
                other => panic!("{other}"),
            },
        };
        assert_eq!(code, has);
    }
    assert_eq!(
        stage.get("c", "k").await,
        None,
        "a run that fails writes nothing"
    );
    assert_eq!(AppName::parse("app").unwrap(), app.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_size_is_limited() {
    // Writes new keys until a write is rejected; the status is the output.
    let body = "
        (local $n i32) (local $status i64)
        (loop $more
            (i32.store (i32.const 100) (i32.add (local.get $n) (i32.const 0x20202020)))
            (local.set $status (call $kv_set (i32.const 0) (i32.const 1) (i32.const 100) (i32.const 4)
                (i32.const 3) (i32.const 1) (i32.const 1) (i32.const 0)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i64.ge_s (local.get $status) (i64.const 0))))
        (i32.store (i32.const 200) (local.get $n))
        (drop (call $output_write (i32.const 200) (i32.const 4)))
        (drop (call $output_write (i32.const 204) (i32.wrap_i64 (call $error_message (i32.const 204) (i32.const 500)))))
        (i32.const 0)";
    let stage = staged(body).await;
    let output = stage.call("run", "").await;
    let (count, message) = output.split_at(4);
    // Some keys with a byte of 0x7f or above are not UTF-8, and are rejected earlier.
    let count = u32::from_le_bytes(count.try_into().unwrap());
    let message = String::from_utf8_lossy(message);
    assert!(count <= 1_001, "{count}: {message}");
    assert!(
        message.contains("limit is 1000") || message.contains("UTF-8"),
        "{message}"
    );
}
