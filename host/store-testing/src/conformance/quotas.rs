//! Quotas: writes over the quota fail and change nothing; all others succeed.

use super::Kit;
use super::kit::{
    NOW, Tenant, absent, app, at_version, bytes, cost, delete, set, set_until, set_version,
};
use super::rng::Rng;
use kvasm_core::store::StoreError;
use kvasm_core::{ENTRY_BYTES, Op, Quota, Resource};
use tokio::task::JoinSet;

/// Asserts that a write fails for that reason.
async fn assert_refused(app: &Tenant, ops: Vec<Op>, short: Resource, of: u64) {
    let before = app.usage().await;
    match app.try_commit(vec![], ops.clone()).await {
        Err(StoreError::Quota { resource, limit }) => {
            assert_eq!((resource, limit), (short, of), "{ops:?}");
        }
        other => panic!("{ops:?} over a quota of {of} {short} returned {other:?}"),
    }
    assert_eq!(app.usage().await, before, "{ops:?}");
}

/// The quota filled by `entries` entries whose names and values have `bytes` bytes in total.
fn room(entries: u64, bytes: u64) -> u64 {
    cost(entries, 0, bytes)
}

/// A set in collection `c` whose names and value have `bytes` bytes.
fn sized(k: &str, bytes: usize) -> Op {
    set("c", k, super::kit::bytes(vec![b'x'; bytes - 1 - k.len()]))
}

pub async fn entry_quota_rejects_one_more_entry(kit: Kit) {
    let app = kit.app().await;
    app.set_quota(Some(3), None).await;
    for k in ["a", "b"] {
        app.set("c", k, bytes("1")).await;
    }
    // Two do not fit where there is room for one.
    let two = vec![sized("d", 5), sized("e", 5)];
    assert_refused(&app, two, Resource::Entries, 3).await;
    app.set("c", "d", bytes("1")).await;
    for ops in [
        vec![sized("e", 5)],
        vec![set("other", "a", bytes(""))],
        vec![set_until("c", "e", bytes("1"), NOW)],
        vec![sized("a", 50), sized("e", 5)],
    ] {
        assert_refused(&app, ops, Resource::Entries, 3).await;
    }
    // Existing entries can be written and read.
    app.set("c", "a", bytes("much more than before")).await;
    assert!(!app.delete("c", "not there").await);
    app.commit(vec![], vec![sized("b", 80), sized("d", 90)])
        .await;
    assert_eq!(app.keys("c").await, ["a", "b", "d"]);
}

pub async fn batch_over_the_quota_writes_nothing(kit: Kit) {
    let app = kit.app().await;
    let version = app.set("c", "a", bytes("old")).await;
    let guarded = app.set("c", "b", bytes("old")).await;
    app.set_quota(Some(3), Some(room(2, 100))).await;
    let ops = vec![
        set("c", "a", bytes("new")),
        delete("c", "b"),
        set("d", "b", bytes("new")),
        sized("e", 90),
        set("c", "b", bytes("new")),
    ];
    for checks in [vec![], vec![at_version("c", "b", guarded)]] {
        let refused = app.try_commit(checks, ops.clone()).await;
        assert!(
            matches!(refused, Err(StoreError::Quota { .. })),
            "{refused:?}"
        );
        assert_eq!(app.keys("c").await, ["a", "b"]);
        assert_eq!(app.keys("d").await, Vec::<String>::new());
        let a = app.get("c", "a").await.unwrap();
        assert_eq!((a.value, a.version), (bytes("old"), version));
        assert_eq!(app.get("c", "b").await.unwrap().version, guarded);
        assert_eq!(app.usage().await, (2, 10));
    }
    // Also a single set over an existing entry.
    assert_refused(&app, vec![sized("a", 96)], Resource::Bytes, room(2, 100)).await;
    assert_eq!(app.get("c", "a").await.unwrap().version, version);
}

pub async fn byte_quota_can_be_filled_exactly(kit: Kit) {
    let app = kit.app().await;
    // In many small steps that add up to exactly the quota.
    let quota = room(30, 30 * 7);
    app.set_quota(None, Some(quota)).await;
    for number in 0..30 {
        app.commit(vec![], vec![sized(&format!("{number:02}"), 7)])
            .await;
    }
    assert_eq!(app.usage().await, (30, 210));
    assert_refused(&app, vec![set("c", "k", bytes(""))], Resource::Bytes, quota).await;
    assert_refused(&app, vec![sized("00", 8)], Resource::Bytes, quota).await;
    // In one.
    let app = kit.app().await;
    let quota = room(1, 1000);
    app.set_quota(None, Some(quota)).await;
    for k in ["a", "b", "d"] {
        assert_refused(&app, vec![sized(k, 1001)], Resource::Bytes, quota).await;
        let version = set_version(app.commit(vec![absent("c", k)], vec![sized(k, 1000)]).await);
        assert_refused(&app, vec![sized(k, 1001)], Resource::Bytes, quota).await;
        let same = vec![at_version("c", k, version)];
        app.commit(same, vec![sized(k, 1000)]).await;
        assert!(app.delete("c", k).await);
    }
    // In a batch.
    let quota = room(2, 1000);
    app.set_quota(None, Some(quota)).await;
    let two = |last| vec![sized("a", 500), sized("b", last)];
    assert_refused(&app, two(501), Resource::Bytes, quota).await;
    app.commit(vec![], two(500)).await;
    assert_eq!(app.usage().await, (2, 1000));
}

pub async fn zero_quota_rejects_every_new_entry(kit: Kit) {
    for (entries, bytes, short) in [
        (Some(0), None, Resource::Entries),
        (None, Some(0), Resource::Bytes),
    ] {
        let app = kit.app().await;
        app.set_quota(entries, bytes).await;
        assert_refused(&app, vec![sized("k", 2)], short, 0).await;
        let two = vec![sized("k", 3), sized("l", 3)];
        assert_refused(&app, two, short, 0).await;
        assert!(!app.delete("c", "k").await);
        app.commit(vec![], vec![]).await;
        app.commit(vec![absent("c", "k")], vec![]).await;
        app.commit(vec![], vec![sized("k", 3), delete("c", "k")])
            .await;
        assert_eq!(app.usage().await, (0, 0));
    }
}

pub async fn quota_given_at_creation_is_enforced(kit: Kit) {
    let mut row = app("born-small");
    row.limits.quota = Quota {
        entries: Some(2),
        bytes: Some(room(2, 20)),
    };
    kit.create(&row).await.expect("a new app");
    let app = Tenant {
        id: row.id,
        name: row.name,
        ..kit.app().await
    };
    let quota = room(2, 20);
    let large = sized("k", 21 + ENTRY_BYTES as usize);
    assert_refused(&app, vec![large], Resource::Bytes, quota).await;
    app.commit(vec![], vec![sized("k", 10)]).await;
    app.commit(vec![], vec![sized("l", 10)]).await;
    assert_refused(&app, vec![sized("k", 11)], Resource::Bytes, quota).await;
    app.commit(vec![], vec![sized("k", 2), sized("l", 2)]).await;
    assert_refused(&app, vec![sized("m", 2)], Resource::Entries, 2).await;
}

pub async fn over_the_entry_quota_writes_without_new_entries_succeed(kit: Kit) {
    let app = kit.app().await;
    for k in ["a", "b", "d", "e", "f"] {
        app.set("c", k, bytes("12")).await;
    }
    app.set_quota(Some(2), None).await;
    assert_refused(&app, vec![sized("g", 3)], Resource::Entries, 2).await;
    let one_more = vec![delete("c", "a"), sized("g", 3), sized("h", 3)];
    assert_refused(&app, one_more, Resource::Entries, 2).await;
    // Bytes are unlimited, so an entry may grow, and a new entry may replace another.
    app.commit(vec![], vec![sized("a", 100)]).await;
    app.commit(vec![absent("c", "x")], vec![sized("b", 100), sized("d", 9)])
        .await;
    app.commit(vec![], vec![delete("c", "a"), sized("g", 9)])
        .await;
    assert_eq!(app.usage().await.0, 5);
    for k in ["b", "d", "e"] {
        assert!(app.delete("c", k).await);
        assert_refused(&app, vec![sized("h", 3)], Resource::Entries, 2).await;
    }
    assert!(app.delete("c", "f").await);
    app.commit(vec![], vec![sized("h", 3)]).await;
    assert_eq!(app.keys("c").await, ["g", "h"]);
}

pub async fn over_the_byte_quota_writes_that_do_not_grow_succeed(kit: Kit) {
    let app = kit.app().await;
    app.commit(vec![], vec![sized("a", 50), sized("b", 50)])
        .await;
    let quota = room(2, 60);
    app.set_quota(None, Some(quota)).await;
    assert_refused(&app, vec![sized("d", 2)], Resource::Bytes, quota).await;
    assert_refused(&app, vec![sized("a", 51)], Resource::Bytes, quota).await;
    let moved = vec![sized("a", 40), sized("b", 61)];
    assert_refused(&app, moved, Resource::Bytes, quota).await;
    // Writes of the same size or less succeed, even while the app is over the quota.
    app.commit(vec![], vec![sized("a", 50)]).await;
    app.commit(vec![], vec![sized("a", 49)]).await;
    app.commit(vec![], vec![sized("a", 40), sized("b", 59)])
        .await;
    assert_eq!(app.usage().await, (2, 99));
    // A new entry replaces another.
    let ops = vec![delete("c", "b"), sized("d", 58)];
    app.commit(vec![], ops).await;
    assert_eq!(app.usage().await, (2, 98));
    assert!(app.delete("c", "a").await);
    assert_refused(&app, vec![sized("a", 3)], Resource::Bytes, quota).await;
    app.commit(vec![], vec![sized("a", 2)]).await;
    assert_eq!(app.usage().await, (2, 60));
    // More entries in fewer bytes.
    let large = 2 * ENTRY_BYTES as usize;
    app.set_quota(None, None).await;
    app.commit(vec![], vec![sized("d", large)]).await;
    app.set_quota(None, Some(quota)).await;
    let more = |bytes| vec![sized("d", bytes), sized("e", 10)];
    let same = large - 10 - ENTRY_BYTES as usize;
    assert_refused(&app, more(same + 1), Resource::Bytes, quota).await;
    app.commit(vec![], more(same)).await;
    assert_eq!(app.usage().await.0, 3);
}

pub async fn quota_applies_to_the_net_size_of_a_batch(kit: Kit) {
    let app = kit.app().await;
    app.commit(vec![], vec![sized("a", 40), sized("b", 60)])
        .await;
    let quota = room(2, 100);
    app.set_quota(Some(2), Some(quota)).await;
    // Space freed by the batch is available to the rest of it, in any order.
    app.commit(vec![], vec![delete("c", "a"), sized("d", 40)])
        .await;
    app.commit(vec![], vec![sized("a", 40), delete("c", "d")])
        .await;
    app.commit(vec![], vec![sized("b", 10), sized("a", 90)])
        .await;
    app.commit(vec![], vec![sized("b", 60), sized("a", 40)])
        .await;
    // Operations that the same batch later replaces take no space.
    let ops = vec![sized("a", 5000), sized("x", 70), delete("c", "x")];
    app.commit(vec![], [ops, vec![sized("a", 40)]].concat())
        .await;
    assert_eq!(app.usage().await, (2, 100));
    assert_eq!(app.keys("c").await, ["a", "b"]);
    let ops = vec![delete("c", "a"), sized("d", 41)];
    assert_refused(&app, ops, Resource::Bytes, quota).await;
}

pub async fn expired_entries_count_against_the_quota(kit: Kit) {
    let app = kit.app().await;
    app.set_quota(Some(2), None).await;
    for k in ["a", "b"] {
        app.set_until("c", k, bytes("1"), NOW.plus_ms(5)).await;
    }
    let after = app.later(5);
    assert_eq!(after.keys("c").await, Vec::<String>::new());
    assert_refused(&after, vec![sized("d", 3)], Resource::Entries, 2).await;
    after
        .commit(vec![absent("c", "a")], vec![sized("a", 9)])
        .await;
    assert!(!after.delete("c", "b").await);
    after.commit(vec![], vec![sized("d", 3)]).await;
    assert_eq!(after.usage().await, (2, 12));
}

pub async fn deleting_an_entry_frees_quota(kit: Kit) {
    let name = |at: usize| format!("k{at:02}");
    for (entries, bytes, short, of) in [
        (Some(10), None, Resource::Entries, 10),
        (None, Some(room(10, 200)), Resource::Bytes, room(10, 200)),
    ] {
        let app = kit.app().await;
        app.set_quota(entries, bytes).await;
        for at in 0..10 {
            app.commit(vec![], vec![sized(&name(at), 20)]).await;
        }
        for at in 10..30 {
            assert_refused(&app, vec![sized(&name(at), 20)], short, of).await;
            assert!(app.delete("c", &name(at - 10)).await);
            app.commit(vec![], vec![sized(&name(at), 20)]).await;
        }
        assert_eq!(app.usage().await, (10, 200));
    }
}

pub async fn raising_the_quota_takes_effect_at_once(kit: Kit) {
    let app = kit.app().await;
    app.set_quota(Some(1), Some(room(1, 10))).await;
    app.commit(vec![], vec![sized("a", 10)]).await;
    assert_refused(&app, vec![sized("a", 11)], Resource::Bytes, room(1, 10)).await;
    app.set_quota(Some(1), Some(room(1, 11))).await;
    app.commit(vec![], vec![sized("a", 11)]).await;
    app.set_quota(Some(1), Some(100)).await;
    assert_refused(&app, vec![sized("b", 11)], Resource::Entries, 1).await;
    let quota = room(2, 100);
    app.set_quota(Some(2), Some(quota)).await;
    app.commit(vec![], vec![sized("b", 89)]).await;
    app.set_quota(None, Some(quota)).await;
    assert_refused(&app, vec![sized("d", 2)], Resource::Bytes, quota).await;
    app.set_quota(None, None).await;
    app.commit(vec![], vec![sized("d", 100_000)]).await;
    assert_eq!(app.usage().await, (3, 100_100));
}

pub async fn quota_of_one_app_does_not_affect_another(kit: Kit) {
    let (one, two) = (kit.app().await, kit.app().await);
    let (of_one, of_two) = (room(1, 13), room(2, 30));
    one.set_quota(Some(1), Some(of_one)).await;
    two.set_quota(Some(2), Some(of_two)).await;
    for app in [&one, &two] {
        app.commit(vec![], vec![sized("a", 10)]).await;
    }
    assert_refused(&one, vec![sized("a", 14)], Resource::Bytes, of_one).await;
    two.commit(vec![], vec![sized("b", 20)]).await;
    assert_refused(&two, vec![sized("b", 21)], Resource::Bytes, of_two).await;
    assert!(two.delete("c", "a").await);
    // Space freed by one app is not available to the other.
    assert_refused(&one, vec![sized("b", 2)], Resource::Entries, 1).await;
    assert_eq!(one.usage().await, (1, 10));
    assert_eq!(two.usage().await, (1, 20));
    assert!(kit.delete_app(two.id).await.unwrap());
    assert_refused(&one, vec![sized("a", 14)], Resource::Bytes, of_one).await;
}

const WRITERS: usize = 32;

/// Writes new entries of random sizes until each is rejected: single operations by statements,
/// several by transactions.
async fn fill(app: Tenant, writer: usize, quota: u64, mut rng: Rng) -> u64 {
    let mut sizes = vec![16, 200, 3000];
    let mut sum = 0;
    for at in 0.. {
        let Some(size) = sizes.get(rng.below(sizes.len().max(1))).copied() else {
            break;
        };
        let k = format!("w{writer:02}-{at:05}");
        let (checks, ops) = match rng.below(3) {
            0 => (vec![], vec![sized(&k, size)]),
            1 => (vec![absent("c", &k)], vec![sized(&k, size)]),
            _ => (vec![], vec![sized(&k, size), delete("c", "nothing")]),
        };
        match app.try_commit(checks, ops).await {
            Ok(_) => sum += room(1, size as u64),
            Err(StoreError::Quota { resource, limit }) => {
                assert_eq!((resource, limit), (Resource::Bytes, quota));
                sizes.retain(|other| *other < size);
            }
            Err(error) => panic!("{error:?}"),
        }
        let used = app.quota_usage().await.bytes;
        assert!(used <= quota, "{used} bytes of {quota}");
    }
    sum
}

pub async fn concurrent_writers_never_exceed_the_byte_quota(kit: Kit) {
    const QUOTA: u64 = 300_000;
    let app = kit.app().await;
    app.set_quota(None, Some(QUOTA)).await;
    let mut rng = kit.rng();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(fill(app.clone(), writer, QUOTA, rng.split()));
    }
    let written: u64 = writers.join_all().await.into_iter().sum();
    let used = app.quota_usage().await.bytes;
    assert_eq!(used, written);
    // Every writer was refused the smallest entry, so there is no room for it.
    assert!(used + room(1, 16) > QUOTA, "{used} bytes of {QUOTA}");
}

pub async fn concurrent_writers_never_exceed_the_entry_quota(kit: Kit) {
    const QUOTA: usize = 200;
    let app = kit.app().await;
    app.set_quota(Some(QUOTA as u64), None).await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let app = app.clone();
        writers.spawn(async move {
            for at in 0.. {
                let mut ops = vec![sized(&format!("w{writer:02}-{at}"), 10)];
                if (writer + at) % 2 == 0 {
                    ops.push(set("c", "w00-0", bytes("")));
                }
                match app.try_commit(vec![], ops).await {
                    Ok(_) => {}
                    Err(StoreError::Quota { resource, .. }) => {
                        assert_eq!(resource, Resource::Entries);
                        return at;
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            0
        });
    }
    writers.join_all().await;
    assert_eq!(app.usage().await.0, QUOTA as u64);
    assert_eq!(app.keys("c").await.len(), QUOTA);
}
