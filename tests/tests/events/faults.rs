//! The dispatcher and transactions on a store that fails, or loses its answers.

use super::event_host::{EventHost, collection, manifest, until};
use super::hosts::counter;
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{Key, Limits};
use kvasm::service::{Caller, ServiceError, TaskHealth};
use kvasm::store::{MemoryStore, SqliteOptions, SqliteStore, Store};
use kvasm::{CallError, Host, InvokeError, Response};
use kvasm_store_testing::faulty::{Faults, FaultyStore, NewRule, Operation, failed, unavailable};
use kvasm_tests::guests::{self, module_with};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// The changes made in each app.
const CHANGES: usize = 5;
/// For a test that waits for the end of a lease. On a busy machine it may end while a handler runs.
const SHORT: Duration = Duration::from_secs(3);

/// A host with an app whose store calls fail, and another app.
struct Scene {
    bad: EventHost,
    quiet: EventHost,
    faults: Faults,
}

impl Scene {
    /// The handlers of the quiet app count its changes. No dispatcher runs yet.
    async fn new(bad_plugin: Vec<u8>) -> Scene {
        Scene::with_leases(Duration::from_secs(60), bad_plugin).await
    }

    /// With leases that last about as long as this.
    async fn with_leases(lease: Duration, bad_plugin: Vec<u8>) -> Scene {
        let (store, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
        let builder = Host::builder().limits(Limits {
            wall_time: lease,
            ..Limits::default()
        });
        let bad = EventHost::with_builder(builder, store, Box::new(())).await;
        let quiet = bad.neighbour("quiet").await;
        bad.deploy(bad_plugin).await;
        quiet.deploy(counter()).await;
        for n in 0..CHANGES {
            bad.set("c", &n.to_string(), "1").await;
        }
        Scene { bad, quiet, faults }
    }

    /// A rule for calls of the bad app.
    async fn on(&self, operation: Operation) -> NewRule<'_> {
        self.faults.on(operation).of(self.bad.app().await.id)
    }

    /// Starts the dispatcher, and waits until it has handled the changes of the quiet app.
    async fn start(&mut self) {
        self.bad.start_with(DispatchOptions {
            poll: Duration::from_millis(5),
            lease_min: Duration::from_millis(30),
            // So that no transactions of the bad app are in conflict.
            handlers_of_app: 1,
            ..DispatchOptions::default()
        });
        for n in 0..CHANGES {
            self.quiet.set("c", &n.to_string(), "1").await;
        }
        self.quiet.wait_until_idle().await;
        assert_eq!(counted(&self.quiet).await, CHANGES);
    }

    /// Waits until nothing is outstanding, and checks that each change was counted once.
    async fn finish(mut self) {
        self.bad.wait_until_idle().await;
        assert_eq!(counted(&self.bad).await, CHANGES);
        let letters = self.bad.dead_letters().await;
        assert!(letters.is_empty(), "{letters:?}");
        self.bad.stop().await;
    }

    fn task(&self, name: &str) -> TaskHealth {
        let tasks = self.bad.host.health().tasks();
        tasks.into_iter().find(|task| task.name == name).unwrap()
    }
}

/// What the handlers of an app have counted.
async fn counted(host: &EventHost) -> usize {
    let count = host.get("d", "k").await;
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_claims_of_one_app_are_skipped_and_repeated() {
    let mut scene = Scene::new(counter()).await;
    scene.on(Operation::Claim).await.fail(unavailable);
    scene.start().await;
    let often = |faults: &Faults| faults.met(Operation::Claim) >= 5;
    scene.faults.until("the claim is repeated", often).await;
    let task = scene.task("claims");
    assert!(task.skips > 0 && task.failing.is_none(), "{task:?}");
    assert_eq!(counted(&scene.bad).await, 0);
    scene.faults.clear();
    scene.finish().await;
}

/// Nobody knows of the claimed deliveries until their leases end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_of_a_claim_without_an_answer_are_claimed_again() {
    let mut scene = Scene::with_leases(SHORT, counter()).await;
    scene.on(Operation::Claim).await.times(2).lose_the_answer();
    scene.start().await;
    let both = |faults: &Faults| faults.met(Operation::Claim) == 2;
    scene.faults.until("two claims are lost", both).await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_whose_commit_fails_is_retried() {
    let mut scene = Scene::new(counter()).await;
    scene.on(Operation::Commit).await.times(2).fail(unavailable);
    scene.start().await;
    let id = scene.bad.app().await.id;
    let faults = scene.faults.clone();
    let before = CHANGES as u64;
    scene.finish().await;
    // The changes, the handlers, and the two that failed.
    assert_eq!(faults.calls_of(Operation::Commit, id), 2 * before + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_whose_acknowledgement_lost_its_answer_is_not_run_again() {
    let mut scene = Scene::new(counter()).await;
    scene.on(Operation::Commit).await.times(2).lose_the_answer();
    scene.start().await;
    let (host, faults) = (scene.bad.host.clone(), scene.faults.clone());
    let id = scene.bad.app().await.id;
    scene.finish().await;
    assert_eq!(
        faults.calls_of(Operation::Commit, id),
        2 * CHANGES as u64,
        "a handler was run again"
    );
    let lost = r#"kvasm_deliveries_total{app="app",outcome="lost"} 2"#;
    until("they are counted", async || {
        host.metrics().encode().contains(lost)
    })
    .await;
}

/// A handler that reports that a retry would fail.
fn hopeless() -> Vec<u8> {
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    let code = kvasm_abi::EXIT_PERMANENT;
    module_with("", &watch, &format!("(i32.const {code})"))
}

/// Each change becomes one dead letter, whatever happens to the calls of `fail`.
async fn failures_are_recorded_once(fault: impl FnOnce(NewRule<'_>)) -> Scene {
    let mut scene = Scene::new(hopeless()).await;
    fault(scene.on(Operation::Fail).await.times(2));
    scene.start().await;
    scene.bad.wait_until_idle().await;
    let letters = scene.bad.dead_letters().await;
    let events: BTreeSet<_> = letters.iter().map(|letter| letter.event.id).collect();
    assert_eq!((letters.len(), events.len()), (CHANGES, CHANGES));
    assert_eq!(scene.faults.met(Operation::Fail), 2);
    scene.bad.stop().await;
    scene
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn report_of_a_failure_is_repeated_while_the_store_is_unavailable() {
    let scene = failures_are_recorded_once(|rule| rule.fail(unavailable)).await;
    // The handlers were not run again for it.
    let letters = scene.bad.dead_letters().await;
    assert!(letters.iter().all(|letter| letter.attempts == 1));
    let calls = CHANGES as u64 + 2;
    assert_eq!(scene.faults.calls(Operation::Fail), calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn report_of_a_failure_without_an_answer_is_recorded_once() {
    let scene = failures_are_recorded_once(|rule| rule.lose_the_answer()).await;
    let letters = scene.bad.dead_letters().await;
    assert!(letters.iter().all(|letter| letter.attempts == 1));
}

/// The delivery is attempted again after its lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn report_of_a_failure_that_the_store_rejects_is_skipped() {
    let mut scene = Scene::with_leases(SHORT, hopeless()).await;
    scene.on(Operation::Fail).await.times(1).fail(failed);
    scene.start().await;
    until("it is counted", async || {
        scene.task("deliveries").skips == 1
    })
    .await;
    scene.bad.wait_until_idle().await;
    let letters = scene.bad.dead_letters().await;
    assert_eq!(letters.len(), CHANGES);
    assert!(letters.iter().any(|letter| letter.attempts > 1));
    scene.bad.stop().await;
}

/// A delivery whose app cannot be read is released, so that the attempt does not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn release_of_a_delivery_is_repeated_while_the_store_is_unavailable() {
    let mut scene = Scene::new(counter()).await;
    scene.on(Operation::AppById).await.times(1).fail(failed);
    scene
        .on(Operation::Release)
        .await
        .times(2)
        .fail(unavailable);
    scene.start().await;
    let thrice = |faults: &Faults| faults.calls(Operation::Release) == 3;
    scene.faults.until("the release is repeated", thrice).await;
    assert!(scene.task("deliveries").skips > 0);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_show_as_failing_while_the_store_fails_and_recover() {
    let mut scene = Scene::new(counter()).await;
    scene.start().await;
    scene.bad.wait_until_idle().await;
    scene.faults.on(Operation::Due).fail(failed);
    let is_failing = || scene.task("claims").failing.is_some();
    until("the task shows as failing", async || is_failing()).await;
    until("it is restarted", async || {
        scene.task("claims").restarts > 1
    })
    .await;
    assert!(!scene.bad.host.health().check().await.is_ready());
    scene.quiet.set("c", "late", "1").await;
    scene.faults.clear();
    scene.quiet.wait_until_idle().await;
    assert_eq!(counted(&scene.quiet).await, CHANGES + 1);
    until("the task has recovered", async || !is_failing()).await;
    let health = scene.bad.host.health();
    until("the host is ready", async || {
        health.check().await.is_ready()
    })
    .await;
    scene.finish().await;
}

/// A transactional function that calls "meanwhile" and increments "k" of "d".
fn increment() -> Vec<u8> {
    let declare = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let text = format!(
        r#"(module
          (import "kvasm_v1" "kv_increment" (func $add (param i32 i32 i32 i32 i64 i32) (result i64)))
          (import "test_v1" "meanwhile" (func $meanwhile))
          (memory (export "memory") 1) (data (i32.const 0) "dk") {declare}
          (func (export "run") (result i32) (call $meanwhile)
            (drop (call $add (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1) (i64.const 1)
              (i32.const 16)))
            (i32.const 0)))"#
    );
    wat::parse_str(text).unwrap()
}

/// A host with the function [`increment`], and the number of its runs.
async fn incrementing(store: Arc<dyn Store>) -> (EventHost, Faults, Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&runs);
    let limits = Limits {
        wall_time: Duration::from_secs(60),
        ..Limits::default()
    };
    let builder = guests::meanwhile(Host::builder().limits(limits), move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    let (store, faults) = FaultyStore::over(store);
    let stage = EventHost::with_builder(builder, store, Box::new(())).await;
    stage.deploy(increment()).await;
    (stage, faults, runs)
}

fn commit_error(result: Result<Response, InvokeError>) -> CallError {
    match result {
        Err(InvokeError::Call(failure)) => failure.error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_whose_commit_has_an_unknown_outcome_is_not_rerun() {
    for takes_effect in [true, false] {
        let (stage, faults, runs) = incrementing(Arc::new(MemoryStore::new())).await;
        let rule = faults.on(Operation::Commit).times(1);
        match takes_effect {
            true => rule.lose_the_answer(),
            false => rule.fail(unavailable),
        }
        let error = commit_error(stage.try_call("run", "").await);
        assert!(
            matches!(error, CallError::Commit(ServiceError::Unavailable(_))),
            "{error}"
        );
        // The host cannot tell the two cases apart.
        let said = "the transaction may not have been committed: ";
        assert!(error.to_string().starts_with(said), "{error}");
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(faults.calls(Operation::Commit), 1);
        assert_eq!(counted(&stage).await, usize::from(takes_effect));
        // No lock is left.
        stage.call("run", "").await;
        assert_eq!(counted(&stage).await, 1 + usize::from(takes_effect));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_whose_answer_is_lost_is_reported_and_not_repeated() {
    let (stage, faults, _) = incrementing(Arc::new(MemoryStore::new())).await;
    faults.on(Operation::Commit).times(1).lose_the_answer();
    let caller = Caller::new(&stage.app().await, None);
    let at = (collection("d"), Key::parse("k").unwrap());
    let added = stage.host.kv().increment(&caller, at, 1);
    let error = added.await.unwrap_err();
    assert!(matches!(error, ServiceError::Unavailable(_)), "{error}");
    assert_eq!(faults.calls(Operation::Commit), 1);
    assert_eq!(counted(&stage).await, 1);
}

/// Later transactions may have read the writes of a commit before it failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_among_contended_transactions_lose_no_update() {
    const CALLS: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let store = SqliteStore::open(options).await.unwrap();
    let (stage, faults, _) = incrementing(Arc::new(store)).await;
    faults.on(Operation::Commit).times(5).fail(unavailable);
    faults.on(Operation::Commit).times(10).lose_the_answer();
    let stage = Arc::new(stage);
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let stage = Arc::clone(&stage);
        calls.spawn(async move { stage.try_call("run", "").await });
    }
    let results = calls.join_all().await;
    let done = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(faults.met(Operation::Commit), 15);
    assert_eq!(CALLS - done, 15, "others fail too");
    let total = counted(&stage).await;
    assert!((done..=done + 10).contains(&total), "{done} {total}");
    stage.call("run", "").await;
    assert_eq!(counted(&stage).await, total + 1);
}
