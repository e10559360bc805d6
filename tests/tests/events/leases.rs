//! Leases: renewed while a handler runs, lost, expired.

use super::event_host::{EventHost, manifest, until};
use super::hosts::counter;
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{Claim, Limits, Queue, Timestamp};
use kvasm::store::{MemoryStore, Store};
use kvasm::{Host, HostBuilder};
use kvasm_store_testing::faulty::{Faults, FaultyStore, Operation, unavailable};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;

/// Far more than a handler needs here, and three times the renewal interval.
const WALL_TIME: Duration = Duration::from_secs(24);

/// Shared by a test and the host function `hold` of its handler.
#[derive(Default)]
struct Hold {
    began: AtomicU32,
    /// Handlers that were dropped or have returned.
    ended: AtomicU32,
    end: Notify,
}

struct Ended(Arc<Hold>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

fn with_hold(hold: &Arc<Hold>) -> HostBuilder {
    let hold = Arc::clone(hold);
    let limits = Limits {
        wall_time: WALL_TIME,
        ..Limits::default()
    };
    Host::builder().limits(limits).extend(move |linker| {
        linker.func_wrap_async("test", "hold", move |_, ()| {
            let hold = Arc::clone(&hold);
            Box::new(async move {
                let ended = Ended(hold);
                ended.0.began.fetch_add(1, Ordering::SeqCst);
                ended.0.end.notified().await;
            })
        })?;
        Ok(())
    })
}

/// A module whose handler calls `hold`.
fn holder() -> Vec<u8> {
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    let text = format!(
        r#"(module (import "test" "hold" (func $hold)) (memory (export "memory") 1) {watch}
          (func (export "run") (result i32) (call $hold) (i32.const 0)))"#
    );
    wat::parse_str(text).unwrap()
}

/// A host whose handler is blocked in `hold`.
async fn held() -> (EventHost, Arc<Hold>) {
    held_on(Arc::new(MemoryStore::new())).await
}

async fn held_on(store: Arc<dyn Store>) -> (EventHost, Arc<Hold>) {
    let hold = Arc::new(Hold::default());
    let mut stage = EventHost::with_builder(with_hold(&hold), store, Box::new(())).await;
    stage.deploy(holder()).await;
    stage.set("c", "k", "1").await;
    stage.start_with(DispatchOptions {
        lease_min: Duration::from_millis(30),
        ..DispatchOptions::default()
    });
    until("the handler runs", async || {
        hold.began.load(Ordering::SeqCst) == 1
    })
    .await;
    (stage, hold)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_is_renewed_while_its_handler_runs() {
    let (mut stage, hold) = held().await;
    let until_when = async || stage.outstanding().await[0].due_at;
    let first = until_when().await;
    until("the lease is renewed", async || until_when().await > first).await;
    let delivery = stage.outstanding().await.remove(0);
    assert!(delivery.leased);
    assert_eq!(delivery.attempts, 1);
    hold.end.notify_one();
    stage.wait_until_idle().await;
    assert_eq!(hold.began.load(Ordering::SeqCst), 1);
    stage.stop().await;
}

/// A renewal that fails, and then one that only loses its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_continues_after_failed_renewals_of_its_lease() {
    let (store, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
    let renewals = || faults.on(Operation::Renew).times(1);
    renewals().fail(unavailable);
    renewals().lose_the_answer();
    let (mut stage, hold) = held_on(store).await;
    let quiet = stage.neighbour("quiet").await;
    quiet.deploy(counter()).await;
    let both = |faults: &Faults| faults.met(Operation::Renew) == 2;
    faults.until("both renewals have failed", both).await;
    quiet.set("c", "k", "1").await;
    quiet.wait_until_idle().await;
    assert_eq!(quiet.get("d", "k").await.as_deref(), Some("1"));
    hold.end.notify_one();
    stage.wait_until_idle().await;
    assert_eq!(hold.began.load(Ordering::SeqCst), 1);
    let tasks = stage.host.health().tasks();
    let task = tasks.iter().find(|task| task.name == "deliveries").unwrap();
    assert!(task.skips >= 2, "{task:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_lost_its_lease_is_cancelled() {
    let (mut stage, hold) = held().await;
    // As another host does after the lease has expired.
    let claimed = claim(&stage, Timestamp::now().plus_ms(3_600_000), 3_600_000).await;
    assert_eq!(claimed, 1);
    until("the handler is ended", async || {
        hold.ended.load(Ordering::SeqCst) == 1
    })
    .await;
    let count = r#"kvasm_deliveries_total{app="app",outcome="lost"} 1"#;
    until("it is counted as lost", async || {
        stage.host.metrics().encode().contains(count)
    })
    .await;
    // Not by its time limit: then it would have failed, and the failure would be in the app's
    // log.
    let log = stage.host.logs().read(stage.app().await.id, 0, 100);
    assert!(log.is_empty(), "{log:?}");
    // The other host's lease is still held.
    let delivery = stage.outstanding().await.remove(0);
    assert_eq!((delivery.leased, delivery.attempts), (true, 2));
    stage.stop().await;
}

/// Claims the due deliveries of the app's trigger for `ms`. Returns how many.
async fn claim(stage: &EventHost, now: Timestamp, ms: u64) -> usize {
    let queue = Queue {
        app: stage.app().await.id,
        trigger: stage.triggers().await[0].name.clone(),
    };
    let claim = Claim {
        queue,
        now,
        until: now.plus_ms(ms),
        lease: Uuid::new_v4(),
        limit: 10,
    };
    stage.host.store().claim(&claim).await.unwrap().len()
}

/// An event that, as the store sees it, crashes its hosts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_abandoned_on_every_attempt_is_dead_lettered() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut stage = EventHost::over(store, Box::new(())).await;
    stage.deploy(counter()).await;
    stage.set("c", "k", "1").await;
    let attempts = stage.outstanding().await[0].policy.attempts_max;
    for _ in 0..attempts {
        until("the previous lease has expired", async || {
            claim(&stage, Timestamp::now(), 1).await == 1
        })
        .await;
    }
    stage.start();
    stage.wait_until_idle().await;
    let letters = stage.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].error.contains("was abandoned"), "{letters:?}");
    assert_eq!(letters[0].attempts, attempts + 1);
    // The handler was not run again.
    assert_eq!(stage.get("d", "k").await, None);
    stage.stop().await;
}
