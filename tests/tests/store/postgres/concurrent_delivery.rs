//! Deliveries that several hosts write, claim and acknowledge concurrently.

use super::{connect, deadlocks, options, psql};
use kvasm::model::{
    Applied, Claim, DeadLetterFilter, DeadReason, Delivery, DeliveryState, Event, EventKind,
    LeaseToken, Op, Queue, Verdict,
};
use kvasm::store::{PostgresOptions, StoreError};
use kvasm_store_testing::conformance::event_kit::{increment, trigger_name};
use kvasm_store_testing::conformance::kit::{NOW, Tenant, bytes, delete, json, reap, set};
use kvasm_store_testing::conformance::rng::{self, Rng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;

/// Two hosts on one database, and an app as seen by each.
async fn two_hosts(options: &PostgresOptions) -> [Tenant; 2] {
    let one = connect(options.clone()).await.app().await;
    let store = connect(options.clone()).await.store;
    let two = Tenant {
        store,
        ..one.clone()
    };
    [one, two]
}

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// Records what was written and what was delivered.
#[derive(Default)]
struct DeliveryLog {
    /// The expected events: key, version, whether it is a deletion.
    caused: Mutex<Vec<(String, u64, bool)>>,
    done: Mutex<Vec<(String, u64, bool)>>,
    /// For each ordering key, the last finished number and the one being handled.
    chains: Mutex<BTreeMap<i64, (i64, Option<i64>)>>,
    writers: AtomicUsize,
}

impl DeliveryLog {
    fn cause(&self, ops: &[Op], applied: &[Applied]) {
        let mut caused = self.caused.lock().unwrap();
        for (op, applied) in ops.iter().zip(applied) {
            let (collection, key) = op.address();
            let version = match applied {
                Applied::Set(version) | Applied::Incremented { version, .. } => version.0,
                _ => continue,
            };
            if collection.as_str() == "c" {
                caused.push((key.as_str().to_owned(), version, false));
            }
        }
    }

    /// Records a claim: all earlier deliveries of its ordering key must be finished.
    fn take(&self, delivery: &Delivery) {
        let mut chains = self.chains.lock().unwrap();
        let (last, in_hand) = chains.entry(delivery.place.ordering_key).or_default();
        assert_eq!(
            *in_hand, None,
            "two deliveries of one ordering key at once: {delivery:?}"
        );
        assert!(*last < delivery.place.seq, "{last} before {delivery:?}");
        *in_hand = Some(delivery.place.seq);
    }

    /// Records that a delivery is about to be nacked or finished.
    fn put(&self, delivery: &Delivery, finished: bool) {
        let mut chains = self.chains.lock().unwrap();
        let (last, in_hand) = chains.entry(delivery.place.ordering_key).or_default();
        *in_hand = None;
        if finished {
            *last = delivery.place.seq;
        }
    }

    fn deliver(&self, event: &Event) {
        let (key, version, deleted) = match &event.kind {
            EventKind::Set { key, version, .. } => (key, version, false),
            EventKind::Deleted { key, version, .. } => (key, version, true),
            EventKind::Due | EventKind::Timer { .. } => panic!("no schedule is there"),
        };
        let mut done = self.done.lock().unwrap();
        done.push((key.as_str().to_owned(), version.0, deleted));
    }
}

/// One to three changes of different kinds.
fn changes(rng: &mut Rng) -> Vec<Op> {
    let change = |rng: &mut Rng| {
        let key = *rng.pick(&KEYS);
        match rng.below(4) {
            0 => delete("c", key),
            1 => set("elsewhere", key, bytes("x")),
            2 => increment("c", key, 1),
            _ => set("c", key, json("1")),
        }
    };
    (0..=rng.below(3)).map(|_| change(rng)).collect()
}

async fn write(app: Tenant, book: Arc<DeliveryLog>, mut rng: Rng, times: usize) {
    for _ in 0..times {
        let ops = changes(&mut rng);
        let applied = app.commit(vec![], ops.clone()).await;
        book.cause(&ops, &applied);
    }
    book.writers.fetch_sub(1, Ordering::SeqCst);
}

/// More consecutive idle rounds, of a few milliseconds each, than occur on a busy machine.
const IDLE_ROUNDS_MAX: u32 = 10_000;

/// Claims and ends deliveries in every way until all are done. Fails if deliveries remain that
/// cannot be claimed.
async fn handle(app: Tenant, book: Arc<DeliveryLog>, mut rng: Rng) {
    let mut in_vain = 0;
    loop {
        let limit = 1 + rng.below(5) as u32;
        let claimed = app.claim("t", limit).await;
        assert!(claimed.len() <= limit as usize);
        for (delivery, _) in &claimed {
            book.take(delivery);
        }
        in_vain = if claimed.is_empty() { in_vain + 1 } else { 0 };
        for (delivery, receipt) in claimed {
            end(&app, &book, &mut rng, delivery, &receipt).await;
        }
        if in_vain > 0 && book.writers.load(Ordering::SeqCst) == 0 {
            // In this order, a dead letter that is replayed between the two reads is seen at
            // least once. If a delivery is dead-lettered between them, its handler task is
            // still running.
            let letters = app.dead_letters().await;
            let left = app.outstanding().await;
            if left.is_empty() && letters.is_empty() {
                return;
            }
            assert!(in_vain < IDLE_ROUNDS_MAX, "stuck: {left:#?}");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

async fn end(
    app: &Tenant,
    book: &DeliveryLog,
    rng: &mut Rng,
    delivery: Delivery,
    receipt: &LeaseToken,
) {
    match rng.below(8) {
        0 => {
            book.put(&delivery, false);
            assert!(app.fail(receipt, Verdict::RetryAt(NOW), false).await);
        }
        1 => {
            // Replayed below, behind those that have been added since.
            book.put(&delivery, true);
            let verdict = Verdict::DeadLetter(DeadReason::Attempts);
            assert!(app.fail(receipt, verdict, rng.chance(1, 2)).await);
        }
        2 => {
            // As if its host had crashed and the lease had expired.
            book.put(&delivery, false);
            assert!(app.store.renew(receipt, NOW).await.expect("renewal"));
        }
        _ => {
            book.put(&delivery, true);
            // Writes what it watches, but not indefinitely.
            let key = *rng.pick(&KEYS);
            let ops = match rng.chance(1, 4) {
                true => vec![set("c", key, json("2"))],
                false => vec![set("done", &delivery.place.seq.to_string(), bytes(""))],
            };
            let batch = app.acknowledging(receipt, vec![], ops.clone());
            let committed = app.store.commit(batch).await.expect("acknowledgement");
            book.cause(&ops, &committed.applied);
            book.deliver(&delivery.event);
        }
    }
}

/// Replays dead letters as they appear.
async fn replay(app: Tenant, book: Arc<DeliveryLog>) {
    let mut in_vain = 0;
    loop {
        let (all, row) = (DeadLetterFilter::default(), app.audit_row("test"));
        let replayed = app.store.replay(app.id, all, 3, row).await;
        let over = book.writers.load(Ordering::SeqCst) == 0 && replayed.expect("a replay") == 0;
        in_vain = if over { in_vain + 1 } else { 0 };
        assert!(in_vain < IDLE_ROUNDS_MAX, "the handlers ended too early");
        if over && app.outstanding().await.is_empty() && app.dead_letters().await.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// See `sql::outbox`: a claim parks deliveries behind another one, and the transaction that
/// ends that one unparks them, in every interleaving.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_hosts_deliver_every_change_once_in_order() {
    let options = options().await;
    let hosts = two_hosts(&options).await;
    hosts[0].watch("t", "c").await;
    let seed = rng::seed();
    let mut rng = Rng::new(seed);
    let book = Arc::new(DeliveryLog::default());
    book.writers.store(4, Ordering::SeqCst);
    let mut tasks = JoinSet::new();
    for task in 0..4 {
        let app = || hosts[task % 2].clone();
        tasks.spawn(write(app(), Arc::clone(&book), rng.split(), 60));
        tasks.spawn(handle(app(), Arc::clone(&book), rng.split()));
    }
    tasks.spawn(replay(hosts[1].clone(), Arc::clone(&book)));
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a task");
    }
    let mut caused = std::mem::take(&mut *book.caused.lock().unwrap());
    let done = std::mem::take(&mut *book.done.lock().unwrap());
    let distinct: BTreeSet<_> = done.iter().collect();
    assert_eq!(distinct.len(), done.len(), "an event was delivered twice");
    let mut set: Vec<_> = done.into_iter().filter(|(_, _, gone)| !gone).collect();
    caused.sort();
    set.sort();
    assert_eq!(set, caused);
    // The deliveries have freed their usage.
    let [app, other] = hosts;
    let sql = format!(
        "SELECT sum(size) FROM kv_entries WHERE app_id = '{}'",
        app.id
    );
    let (_, used) = app.usage().await;
    assert_eq!(psql(&options.url, sql).await.trim(), used.to_string());
    drop((app, other));
    assert_eq!(deadlocks(&options.url).await, 0);
}

/// Deletes an app with all its data while its deliveries are being claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn app_deletion_during_concurrent_claims() {
    let options = options().await;
    let hosts = two_hosts(&options).await;
    hosts[0].watch("t", "c").await;
    let mut tasks = JoinSet::new();
    for task in 0..6_usize {
        let (app, mut rng) = (hosts[task % 2].clone(), Rng::new(task as u64));
        tasks.spawn(async move {
            loop {
                match app.try_commit(vec![], changes(&mut rng)).await {
                    Ok(_) => {}
                    Err(StoreError::AppNotFound) => return,
                    Err(error) => panic!("{error:?}"),
                }
                for (_, receipt) in app.claim("t", 2).await {
                    match rng.below(3) {
                        0 => drop(app.fail(&receipt, Verdict::RetryAt(NOW), true).await),
                        1 => {
                            let verdict = Verdict::DeadLetter(DeadReason::Attempts);
                            app.fail(&receipt, verdict, true).await;
                        }
                        _ => match app.acknowledge(&receipt, changes(&mut rng)).await {
                            Ok(()) | Err(StoreError::AppNotFound) => {}
                            Err(error) => panic!("{error:?}"),
                        },
                    }
                }
            }
        });
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let [app, other] = hosts;
    assert!(app.delete_app().await.expect("deletion"));
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a task");
    }
    reap(&*app.store).await;
    let rows = [
        "kv_entries",
        "triggers",
        "deliveries",
        "dead_letters",
        "app_usage",
    ];
    let rows = rows.map(|table| format!("(SELECT count(*) FROM {table})"));
    let sql = format!("SELECT {}", rows.join(" + "));
    assert_eq!(psql(&options.url, sql).await.trim(), "0");
    drop((app, other));
    assert_eq!(deadlocks(&options.url).await, 0);
}

/// The number of delivery rows read so far. Waits until no store is connected: a session
/// reports its statistics at its end at the latest.
async fn rows_read(url: &str) -> u64 {
    deadlocks(url).await;
    let sql = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) + (SELECT sum(idx_tup_read) \
               FROM pg_stat_user_indexes WHERE relname = 'deliveries') \
               FROM pg_stat_user_tables WHERE relname = 'deliveries'";
    psql(url, sql).await.trim().parse().expect("a number")
}

/// A claim reads only what it may claim, however long the queue is, even if it was planned
/// while the queue was empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claim_does_not_scan_the_queue() {
    const PENDING: u32 = 100_000;
    let options = PostgresOptions {
        max_connections: 1,
        ..options().await
    };
    let app = connect(options.clone()).await.app().await;
    app.watch("t", "c").await;
    // More often than Postgres replans for specific parameters.
    for _ in 0..8 {
        assert!(app.claim("t", 10).await.is_empty());
        assert!(app.due().await.is_empty());
    }
    fill(&options.url, &app, PENDING).await;
    for _ in 0..20 {
        assert_eq!(app.due().await, ["t"]);
        assert_eq!(app.claim("t", 10).await.len(), 10);
    }
    drop(app);
    let read = rows_read(&options.url).await;
    println!("rows read: {read}");
    // All of them together have not read the whole queue once.
    assert!(0 < read && read < u64::from(PENDING) / 2, "{read}");
}

/// Adds pending deliveries, each with its own ordering key.
async fn fill(url: &str, app: &Tenant, count: u32) {
    let sql = format!(
        "INSERT INTO deliveries (app_id, trigger_name, chain, seq, due_at, queued_at, function, \
         event_id, depth, at, kind, collection, key, version, size, bytes) \
         SELECT '{}', 't', n, nextval('delivery_seq'), 1, 1, 't', gen_random_uuid(), 1, 1, 'set', \
         'c', 'k' || n, 1, 10, '' FROM generate_series(1, {count}) AS n",
        app.id
    );
    psql(url, sql).await;
}

/// A parked delivery is waiting, and becomes pending when the one before it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_delivery_waits_until_unparked() {
    let app = connect(options().await).await.app().await;
    app.watch("t", "c").await;
    for value in ["1", "2", "3"] {
        app.set("c", "k", json(value)).await;
    }
    let states = async || {
        let states = app.outstanding().await;
        states.iter().map(Delivery::state).collect::<Vec<_>>()
    };
    use DeliveryState::{Leased, Pending, Waiting};
    assert_eq!(states().await, [Pending, Pending, Pending]);
    let claimed = app.claim("t", 10).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(states().await, [Leased, Waiting, Waiting]);
    assert!(app.claim("t", 10).await.is_empty() && app.due().await.is_empty());
    app.acknowledge(&claimed[0].1, vec![]).await.expect("done");
    assert_eq!(states().await, [Pending, Waiting]);
    let claimed = app.claim("t", 10).await;
    let verdict = Verdict::DeadLetter(DeadReason::Attempts);
    assert!(app.fail(&claimed[0].1, verdict, false).await);
    assert_eq!(states().await, [Pending]);
    assert_eq!(app.claim("t", 10).await.len(), 1);
}

/// A claim neither waits for a delivery that is about to be ended, nor parks the one behind it:
/// that might never be unparked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_behind_a_completing_one_is_not_parked() {
    let options = options().await;
    let app = connect(options.clone()).await.app().await;
    app.watch("t", "c").await;
    app.set("c", "k", json("1")).await;
    let claim = Claim {
        queue: Queue {
            app: app.id,
            trigger: trigger_name("t"),
        },
        now: NOW,
        until: NOW.plus_ms(1000),
        lease: app.id.uuid(),
        limit: 10,
    };
    assert_eq!(app.store.claim(&claim).await.expect("claim").len(), 1);
    app.set("c", "k", json("2")).await;
    let (url, sql) = (
        options.url.clone(),
        "BEGIN; DELETE FROM deliveries WHERE lease IS NOT NULL; \
        SET application_name = 'ends it'; SELECT pg_sleep(600)",
    );
    let session = tokio::task::spawn_blocking(move || {
        let database = url.rsplit('/').next().unwrap().to_owned();
        kvasm_tests::postgres::shared().psql(&database, sql)
    });
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ends it' \
                  AND wait_event = 'PgSleep' AND datname = current_database()";
    while psql(&options.url, asleep).await.trim() == "0" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(app.claim("t", 10).await.is_empty());
    let second = &app.outstanding().await[1];
    assert_eq!(second.state(), DeliveryState::Pending);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = 'ends it' AND datname = current_database()";
    psql(&options.url, end).await;
    assert!(session.await.unwrap().is_err());
    assert!(app.claim("t", 10).await.is_empty());
    assert_eq!(app.outstanding().await[1].state(), DeliveryState::Waiting);
}
