//! The log of changes: complete, in the order of each key's commits, and bounded.

use super::Kit;
use super::kit::{Tenant, bytes, delete, json, set, set_until};
use kvasm_core::store::{ChangePage, ChangeRange, ChangeRetention, LoggedChange, StoreError};
use kvasm_core::{AppId, Applied, Op, Timestamp, Value, Version};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;

/// Keeps everything.
const ALL: ChangeRetention = ChangeRetention {
    age: Duration::from_secs(365 * 24 * 60 * 60),
    bytes: u64::MAX >> 1,
};
/// Keeps no byte.
const NONE: ChangeRetention = ChangeRetention {
    age: Duration::from_secs(365 * 24 * 60 * 60),
    bytes: 0,
};

fn now_and_later() -> (Timestamp, Timestamp) {
    let now = Timestamp::now();
    (now, now.plus_ms(3_600_000))
}

async fn keep(kit: &Kit, app: AppId) -> u64 {
    let (_, until) = now_and_later();
    let start = kit.store.keep_changes(app, until).await;
    start.expect("the changes are kept")
}

async fn page(kit: &Kit, app: AppId, after: u64, limit: u32) -> ChangePage {
    let head = kit.store.changes_head(after).await.expect("a head");
    let range = ChangeRange {
        after,
        to: head.position,
        limit,
        bytes_max: u64::MAX >> 1,
    };
    kit.store.changes(app, range).await.expect("a page")
}

/// Reads until `count` changes are there.
async fn read(kit: &Kit, app: AppId, mut after: u64, count: usize) -> Vec<LoggedChange> {
    let mut found: Vec<LoggedChange> = Vec::new();
    while found.len() < count {
        let page = page(kit, app, after, 7).await;
        assert!(page.start.expect("a log") <= after, "{page:?}");
        after = page.changes.last().map_or(after, |change| change.position);
        found.extend(page.changes);
        tokio::task::yield_now().await;
    }
    found
}

fn shown(change: &LoggedChange) -> (&str, &str, Version, Option<&Value>) {
    let (collection, key) = (change.collection.as_str(), change.key.as_str());
    (collection, key, change.version, change.value.as_ref())
}

/// A write of any kind is a change; a deletion of nothing, expiry and a failed batch are none.
pub async fn changes_are_logged_while_they_are_kept(kit: Kit) {
    let app = kit.app().await;
    let app = Tenant {
        now: Timestamp::now(),
        ..app
    };
    let other = kit.app().await;
    app.set("c", "before", json("0")).await;
    let start = keep(&kit, app.id).await;
    let first = app.set("c", "a", json("1")).await;
    other.set("c", "a", json("2")).await;
    let second = app.set("c", "a", bytes([0, 255, 10, 13])).await;
    assert!(!app.delete("c", "absent").await);
    assert!(app.delete("c", "a").await);
    app.expect_conflict(
        vec![super::kit::absent("c", "before")],
        vec![set("c", "lost", json("1"))],
    )
    .await;
    let add = Op::Increment {
        collection: super::kit::collection("d"),
        key: super::kit::key("n"),
        delta: 5,
    };
    let batch = vec![
        set("d", "x", json("{\"y\":[1]}")),
        add,
        delete("c", "before"),
    ];
    let applied = app.commit(vec![], batch).await;
    let versions = applied.iter().map(|applied| match applied {
        Applied::Set(version) | Applied::Incremented { version, .. } => Some(*version),
        _ => None,
    });
    let versions: Vec<_> = versions.collect();
    let found = read(&kit, app.id, start, 6).await;
    let of = |c: &str, k: &str| {
        let of_key = found
            .iter()
            .filter(|at| shown(at).0 == c && shown(at).1 == k);
        of_key
            .map(|at| (at.version, at.value.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of("c", "a"),
        [
            (first, Some(json("1"))),
            (second, Some(bytes([0, 255, 10, 13]))),
            (second, None),
        ]
    );
    assert_eq!(
        of("d", "n"),
        [(versions[1].expect("a version"), Some(json("5")))]
    );
    assert_eq!(of("d", "x").len(), 1);
    assert_eq!(of("c", "before").len(), 1);
    assert_eq!(found.len(), 6, "{found:?}");
    assert!(
        found
            .windows(2)
            .all(|two| two[0].position < two[1].position)
    );
    // Of the other app nothing is kept.
    let none = page(&kit, other.id, 0, 100).await;
    assert_eq!(none, ChangePage::default());
    // An expired entry is removed without a change, but written over with one.
    let soon = Timestamp(app.now.0 - 1);
    app.commit(vec![], vec![set_until("c", "gone", json("1"), soon)])
        .await;
    let after = found.last().expect("a change").position;
    let after = read(&kit, app.id, after, 1).await[0].position;
    assert!(!app.delete("c", "gone").await);
    kit.store
        .sweep(app.id, app.now, 100)
        .await
        .expect("a sweep");
    app.set("c", "end", json("1")).await;
    let rest = read(&kit, app.id, after, 1).await;
    assert_eq!(rest[0].key.as_str(), "end", "{rest:?}");
}

/// While many write, a reader gets each change once, and those of a key in the order of versions.
pub async fn concurrent_changes_are_read_once_and_in_order(kit: Kit) {
    const WRITERS: usize = 6;
    const WRITES: usize = 40;
    let app = kit.app().await;
    let start = keep(&kit, app.id).await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let app = app.clone();
        writers.spawn(async move {
            let mut versions = Vec::new();
            for n in 0..WRITES {
                let shared = format!("shared{}", n % 3);
                let ops = vec![
                    set("c", &format!("own{writer}"), json("1")),
                    set("c", &shared, json(&n.to_string())),
                ];
                // Batches of several kinds.
                let ops = if n % 2 == 0 { ops } else { ops[1..].to_vec() };
                for applied in app.commit(vec![], ops).await {
                    match applied {
                        Applied::Set(version) => versions.push(version),
                        other => panic!("a set returned {other:?}"),
                    }
                }
            }
            versions
        });
    }
    let count = WRITERS * WRITES * 3 / 2;
    let found = read(&kit, app.id, start, count).await;
    let written = writers.join_all().await;
    let mut written: Vec<_> = written.into_iter().flatten().collect();
    let mut seen: Vec<_> = found.iter().map(|change| change.version).collect();
    written.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, written);
    let mut last = BTreeMap::new();
    for change in &found {
        let before = last.insert(change.key.clone(), change.version);
        assert!(
            before.is_none_or(|before| before < change.version),
            "{change:?}"
        );
    }
}

/// What was removed is not passed over silently.
pub async fn pruned_changes_raise_the_start_of_the_log(kit: Kit) {
    let app = kit.app().await;
    let app = Tenant {
        now: Timestamp::now(),
        ..app
    };
    let (now, until) = now_and_later();
    let ended = until.plus_ms(60_000);
    let start = keep(&kit, app.id).await;
    for n in 0..10 {
        app.set("c", &n.to_string(), bytes([7; 1_000])).await;
    }
    let all = read(&kit, app.id, start, 10).await;
    let prune = async |now, retain, limit| {
        let pruned = kit.store.prune_changes(app.id, now, retain, limit).await;
        pruned.expect("a removal")
    };
    assert_eq!(prune(now, ALL, 100).await, 0);
    let some = ChangeRetention {
        bytes: 5_500,
        ..ALL
    };
    // In steps, the oldest first.
    assert_eq!(prune(now, some, 3).await, 3);
    assert_eq!(prune(now, some, 3).await, 2);
    assert_eq!(prune(now, some, 3).await, 0);
    let rest = page(&kit, app.id, start, 100).await;
    assert_eq!(rest.start, Some(all[4].position));
    assert_eq!(rest.changes, all[5..]);
    // By age.
    let old = ChangeRetention {
        age: Duration::from_secs(60),
        ..ALL
    };
    assert_eq!(prune(now.plus_ms(59_000), old, 100).await, 0);
    assert_eq!(prune(app.now.plus_ms(60_001), old, 100).await, 5);
    // Once it is not kept any more, the log ends; another one begins later.
    app.set("c", "last", json("1")).await;
    let apps = kit.store.apps_with_changes(None, 1_000).await;
    assert!(apps.expect("apps").contains(&app.id));
    assert_eq!(prune(ended, ALL, 100).await, 1);
    assert_eq!(prune(ended, ALL, 100).await, 0);
    assert_eq!(page(&kit, app.id, start, 100).await, ChangePage::default());
    app.set("c", "unseen", json("1")).await;
    let again = keep(&kit, app.id).await;
    assert!(again > all[9].position);
    app.set("c", "seen", json("1")).await;
    assert_eq!(read(&kit, app.id, again, 1).await[0].key.as_str(), "seen");
    // A log that is extended keeps its start.
    assert_eq!(keep(&kit, app.id).await, again);
}

/// A deleted app has no log, and the removal of its entries is no change.
pub async fn log_of_a_deleted_app_is_removed(kit: Kit) {
    let app = kit.app().await;
    let start = keep(&kit, app.id).await;
    for n in 0..5 {
        app.set("c", &n.to_string(), json("1")).await;
    }
    read(&kit, app.id, start, 5).await;
    kit.delete_app(app.id).await.expect("a deletion");
    super::kit::reap(&*kit.store).await;
    let (now, until) = now_and_later();
    let kept = kit.store.keep_changes(app.id, until).await;
    assert!(matches!(kept, Err(StoreError::AppNotFound)), "{kept:?}");
    let prune = kit.store.prune_changes(app.id, now, NONE, 100).await;
    assert_eq!(prune.expect("a removal"), 5);
    let prune = kit.store.prune_changes(app.id, now, NONE, 100).await;
    assert_eq!(prune.expect("a removal"), 0);
    assert_eq!(page(&kit, app.id, 0, 100).await, ChangePage::default());
    let apps = kit
        .store
        .apps_with_changes(None, 1_000)
        .await
        .expect("apps");
    assert!(!apps.contains(&app.id));
}

/// Pages are limited by number and bytes; a large change is a page of its own.
pub async fn pages_of_changes_are_bounded(kit: Kit) {
    let app = kit.app().await;
    let start = keep(&kit, app.id).await;
    for size in [10, 10, 5_000, 10] {
        app.set("c", "k", bytes(vec![1; size])).await;
    }
    read(&kit, app.id, start, 4).await;
    let to = kit.store.changes_head(start).await.expect("a head");
    assert!(to.apps.contains(&app.id));
    let (mut after, mut pages) = (start, Vec::new());
    loop {
        let range = ChangeRange {
            after,
            to: to.position,
            limit: 10,
            bytes_max: 1_000,
        };
        let page = kit.store.changes(app.id, range).await.expect("a page");
        let Some(last) = page.changes.last() else {
            break;
        };
        after = last.position;
        pages.push(page.changes.len());
    }
    assert_eq!(pages, [2, 1, 1]);
    let head = kit.store.changes_head(after).await.expect("a head");
    assert!(!head.apps.contains(&app.id));
}
