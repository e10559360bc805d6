//! Timers and deferred deliveries.

use super::event_host::{EventHost, manifest, until};
use kvasm::Host;
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{
    Batch, Commit, DeliveryFilter, NewTimer, TimerName, TimerOp, TimerTime, Timestamp, Value,
};
use kvasm::store::{MemoryStore, SqliteOptions, SqliteStore};
use kvasm_tests::guests::{meanwhile, module_importing, module_with};
use std::sync::Arc;
use std::time::Duration;

const ON_TIMER: &str = r#"{"kind":"on_timer","name":"on_timer"}"#;
const TRANSACTION: &str = r#"{"kind":"function","name":"run","transaction":true}"#;
/// "d" is a collection, "k" and "n" are keys, "t" is a timer, "1000" a wait.
const DATA: &str = "dknt1000";
/// Increments "k" of "d".
const COUNT: &str = "(drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1)
    (i32.const 1) (i64.const 1) (i32.const 64)))";

/// Sets "t" after a number of milliseconds, with the payload "dk".
fn set(ms: u64) -> String {
    format!(
        "(drop (call $timer_set (i32.const 3) (i32.const 1) (i32.const 1) (i64.const {ms})
          (i32.const 0) (i32.const 2)))"
    )
}

/// A plugin whose transactional function `run` has this body, and its handler of timers that one.
fn plugin(run: &str, on_timer: &str) -> Vec<u8> {
    plugin_with(&[TRANSACTION, ON_TIMER], "", run, on_timer)
}

fn plugin_with(lines: &[&str], imports: &str, run: &str, on_timer: &str) -> Vec<u8> {
    let section = manifest(lines);
    let handler = format!("(func (export \"on_timer\") (result i32) {on_timer})");
    module_importing(imports, DATA, &format!("{section} {handler}"), run)
}

/// A plugin that counts the timers that fire.
fn counter() -> Vec<u8> {
    let run = format!("{} (i32.const 0)", set(0));
    plugin(&run, &format!("{COUNT} (i32.const 0)"))
}

/// Only a wake-up can be in time.
fn without_polling() -> DispatchOptions {
    DispatchOptions {
        poll: Duration::from_secs(24 * 60 * 60),
        ..DispatchOptions::default()
    }
}

impl EventHost {
    /// Sets timers past the host, all with the same time.
    async fn set_timers(&self, names: impl Iterator<Item = String>, time: TimerTime) {
        let app = self.app().await;
        let names: Vec<_> = names.collect();
        for names in names.chunks(1_000) {
            let timer = |name: &String| {
                TimerOp::Set(NewTimer {
                    name: TimerName::parse(name.as_str()).unwrap(),
                    time,
                    payload: Value::Bytes(Vec::new()),
                })
            };
            let batch = Batch {
                timers: names.iter().map(timer).collect(),
                ..Batch::default()
            };
            let commit = Commit::new(app.id, Timestamp::now(), batch);
            self.host.store().commit(commit).await.unwrap();
        }
    }

    async fn timers(&self) -> u64 {
        let app = self.app().await;
        let all = DeliveryFilter::default();
        let count = self.host.store().count_deliveries(app.id, &all, 1 << 20);
        count.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timer_of_a_transaction_fires_once_with_its_payload() {
    let mut stage = EventHost::new().await;
    stage.stop().await;
    // Stores the last two bytes of the input, which are the payload.
    let keep = "(drop (call $input_read
            (i32.wrap_i64 (i64.sub (call $input_len) (i64.const 2))) (i32.const 80) (i32.const 2)))
        (drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 1) (i32.const 80)
            (i32.const 2) (i32.const 1) (i32.const 0)))";
    let run = format!("{} (i32.const 0)", set(50));
    stage
        .deploy_with_timers(plugin(&run, &format!("{COUNT} {keep} (i32.const 0)")))
        .await;
    let called = Timestamp::now();
    stage.call("run", "").await;
    let [timer] = stage.outstanding().await.try_into().unwrap();
    assert!(timer.due_at.unwrap() >= called.plus_ms(50), "{timer:?}");
    stage.start_with(without_polling());
    stage.wait_until_idle().await;
    assert!(Timestamp::now() >= called.plus_ms(50));
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("1"));
    assert_eq!(stage.get("d", "n").await.as_deref(), Some("dk"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timer_of_a_failed_run_is_never_set() {
    let stage = EventHost::new().await;
    for end in ["(i32.const 1)", "unreachable"] {
        stage
            .deploy_with_timers(plugin(&format!("{} {end}", set(0)), "(i32.const 0)"))
            .await;
        stage.try_call("run", "").await.unwrap_err();
        assert_eq!(stage.timers().await, 0, "{end}");
    }
    // Nor is one cancelled by it.
    stage
        .set_timers(["t".to_owned()].into_iter(), TimerTime::After(1 << 40))
        .await;
    let cancel = "(drop (call $timer_cancel (i32.const 3) (i32.const 1)))";
    stage
        .deploy_with_timers(plugin(&format!("{cancel} (i32.const 1)"), "(i32.const 0)"))
        .await;
    stage.try_call("run", "").await.unwrap_err();
    assert_eq!(stage.timers().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_sees_its_own_timers() {
    let stage = EventHost::new().await;
    let cancel = "(call $timer_cancel (i32.const 3) (i32.const 1))";
    let returns = |expected: u8, body: &str| {
        format!("(if (i64.ne {body} (i64.const {expected})) (then unreachable))")
    };
    let steps = [
        returns(0, cancel),
        set(1 << 40),
        returns(1, cancel),
        returns(0, cancel),
        set(1 << 30),
    ];
    stage
        .deploy_with_timers(plugin(
            &format!("{} (i32.const 0)", steps.join(" ")),
            "(i32.const 0)",
        ))
        .await;
    stage.call("run", "").await;
    let [timer] = stage.outstanding().await.try_into().unwrap();
    assert!(
        timer.due_at.unwrap() < Timestamp::now().plus_ms(1 << 31),
        "{timer:?}"
    );
    // In another run the timer is that of the first.
    let only = format!(
        "{} {} (i32.const 0)",
        returns(1, cancel),
        returns(0, cancel)
    );
    stage
        .deploy_with_timers(plugin(&only, "(i32.const 0)"))
        .await;
    stage.call("run", "").await;
    assert_eq!(stage.timers().await, 0);
}

/// Another host sets the timer after the run has seen that there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_that_saw_another_state_of_a_timer_is_rerun() {
    let store = Arc::new(MemoryStore::new());
    let other = EventHost::over(store.clone(), Box::new(())).await;
    let other = Arc::new(other);
    let builder = meanwhile(Host::builder(), move |_| {
        let other = Arc::clone(&other);
        async move {
            if other.timers().await == 0 {
                let time = TimerTime::After(1 << 40);
                other.set_timers(["t".to_owned()].into_iter(), time).await;
            }
        }
    });
    let stage = EventHost::with_builder(builder, store, Box::new(())).await;
    let import = "(import \"test_v1\" \"meanwhile\" (func $meanwhile))";
    let cancel = "(call $timer_cancel (i32.const 3) (i32.const 1))";
    let run = format!(
        "(i64.store (i32.const 64) {cancel}) (call $meanwhile)
         (drop (call $output_write (i32.const 64) (i32.const 8))) (i32.const 0)"
    );
    let wasm = plugin_with(&[TRANSACTION, ON_TIMER], import, &run, "(i32.const 0)");
    stage.deploy_with_timers(wasm).await;
    assert_eq!(stage.call("run", "").await, 1_i64.to_le_bytes());
    assert_eq!(stage.timers().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_may_set_its_own_timer_again() {
    let mut stage = EventHost::new().await;
    stage.stop().await;
    // It is not set while it runs, so a cancellation finds nothing.
    let cancel = "(if (i64.ne (call $timer_cancel (i32.const 3) (i32.const 1)) (i64.const 0))
        (then unreachable))";
    let again = format!(
        "{COUNT} {cancel}
         (if (i64.lt_s (i64.load (i32.const 64)) (i64.const 20)) (then {})) (i32.const 0)",
        set(1)
    );
    let run = format!("{} (i32.const 0)", set(0));
    stage.deploy_with_timers(plugin(&run, &again)).await;
    stage.start_with(without_polling());
    stage.call("run", "").await;
    stage.wait_until_idle().await;
    // Longer than a chain of changes may be.
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("20"));
    assert!(stage.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_of_a_timer_that_was_cancelled_meanwhile_has_no_effect() {
    let store = Arc::new(MemoryStore::new());
    let other = Arc::new(EventHost::over(store.clone(), Box::new(())).await);
    let (cancelling, runs) = (
        Arc::clone(&other),
        Arc::new(std::sync::atomic::AtomicU32::new(0)),
    );
    let counted = Arc::clone(&runs);
    let builder = meanwhile(Host::builder(), move |app| {
        let (other, runs) = (Arc::clone(&cancelling), Arc::clone(&counted));
        async move {
            runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let cancel = TimerOp::Cancel {
                name: TimerName::parse("t").unwrap(),
                expect: Some(true),
            };
            let batch = Batch {
                timers: vec![cancel],
                ..Batch::default()
            };
            let commit = Commit::new(app, Timestamp::now(), batch);
            other.host.store().commit(commit).await.unwrap();
        }
    });
    let mut stage = EventHost::with_builder(builder, store, Box::new(())).await;
    let import = "(import \"test_v1\" \"meanwhile\" (func $meanwhile))";
    let run = format!("{} (i32.const 0)", set(0));
    let handler = format!("(call $meanwhile) {COUNT} (i32.const 0)");
    stage
        .deploy_with_timers(plugin_with(
            &[TRANSACTION, ON_TIMER],
            import,
            &run,
            &handler,
        ))
        .await;
    stage.start_with(without_polling());
    stage.call("run", "").await;
    until("the handler has run", async || {
        runs.load(std::sync::atomic::Ordering::SeqCst) == 1
    })
    .await;
    stage.stop().await;
    assert_eq!(stage.get("d", "k").await, None);
    assert_eq!(
        (stage.timers().await, stage.dead_letters().await.len()),
        (0, 0)
    );
}

/// The version that is active when the timer fires handles it, and one without a handler leaves a
/// dead letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timer_calls_the_version_that_is_active_when_it_fires() {
    let mut stage = EventHost::new().await;
    stage.stop().await;
    stage
        .deploy_with_timers(plugin(&format!("{} (i32.const 0)", set(0)), "unreachable"))
        .await;
    stage.call("run", "").await;
    stage.deploy_with_timers(counter()).await;
    stage.start();
    stage.wait_until_idle().await;
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("1"));
    stage.stop().await;
    stage.call("run", "").await;
    stage
        .deploy_with_timers(module_with("", &manifest(&[TRANSACTION]), "(i32.const 0)"))
        .await;
    stage.start();
    until("the timer is dead", async || {
        !stage.dead_letters().await.is_empty()
    })
    .await;
    let [letter] = stage.dead_letters().await.try_into().unwrap();
    assert!(
        letter.error.contains("no handler \"on_timer\""),
        "{}",
        letter.error
    );
    // Once a version has it again, the dead letter can be replayed.
    stage.deploy_with_timers(counter()).await;
    stage.replay().await;
    stage.wait_until_idle().await;
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("2"));
}

async fn fire_on([mut one, mut two]: [EventHost; 2]) {
    one.deploy_with_timers(counter()).await;
    let options = DispatchOptions {
        poll: Duration::from_millis(5),
        ..DispatchOptions::default()
    };
    one.start_with(options.clone());
    two.start_with(options.clone());
    let names = (0..200).map(|n| n.to_string());
    one.set_timers(names, TimerTime::After(100)).await;
    one.wait_until_idle().await;
    assert_eq!(one.get("d", "k").await.as_deref(), Some("200"));
    // One that does not dispatch sets a timer for the other.
    one.stop().await;
    let set = Timestamp::now();
    one.set_timers(["t".to_owned()].into_iter(), TimerTime::After(300))
        .await;
    one.wait_until_idle().await;
    assert!(Timestamp::now() >= set.plus_ms(300));
    assert_eq!(two.get("d", "k").await.as_deref(), Some("201"));
    assert!(two.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_fire_each_timer_once() {
    let store = Arc::new(MemoryStore::new());
    let one = EventHost::over(store.clone(), Box::new(())).await;
    fire_on([one, EventHost::over(store, Box::new(())).await]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_postgres_fire_each_timer_once() {
    fire_on(EventHost::two_on_postgres().await).await;
}

/// The timers are set before the dispatcher starts, so that only the store knows of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_timers_wake_the_dispatcher_without_polling() {
    let mut stage = EventHost::sqlite().await;
    stage.stop().await;
    stage.deploy_with_timers(counter()).await;
    let now = Timestamp::now();
    for n in 0..20 {
        let time = TimerTime::At(now.plus_ms(500 + 50 * n));
        stage.set_timers([n.to_string()].into_iter(), time).await;
    }
    stage.start_with(without_polling());
    stage.wait_until_idle().await;
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("20"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn due_timers_of_one_app_do_not_delay_that_of_another() {
    const TIMERS: u64 = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let store = Arc::new(SqliteStore::open(options).await.unwrap());
    let mut many = EventHost::over(store, Box::new(folder)).await;
    let one = many.neighbour("one").await;
    for stage in [&many, &one] {
        stage.deploy_with_timers(counter()).await;
    }
    let due = TimerTime::At(Timestamp::now());
    many.set_timers((0..TIMERS).map(|n| n.to_string()), due)
        .await;
    one.set_timers(["t".to_owned()].into_iter(), TimerTime::After(0))
        .await;
    many.start();
    one.wait_until_idle().await;
    let left = many.timers().await;
    assert!(left > TIMERS * 9 / 10, "{left} of {TIMERS} were left");
    assert_eq!(one.get("d", "k").await.as_deref(), Some("1"));
    // One more than may be outstanding, once some have run.
    many.stop().await;
}

/// A handler of changes that asks to be run again until "n" of "d" exists. Like a failure, it leaves
/// no writes.
fn deferring() -> Vec<u8> {
    let watch = r#"{"kind":"on_change","name":"run","collection":"c"}"#;
    let later = "(drop (call $output_write (i32.const 4) (i32.const 4))) (i32.const 4)";
    let run = format!(
        "{COUNT} (if (result i32) (i64.eq (i64.const 1)
            (call $kv_has (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 1)))
          (then (i32.const 0)) (else {later}))"
    );
    module_with(DATA, &manifest(&[watch]), &run)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_delivery_is_run_again_and_counts_no_attempt() {
    let stage = EventHost::new().await;
    stage.deploy_with_timers(deferring()).await;
    let before = Timestamp::now();
    stage.set("c", "k", "1").await;
    until("it was deferred", async || {
        let [delivery] = stage.outstanding().await.try_into().unwrap();
        delivery.attempts == 0
            && delivery
                .due_at
                .is_some_and(|at| at >= before.plus_ms(1_000))
    })
    .await;
    let [delivery] = stage.outstanding().await.try_into().unwrap();
    assert_eq!((delivery.error, stage.get("d", "k").await), (None, None));
    stage.set("d", "n", "1").await;
    stage.wait_until_idle().await;
    assert!(Timestamp::now() >= before.plus_ms(1_000));
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("1"));
    assert!(stage.dead_letters().await.is_empty());
    assert_eq!(stage.triggers().await[0].standing.failures, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_defer_for_ever_leave_room_for_other_apps() {
    let stage = EventHost::new().await;
    let other = stage.neighbour("other").await;
    stage.deploy_with_timers(deferring()).await;
    other.deploy_with_timers(counter()).await;
    for n in 0..200 {
        stage.set("c", &n.to_string(), "1").await;
    }
    for n in 1..=20 {
        other.call("run", "").await;
        other.wait_until_idle().await;
        assert_eq!(other.get("d", "k").await, Some(n.to_string()));
    }
    let left = stage.outstanding().await;
    assert_eq!(left.len(), 200);
    assert!(left.iter().all(|delivery| delivery.attempts <= 1));
    assert!(stage.dead_letters().await.is_empty());
}

/// An exit code without a valid wait is a failure as any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferral_for_an_invalid_time_is_a_failure() {
    let stage = EventHost::new().await;
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    let later = "(drop (call $output_write (i32.const 4) (i32.const 3))) (i32.const 4)";
    stage
        .deploy_with_timers(module_with(DATA, &watch, later))
        .await;
    stage.set("c", "k", "1").await;
    until("it has failed", async || {
        let [delivery] = stage.outstanding().await.try_into().unwrap();
        delivery
            .error
            .is_some_and(|error| error.contains("failed with code 4: 100"))
    })
    .await;
}
