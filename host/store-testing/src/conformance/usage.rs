//! Usage: the counts of an app's entries and bytes are exact.

use super::Kit;
use super::kit::{
    NOW, Tenant, absent, app, at_version, bytes, cost, delete, json, list, set, set_until,
};
use super::rng::Rng;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Check, ListQuery, Op, Quota, Resource, Timestamp, Version};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

pub async fn entries_and_bytes_are_counted(kit: Kit) {
    let app = kit.app().await;
    assert_eq!(app.usage().await, (0, 0));
    app.set("col", "key1", bytes("12345")).await;
    assert_eq!(app.usage().await, (1, 3 + 4 + 5));
    app.set("col", "key1", bytes("1234567890")).await;
    assert_eq!(app.usage().await, (1, 3 + 4 + 10));
    app.set("col", "key1", bytes("1")).await;
    assert_eq!(app.usage().await, (1, 3 + 4 + 1));
    app.set("col", "key1", bytes("")).await;
    assert_eq!(app.usage().await, (1, 3 + 4));
    // The same key in another collection is another entry.
    app.set("c", "key1", bytes([0; 1000])).await;
    assert_eq!(app.usage().await, (2, 7 + 1005));
    assert!(app.delete("c", "key1").await);
    assert_eq!(app.usage().await, (1, 7));
    // Deleting an absent entry changes nothing.
    for (c, k) in [("c", "key1"), ("col", "key2"), ("never", "key1")] {
        assert!(!app.delete(c, k).await);
        assert_eq!(app.usage().await, (1, 7));
    }
    assert!(app.delete("col", "key1").await);
    assert_eq!(app.usage().await, (0, 0));
}

pub async fn usage_counts_bytes_as_written(kit: Kit) {
    let app = kit.app().await;
    // UTF-8, not characters.
    app.set("ä", "\u{10000}é", bytes([255])).await;
    assert_eq!(app.usage().await, (1, 2 + 6 + 1));
    app.delete("ä", "\u{10000}é").await;
    // The text as given, not as a database normalises it.
    for text in [
        "  { \"a\" :  1.50e2 }\n",
        "{\"a\":1,\"a\":2}",
        "\"\\u00e9\"",
    ] {
        app.set("c", "k", json(text)).await;
        assert_eq!(app.usage().await, (1, 2 + text.len() as u64), "{text}");
    }
    // Overwritten with the other format.
    app.set("c", "k", bytes("four")).await;
    assert_eq!(app.usage().await, (1, 2 + 4));
}

pub async fn usage_of_repeated_writes_of_a_key_in_a_batch(kit: Kit) {
    let app = kit.app().await;
    let long = || set("c", "k", bytes("long value"));
    let short = || set("c", "k", bytes("s"));
    let gone = || delete("c", "k");
    let batches = [
        (vec![long(), short()], (1, 3)),
        (vec![short(), long()], (1, 12)),
        (vec![gone(), short(), gone()], (0, 0)),
        (vec![gone(), gone()], (0, 0)),
        (vec![gone(), gone(), long(), gone(), short()], (1, 3)),
        (vec![long(), gone()], (0, 0)),
        (vec![long(), long(), long()], (1, 12)),
        (vec![gone(), long()], (1, 12)),
        (vec![], (1, 12)),
        (vec![gone()], (0, 0)),
    ];
    for (ops, usage) in batches {
        let shown = format!("{ops:?}");
        app.commit(vec![], ops).await;
        assert_eq!(app.usage().await, usage, "{shown}");
    }
}

pub async fn expired_entries_count_until_replaced_or_deleted(kit: Kit) {
    let app = kit.app().await;
    for k in ["a", "b", "d", "e"] {
        app.set_until("c", k, bytes("1234"), NOW.plus_ms(10)).await;
    }
    let after = app.later(10);
    assert!(!after.has("c", "a").await);
    assert_eq!(after.usage().await, (4, 24));
    // Overwritten alone, guarded and in a batch: the entry already counted.
    after.set("c", "a", bytes("1")).await;
    assert_eq!(after.usage().await, (4, 21));
    let set_b = vec![set("c", "b", bytes("12"))];
    after.commit(vec![absent("c", "b")], set_b).await;
    assert_eq!(after.usage().await, (4, 19));
    let mut ops = vec![delete("c", "d"), set("c", "d", bytes(""))];
    ops.push(set_until("c", "f", bytes("gone"), NOW));
    after.commit(vec![], ops).await;
    assert_eq!(after.usage().await, (5, 21));
    // Deleted: reported as absent, and no longer counted.
    assert!(!after.delete("c", "e").await);
    assert_eq!(after.usage().await, (4, 15));
    let ops = vec![delete("c", "f"), delete("c", "f"), delete("c", "e")];
    after.commit(vec![], ops).await;
    assert_eq!(after.usage().await, (3, 9));
}

pub async fn usage_counts_only_guarded_writes_that_succeed(kit: Kit) {
    let app = kit.app().await;
    let (empty, full) = ((0, 0), (1, 7));
    let version = {
        let ops = vec![set("c", "k", bytes("12345"))];
        let wrong = vec![at_version("c", "k", Version(1 << 40))];
        assert_eq!(app.expect_conflict(wrong, ops.clone()).await, [0]);
        assert_eq!(app.usage().await, empty);
        super::kit::set_version(app.commit(vec![absent("c", "k")], ops).await)
    };
    assert_eq!(app.usage().await, full);
    for ops in [
        vec![set("c", "k", bytes("longer than before"))],
        vec![delete("c", "k")],
        vec![delete("c", "k"), set("c", "l", bytes("other"))],
    ] {
        assert_eq!(app.expect_conflict(vec![absent("c", "k")], ops).await, [0]);
        assert_eq!(app.usage().await, full);
    }
    let checks = vec![at_version("c", "k", version), absent("c", "l")];
    app.commit(checks, vec![delete("c", "k")]).await;
    assert_eq!(app.usage().await, empty);
}

pub async fn usage_of_an_unknown_app_is_zero(kit: Kit) {
    let unknown = kit.store.usage(AppId::generate()).await.unwrap();
    assert_eq!((unknown.entries, unknown.bytes), (0, 0));
    let first = kit.app().await;
    first.set("c", "k", bytes("value")).await;
    assert_eq!(first.usage().await, (1, 7));
    assert!(kit.delete_app(first.id).await.unwrap());
    assert_eq!(first.usage().await, (0, 0));
    // The next app of the same name starts at zero.
    let next = app(first.name.as_str());
    kit.create(&next).await.unwrap();
    let second = Tenant {
        id: next.id,
        ..first.clone()
    };
    assert_eq!(second.usage().await, (0, 0));
    second.set("c", "k", bytes("v")).await;
    assert_eq!(second.usage().await, (1, 3));
    assert_eq!(first.usage().await, (0, 0));
}

/// The size of each key's entry, expired or not.
#[derive(Clone, Default)]
struct UsageModel(BTreeMap<(String, String), u64>);

impl UsageModel {
    fn after(&self, ops: &[Op]) -> UsageModel {
        let mut sizes = self.clone();
        for op in ops {
            match op {
                Op::Set {
                    collection,
                    key,
                    value,
                    ..
                } => {
                    let at = (collection.to_string(), key.to_string());
                    let size = at.0.len() + at.1.len() + value.as_bytes().len();
                    sizes.0.insert(at, size as u64);
                }
                Op::Delete { collection, key } => {
                    let at = (collection.to_string(), key.to_string());
                    sizes.0.remove(&at);
                }
                Op::Increment { .. } => panic!("these histories have no increments"),
            }
        }
        sizes
    }

    fn usage(&self) -> (u64, u64) {
        let entries = self.0.len() as u64;
        (entries, cost(entries, 0, self.0.values().sum()))
    }
}

/// The resources that a write would exceed. If both, a store may report either.
fn exceeded_resources(quota: Quota, before: (u64, u64), after: (u64, u64)) -> Vec<(Resource, u64)> {
    let asked = [
        (Resource::Entries, quota.entries, before.0, after.0),
        (Resource::Bytes, quota.bytes, before.1, after.1),
    ];
    let is_short = |(resource, limit, before, after): (Resource, Option<u64>, u64, u64)| {
        let limit = limit?;
        (after > limit && after > before).then_some((resource, limit))
    };
    asked.into_iter().filter_map(is_short).collect()
}

fn random_op(rng: &mut Rng, now: Timestamp) -> Op {
    let c = *rng.pick(&["c", "collection", "ü"]);
    let k = *rng.pick(&["a", "b", "key", "a long key", "é"]);
    let len = rng.below(60);
    let value = match rng.below(3) {
        0 => json(&format!("[ {} ]", "1 ,".repeat(len) + "1")),
        _ => bytes(rng.bytes(len)),
    };
    match rng.below(10) {
        0..=2 => delete(c, k),
        3 | 4 => set_until(c, k, value, now.plus_ms(rng.below(20) as u64)),
        _ => set(c, k, value),
    }
}

fn random_checks(rng: &mut Rng, op: Option<&Op>) -> Vec<Check> {
    let Some(Op::Set {
        collection, key, ..
    }) = op
    else {
        return Vec::new();
    };
    let check = absent(collection.as_str(), key.as_str());
    if rng.chance(1, 4) {
        vec![check]
    } else {
        Vec::new()
    }
}

/// A limit close to the current usage, or none.
fn random_limit(rng: &mut Rng, used: u64) -> Option<u64> {
    let limit = (used + rng.below(400) as u64).saturating_sub(rng.below(300) as u64);
    rng.chance(3, 4).then_some(limit)
}

pub async fn usage_matches_the_model_for_random_histories(kit: Kit) {
    let mut app = kit.app().await;
    let mut rng = kit.rng();
    let (mut sizes, mut quota) = (UsageModel::default(), Quota::default());
    for _ in 0..500 {
        let before = sizes.usage();
        if rng.chance(1, 6) {
            quota = Quota {
                entries: random_limit(&mut rng, before.0),
                bytes: random_limit(&mut rng, before.1),
            };
            app.set_quota(quota.entries, quota.bytes).await;
        }
        let most = *rng.pick(&[1, 1, 2, 8]);
        let ops: Vec<_> = (0..1 + rng.below(most))
            .map(|_| random_op(&mut rng, app.now))
            .collect();
        let checks = random_checks(&mut rng, ops.last());
        let after = sizes.after(&ops);
        let short = exceeded_resources(quota, before, after.usage());
        match app.try_commit(checks, ops.clone()).await {
            Ok(_) => {
                assert!(short.is_empty(), "{short:?} was not enough for {ops:?}");
                sizes = after;
            }
            Err(StoreError::Quota { resource, limit }) => {
                assert!(short.contains(&(resource, limit)), "{resource} {limit}");
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        let used = app.quota_usage().await;
        assert_eq!((used.entries, used.bytes), sizes.usage(), "{ops:?}");
        app.now = app.now.plus_ms(rng.below(5) as u64);
    }
}

/// Asserts that an app's usage equals the size of a collection, all of it read. The app has no
/// other collection and no expired entries.
async fn assert_counted(app: &Tenant, c: &str) {
    let query = ListQuery {
        with_values: true,
        ..list(c)
    };
    let page = app.page(&query).await;
    assert!(!page.more, "all of it");
    let sizes = page.entries.iter().map(|(key, entry)| {
        let value = entry.as_ref().expect("a value").value.as_bytes().len();
        (c.len() + key.as_str().len() + value) as u64
    });
    let bytes = sizes.sum();
    assert_eq!(app.usage().await, (page.entries.len() as u64, bytes));
}

/// A few sets and deletions over a few keys.
fn random_writes(rng: &mut Rng) -> Vec<Op> {
    let few = *rng.pick(&[1, 1, 4]);
    let write = |rng: &mut Rng| {
        let k = format!("k{}", rng.below(10));
        match rng.below(3) {
            0 => delete("c", &k),
            _ => set("c", &k, bytes(rng.short_bytes(200))),
        }
    };
    (0..1 + rng.below(few)).map(|_| write(rng)).collect()
}

/// Starts writers, which continue when the quota rejects a write.
fn writers(app: &Tenant, rng: &mut Rng, quota: Option<u64>) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let (app, mut rng) = (app.clone(), rng.split());
        writers.spawn(async move {
            for _ in 0..50 {
                match app.try_commit(vec![], random_writes(&mut rng)).await {
                    Ok(_) | Err(StoreError::Quota { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
                let used = app.quota_usage().await.bytes;
                assert!(quota.is_none_or(|quota| used <= quota), "{used} bytes");
            }
        });
    }
    writers
}

pub async fn usage_is_exact_under_concurrent_writes(kit: Kit) {
    let app = kit.app().await;
    let mut rng = kit.rng();
    for quota in [None, Some(cost(4, 0, 700))] {
        // The rest of the previous round may be over the quota.
        for number in 0..10 {
            app.delete("c", &format!("k{number}")).await;
        }
        app.set_quota(None, quota).await;
        writers(&app, &mut rng, quota).join_all().await;
        assert_counted(&app, "c").await;
    }
}

pub async fn quota_changes_during_concurrent_writes(kit: Kit) {
    let app = kit.app().await;
    let mut rng = kit.rng();
    let mut writers = writers(&app, &mut rng, None);
    while !writers.is_empty() {
        let entries = rng.chance(1, 2).then(|| rng.below(12) as u64);
        let bytes = rng.chance(1, 2).then(|| rng.below(4000) as u64);
        app.set_quota(entries, bytes).await;
        assert_eq!(app.app_row().await.limits.quota, Quota { entries, bytes });
        if let Some(Err(error)) = writers.try_join_next() {
            std::panic::resume_unwind(error.into_panic());
        }
        tokio::task::yield_now().await;
    }
    assert_counted(&app, "c").await;
    // Room for exactly one more, no matter how the quota was divided before.
    let (entries, used) = app.usage().await;
    let quota = cost(entries + 1, 0, used + 12);
    app.set_quota(Some(entries + 1), Some(quota)).await;
    let refused = app.try_commit(vec![], vec![set("c", "n", bytes("12345678901"))]);
    assert!(matches!(
        refused.await,
        Err(StoreError::Quota {
            resource: Resource::Bytes,
            ..
        })
    ));
    app.set("c", "n", bytes("1234567890")).await;
    assert_eq!(app.usage().await, (entries + 1, used + 12));
}
