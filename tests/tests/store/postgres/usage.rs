//! Quotas enforced jointly by several hosts.

use super::{connect, deadlocks, options, psql};
use kvasm::model::{
    AppId, AppLimits, Applied, Audit, Check, Op, Quota, Resource, Timestamp, Usage, Value,
};
use kvasm::store::{PostgresOptions, StoreError};
use kvasm_store_testing::conformance::kit::{
    NOW, Tenant, absent, app, at_version, bytes, cost, delete, set, set_until, unique_name,
};
use kvasm_store_testing::conformance::rng::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

pub fn audit() -> Audit {
    Audit {
        id: AppId::generate().uuid(),
        at: NOW,
        token: None,
        actor: "test".to_owned(),
        action: "test".into(),
        app: None,
        detail: serde_json::json!({}),
        request_id: AppId::generate().uuid(),
    }
}

pub fn quota(entries: impl Into<Option<u64>>, bytes: impl Into<Option<u64>>) -> AppLimits {
    AppLimits {
        quota: Quota {
            entries: entries.into(),
            bytes: bytes.into(),
        },
        ..AppLimits::default()
    }
}

/// Two hosts on one database, and an app with a quota as seen by each.
pub async fn two_hosts(options: &PostgresOptions, limits: AppLimits) -> [Tenant; 2] {
    let kits = [
        connect(options.clone()).await,
        connect(options.clone()).await,
    ];
    let mut app = app(&unique_name());
    app.limits = limits;
    kits[0].create(&app).await.expect("a new app");
    kits.map(|kit| Tenant {
        store: kit.store,
        id: app.id,
        name: app.name.clone(),
        now: NOW,
    })
}

pub async fn used(app: &Tenant) -> Usage {
    app.store.usage(app.id).await.expect("usage")
}

async fn update(app: &Tenant, limits: AppLimits) {
    let set = app.store.set_limits(app.id, limits.into(), None, audit());
    assert_eq!(set.await.expect("limits").limits, limits);
}

/// Writes; on a rejection, returns the resource and the limit.
async fn write(app: &Tenant, checks: Vec<Check>, ops: Vec<Op>) -> Result<(), (Resource, u64)> {
    match app.try_commit(checks, ops).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(StoreError::Quota { resource, limit }) => Err((resource, limit)),
        Err(error) => panic!("{error:?}"),
    }
}

/// Asserts that usage matches the stored entries, and that no slot has a placeholder's usage.
async fn assert_counted(options: &PostgresOptions, app: &Tenant) {
    let sql = format!(
        "SELECT count(*), coalesce(sum(size + 192), 0) FROM kv_entries WHERE app_id = '{}'",
        app.id
    );
    let found = psql(&options.url, sql).await;
    let Usage { entries, bytes, .. } = used(app).await;
    assert_eq!(found.trim(), format!("{entries}|{bytes}"));
}

fn value(len: usize) -> Value {
    bytes(vec![7; len])
}

/// The usage of an entry of collection `c` that `fill` writes, with an empty value.
const SMALLEST: u64 = cost(1, 0, 1 + 7);

/// Writes new entries of decreasing size, until not even an empty one fits.
async fn fill(app: Tenant, writer: usize, limit: u64) {
    let mut rng = Rng::new(writer as u64);
    let mut len = 600;
    for at in 0.. {
        let key = |n: usize| format!("{writer:02}-{:04}", at * 3 + n);
        let ops = match rng.below(3) {
            0 => vec![set("c", &key(0), value(len))],
            // A multi-row statement, and a transaction.
            1 => (0..2).map(|n| set("c", &key(n), value(len / 2))).collect(),
            _ => vec![set("c", &key(0), value(len)), delete("c", &key(1))],
        };
        let checks = match rng.below(3) {
            0 => vec![absent("c", &key(0))],
            _ => vec![],
        };
        let single = ops.len() == 1;
        match write(&app, checks, ops).await {
            Ok(()) => {}
            Err(refusal) => {
                assert_eq!(refusal, (Resource::Bytes, limit));
                if len == 0 && single {
                    return;
                }
                len /= 2;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_on_two_hosts_fill_a_byte_quota_exactly() {
    const LIMIT: u64 = 100_003;
    let options = options().await;
    let hosts = two_hosts(&options, quota(None, LIMIT)).await;
    let mut writers = JoinSet::new();
    for writer in 0..32 {
        writers.spawn(fill(hosts[writer % 2].clone(), writer, LIMIT));
    }
    while !writers.is_empty() {
        let now = used(&hosts[0]).await;
        assert!(now.bytes <= LIMIT, "{now:?}");
        while let Some(ended) = writers.try_join_next() {
            ended.expect("a writer");
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let left = LIMIT - used(&hosts[0]).await.bytes;
    assert!(left < SMALLEST, "{left} bytes remain");
    assert_counted(&options, &hosts[1]).await;

    let [one, two] = &hosts;
    let first = one.keys("c").await.swap_remove(0);
    let len = match one.value("c", &first).await {
        Some(Value::Bytes(bytes)) => bytes.len(),
        other => panic!("{other:?}"),
    };
    let refused = Err((Resource::Bytes, LIMIT));
    let grown = |by: u64| vec![set("c", &first, value(len + by as usize))];
    assert_eq!(write(two, vec![], grown(left + 1)).await, refused);
    assert_eq!(write(two, vec![], grown(left)).await, Ok(()));
    assert_eq!(used(one).await.bytes, LIMIT);
    assert_eq!(
        write(one, vec![], vec![set("c", "x", value(0))]).await,
        refused
    );
    assert_eq!(
        write(one, vec![], grown(left)).await,
        Ok(()),
        "the same size as before"
    );
    assert_counted(&options, one).await;
    drop(hosts);
    assert_eq!(deadlocks(&options.url).await, 0);
}

/// The entry limit is enforced like the byte limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_never_exceed_the_entry_quota() {
    let options = options().await;
    let hosts = two_hosts(&options, quota(101, None)).await;
    let mut writers = JoinSet::new();
    for writer in 0..32_usize {
        let app = hosts[writer % 2].clone();
        writers.spawn(async move {
            for at in 0..10 {
                let ops = vec![set("c", &format!("{writer}-{at}"), value(at))];
                let _ = write(&app, vec![], ops).await;
            }
        });
    }
    writers.join_all().await;
    assert_eq!(used(&hosts[0]).await.entries, 101);
    assert_counted(&options, &hosts[1]).await;
}

/// Any kind of write, on few keys, so that writers conflict.
fn any(rng: &mut Rng) -> (Vec<Check>, Vec<Op>) {
    let names: Vec<String> = (0..24).map(|n| format!("k{n}")).collect();
    let op = |rng: &mut Rng| {
        let key = rng.pick(&names).clone();
        let len = rng.below(80);
        match rng.below(6) {
            0 | 1 => delete("c", &key),
            2 => set_until(
                "c",
                &key,
                value(len),
                Timestamp(NOW.0 - 5 + rng.below(10) as i64),
            ),
            _ => set("c", &key, value(len)),
        }
    };
    let first = op(rng);
    let key = first.address().1.as_str().to_owned();
    match rng.below(6) {
        0 => (vec![absent("c", &key)], vec![first]),
        1 | 2 => (vec![], vec![first]),
        3 => {
            let sets = names.iter().filter(|_| rng.chance(1, 4)).cloned();
            let sets: Vec<_> = sets.collect();
            let sets = sets.iter().map(|k| set("c", k, value(rng.below(80))));
            (vec![], sets.collect())
        }
        _ => {
            let ops = (0..rng.below(6)).map(|_| op(rng)).chain([first]).collect();
            let other = rng.pick(&names).clone();
            let checks = match rng.below(3) {
                0 => vec![absent("c", &other)],
                _ => vec![],
            };
            (checks, ops)
        }
    }
}

/// Writes random batches until it is stopped, some of them guarded by a version.
async fn write_anything(app: Tenant, mut rng: Rng, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        let (mut checks, ops) = any(&mut rng);
        if let ([], [Op::Set { key, .. } | Op::Delete { key, .. }]) = (&*checks, &*ops)
            && rng.chance(1, 3)
            && let Some(entry) = app.get("c", key.as_str()).await
        {
            checks.push(at_version("c", key.as_str(), entry.version));
        }
        let _ = write(&app, checks, ops).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_matches_the_entries_after_random_writes() {
    let options = options().await;
    for settings in [quota(None, None), quota(15, cost(10, 0, 600))] {
        let hosts = two_hosts(&options, settings).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut seed = Rng::new(kvasm_store_testing::conformance::rng::seed());
        let mut writers = JoinSet::new();
        for writer in 0..12_usize {
            let app = hosts[writer % 2].clone();
            writers.spawn(write_anything(app, seed.split(), Arc::clone(&stop)));
        }
        for _ in 0..10 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            // One statement reads one snapshot of both tables.
            let sql = format!(
                "SELECT (SELECT count(*) FROM kv_entries WHERE app_id = '{0}') \
                 = (SELECT sum(entries) FROM app_usage WHERE app_id = '{0}'), \
                 (SELECT coalesce(sum(size + 192), 0) FROM kv_entries WHERE app_id = '{0}') \
                 = (SELECT sum(bytes) FROM app_usage WHERE app_id = '{0}')",
                hosts[0].id
            );
            assert_eq!(psql(&options.url, sql).await.trim(), "t|t");
        }
        stop.store(true, Ordering::SeqCst);
        writers.join_all().await;
        assert_counted(&options, &hosts[0]).await;
        drop(hosts);
    }
    assert_eq!(deadlocks(&options.url).await, 0);
}

/// While an app is over a lowered quota, its usage does not grow, no matter which slots its
/// writers free and use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quota_changes_under_concurrent_writers_on_two_hosts() {
    let options = options().await;
    let hosts = two_hosts(&options, quota(None, None)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut rng = Rng::new(kvasm_store_testing::conformance::rng::seed());
    let mut writers = JoinSet::new();
    for writer in 0..8_usize {
        let app = hosts[writer % 2].clone();
        writers.spawn(write_anything(app, rng.split(), Arc::clone(&stop)));
    }
    for round in 0..30 {
        let entries = rng.chance(2, 3).then(|| rng.below(20) as u64);
        let bytes = rng.chance(2, 3).then(|| rng.below(4000) as u64);
        let app = &hosts[round % 2];
        update(app, quota(entries, bytes)).await;
        let mut before = used(app).await;
        for _ in 0..10 {
            let now = used(app).await;
            let grew = |now: u64, before: u64, limit: Option<u64>| {
                now > before && limit.is_some_and(|limit| now > limit)
            };
            assert!(
                !grew(now.entries, before.entries, entries)
                    && !grew(now.bytes, before.bytes, bytes),
                "{before:?} became {now:?} with {entries:?} and {bytes:?}"
            );
            before = now;
        }
    }
    stop.store(true, Ordering::SeqCst);
    writers.join_all().await;
    assert_counted(&options, &hosts[0]).await;
    // Once the limit is removed, nothing is rejected.
    update(&hosts[0], quota(None, None)).await;
    let sets = (0..100).map(|at| set("d", &format!("k{at}"), value(100)));
    let sets: Vec<_> = sets.collect();
    assert_eq!(write(&hosts[1], vec![], sets).await, Ok(()));
    drop(hosts);
    assert_eq!(deadlocks(&options.url).await, 0);
}

/// Space freed by one host is available to the other, although they count in different slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_quota_app_must_free_before_it_grows() {
    let options = options().await;
    let [one, two] = two_hosts(&options, quota(None, None)).await;
    for at in 0..10 {
        // 100 bytes each.
        one.set("c", &format!("k{at}"), value(97)).await;
    }
    for key in ["one", "two"] {
        one.set("c", key, value(96)).await;
    }
    let limit = cost(7, 0, 650);
    update(&two, quota(None, limit)).await;
    let refused = Err((Resource::Bytes, limit));
    let put = |key: &str, len: usize| vec![set("c", key, value(len))];
    for (app, key) in [(&one, "one"), (&two, "two")] {
        // A host cannot reuse what it has freed while the app is still over its quota.
        assert!(app.delete("c", key).await);
        assert_eq!(write(app, vec![], put("k0", 98)).await, refused);
        assert_eq!(write(app, vec![], put("n", 0)).await, refused);
        assert_eq!(write(app, vec![], put("k0", 97)).await, Ok(()));
        let exchange = vec![delete("c", "k1"), set("c", "n1", value(98))];
        assert_eq!(write(app, vec![], exchange).await, refused);
    }
    let exchange = vec![delete("c", "k1"), set("c", "n1", value(97))];
    assert_eq!(write(&two, vec![], exchange).await, Ok(()));
    for key in ["k2", "k3", "k4"] {
        assert!(two.delete("c", key).await);
    }
    assert_eq!(write(&two, vec![], put("k0", 47)).await, Ok(()));
    // 650 are in use.
    assert_eq!(write(&one, vec![], put("k0", 48)).await, refused);
    assert!(two.delete("c", "n1").await);
    assert_eq!(write(&one, vec![], put("k2", 98)).await, refused);
    assert_eq!(write(&one, vec![], put("k2", 97)).await, Ok(()));
    assert_eq!(write(&two, vec![], put("k3", 0)).await, refused);
    assert_counted(&options, &one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_may_use_the_whole_quota() {
    let options = options().await;
    let [one, two] = two_hosts(&options, quota(100, cost(100, 0, 10_000))).await;
    let keys: Vec<_> = (0..100).map(|at| format!("k{at:02}")).collect();
    // 100 bytes each.
    let all: Vec<_> = keys.iter().map(|k| set("c", k, value(96))).collect();
    let mut too_many = all.clone();
    too_many.push(set("c", "k", value(0)));
    let refused = Err((Resource::Entries, 100));
    assert_eq!(write(&one, vec![], too_many).await, refused);
    assert_eq!(used(&one).await, Usage::default());
    assert_eq!(write(&one, vec![], all.clone()).await, Ok(()));
    let deletions: Vec<_> = keys.iter().map(|k| delete("c", k)).collect();
    assert_eq!(write(&two, vec![], deletions).await, Ok(()));
    assert_eq!(used(&one).await, Usage::default());
    // A transaction, with checks on keys that stay absent.
    let mut mixed = all;
    mixed.push(delete("c", "nothing"));
    let checks = vec![absent("c", "k00"), absent("c", "none")];
    assert_eq!(write(&two, checks, mixed).await, Ok(()));
    let full = Usage {
        entries: 100,
        bytes: cost(100, 0, 10_000),
        deliveries: 0,
    };
    assert_eq!(used(&one).await, full);
    assert_counted(&options, &one).await;
    let one_value = vec![delete("c", "k00"), set("c", "k01", value(196))];
    assert_eq!(one.commit(vec![], one_value).await.len(), 2);
    assert_eq!(used(&one).await.bytes, cost(99, 0, 10_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_entries_count_until_they_are_overwritten() {
    let options = options().await;
    let [one, two] = two_hosts(&options, quota(2, None)).await;
    one.set_until("c", "a", value(10), NOW.plus_ms(5)).await;
    one.set("c", "b", value(10)).await;
    let later = two.later(10);
    let put = |key: &str| vec![set("c", key, value(1))];
    let refused = Err((Resource::Entries, 2));
    assert_eq!(write(&later, vec![], put("d")).await, refused);
    assert_eq!(
        write(&later, vec![absent("c", "a")], put("a")).await,
        Ok(())
    );
    assert_eq!(
        used(&one).await,
        Usage {
            entries: 2,
            bytes: cost(2, 0, 15),
            deliveries: 0,
        }
    );
    let deleted = later.commit(vec![], vec![delete("c", "a")]).await;
    assert_eq!(deleted, [Applied::Deleted { existed: true }]);
    assert_eq!(write(&later, vec![], put("d")).await, Ok(()));
    assert_counted(&options, &one).await;
}
