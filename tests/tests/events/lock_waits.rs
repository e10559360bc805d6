//! Transactions that wait for each other's locks during their runs.

use super::bank::bank;
use super::contention::LONG;
use super::event_host::{EventHost, collection, until};
use kvasm::model::{AppName, Key, Limits, Op};
use kvasm::service::Stage as Of;
use kvasm::store::{MemoryStore, SqliteOptions, SqliteStore, Store};
use kvasm::{Call, CallError, Host, InvokeError};
use kvasm_tests::guests::{self, manifest};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Reads the entry "k", waits for the test, and adds 1 to the entry.
fn adder() -> Vec<u8> {
    let run = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let text = format!(
        "(module
            (import \"kvasm_v1\" \"kv_has\" (func $kv_has (param i32 i32 i32 i32) (result i64)))
            (import \"kvasm_v1\" \"kv_increment\"
                (func $kv_increment (param i32 i32 i32 i32 i64 i32) (result i64)))
            (import \"test_v1\" \"meanwhile\" (func $meanwhile))
            (memory (export \"memory\") 1) (data (i32.const 0) \"bk\") {run}
            (func (export \"run\") (result i32)
                (drop (call $kv_has (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)))
                (call $meanwhile)
                (drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
                    (i64.const 1) (i32.const 200)))
                (i32.const 0)))"
    );
    wat::parse_str(text).unwrap()
}

/// A host with few instances. In the first run of the adder another caller changes the entry,
/// so that the second run locks it; each later run waits for the semaphore.
struct LockedEntry {
    stage: Arc<EventHost>,
    runs: Arc<AtomicU64>,
    may_go_on: Arc<Semaphore>,
}

async fn meeting(wall_time: Duration) -> LockedEntry {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let runs = Arc::new(AtomicU64::new(0));
    let may_go_on = Arc::new(Semaphore::new(0));
    let limits = Limits {
        cpu_time: LONG,
        wall_time,
        ..Limits::default()
    };
    let of_guest = (
        Arc::clone(&store),
        Arc::clone(&runs),
        Arc::clone(&may_go_on),
    );
    let builder = guests::meanwhile(Host::builder().limits(limits), move |app| {
        let (store, runs, may_go_on) = of_guest.clone();
        async move {
            if runs.fetch_add(1, Ordering::SeqCst) > 0 {
                may_go_on.acquire().await.unwrap().forget();
                return;
            }
            let op = Op::Increment {
                collection: collection("b"),
                key: Key::parse("k").unwrap(),
                delta: 10,
            };
            guests::write_directly(&store, app, vec![op]).await;
        }
    });
    let stage = Arc::new(EventHost::with_builder(builder, store, Box::new(())).await);
    stage.deploy(adder()).await;
    LockedEntry {
        stage,
        runs,
        may_go_on,
    }
}

type Answer = tokio::task::JoinHandle<Result<kvasm::Response, InvokeError>>;

impl LockedEntry {
    fn call(&self) -> Answer {
        let stage = Arc::clone(&self.stage);
        tokio::spawn(async move { stage.try_call("run", "").await })
    }

    /// A call whose second run has locked the entry, and waits.
    async fn holder(&self) -> Answer {
        let holder = self.call();
        until("it holds the entry", async || {
            self.runs.load(Ordering::SeqCst) == 2
        })
        .await;
        assert_eq!(metric(&self.stage, "kvasm_transaction_locks"), 1);
        holder
    }
}

fn metric(stage: &EventHost, name: &str) -> i64 {
    let text = stage.host.metrics().encode();
    let values = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (series, _) = series.split_once('{').unwrap_or((series, ""));
        (series == name).then(|| value.parse::<i64>().unwrap())
    });
    values.sum()
}

/// Runs that meet a lock wait in place and are not restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_waits_for_a_lock_without_a_rerun() {
    const WAITING: i64 = 8;
    let meeting = meeting(LONG).await;
    let holder = meeting.holder().await;
    let waiting: Vec<_> = (0..WAITING).map(|_| meeting.call()).collect();
    until("all wait with an instance of their own", async || {
        metric(&meeting.stage, "kvasm_instances") == 1 + WAITING
    })
    .await;
    // None of them has passed the entry.
    assert_eq!(meeting.runs.load(Ordering::SeqCst), 2);
    meeting.may_go_on.add_permits(100);
    holder.await.unwrap().unwrap();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    let sum = meeting.stage.get("b", "k").await;
    assert_eq!(sum, Some((10 + 1 + WAITING).to_string()));
    assert_eq!(meeting.runs.load(Ordering::SeqCst), 2 + WAITING as u64);
    assert_eq!(metric(&meeting.stage, "kvasm_transaction_reruns_total"), 1);
    assert_eq!(metric(&meeting.stage, "kvasm_transaction_locks"), 0);
}

/// More calls of one app wait than it may have instances. Other apps still get one, and the
/// lock holder keeps its own across runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_runs_leave_instances_to_other_apps() {
    let meeting = meeting(LONG).await;
    let holder = meeting.holder().await;
    let waiting: Vec<_> = (0..100).map(|_| meeting.call()).collect();
    until("the app is at its instance limit", async || {
        metric(&meeting.stage, "kvasm_instances") == 20
    })
    .await;
    let host = &meeting.stage.host;
    let name = AppName::parse("quiet").unwrap();
    let quiet = host.create_app(name.clone()).await.unwrap();
    let actor = host.operator("a test");
    host.deploy(&actor, &quiet, bank(), true).await.unwrap();
    // The row with its active plugin.
    let quiet = host.app(&name).await.unwrap().unwrap();
    let call = Call::function("run").input("00010");
    host.invoke(&quiet, call).await.unwrap();
    assert!(!holder.is_finished());
    meeting.may_go_on.add_permits(1_000);
    holder.await.unwrap().unwrap();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    assert_eq!(meeting.stage.get("b", "k").await.as_deref(), Some("111"));
}

/// A run that waits for a lock until its deadline fails with a conflict that says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_waiting_until_its_deadline_fails_with_a_conflict() {
    let meeting = meeting(Duration::from_secs(5)).await;
    let holder = meeting.holder().await;
    let waiting = meeting.call();
    let InvokeError::Call(failure) = waiting.await.unwrap().unwrap_err() else {
        panic!("it did not run");
    };
    let CallError::Conflict { timeout, .. } = failure.error else {
        panic!("{}", failure.error);
    };
    assert_eq!(timeout.longest(), Of::Locks, "{timeout}");
    assert!(timeout.spent(Of::HostFunction) < timeout.spent(Of::Locks));
    let InvokeError::Call(failure) = holder.await.unwrap().unwrap_err() else {
        panic!("it did not run");
    };
    assert!(matches!(failure.error, CallError::Deadline { .. }));
    until("no lock is left", async || {
        metric(&meeting.stage, "kvasm_transaction_locks") == 0
    })
    .await;
}

/// A run that meets a commit in progress continues from what the commit writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_reads_through_a_commit_in_progress_without_a_conflict() {
    const CALLS: i64 = 6;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
    let stage = Arc::new(EventHost::over(Arc::new(store), Box::new(folder)).await);
    stage.deploy(bank()).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut calls = Vec::new();
    for call in 1..=CALLS {
        calls.push(tokio::spawn({
            let stage = Arc::clone(&stage);
            async move { stage.try_call("run", "00010").await }
        }));
        // Its run has ended, and its commit waits for the other process.
        until("its run has ended", async || {
            metric(&stage, "kvasm_invocations_total") == call
                && metric(&stage, "kvasm_instances") == 0
        })
        .await;
    }
    assert!(calls.iter().all(|call| !call.is_finished()));
    other.execute_batch("COMMIT").unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(metric(&stage, "kvasm_transaction_reruns_total"), 0);
    assert_eq!(stage.get("b", "01").await, Some(CALLS.to_string()));
}
