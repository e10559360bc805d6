//! Batches: many operations, in order, all or nothing.

use super::Kit;
use super::kit::{
    NOW, absent, assert_app_not_found, at_version, bytes, delete, json, set, set_until,
};
use kvasm_core::{AppId, Applied, Batch, Commit, Op, Version};

fn version(applied: &Applied) -> Version {
    match applied {
        Applied::Set(version) => *version,
        other => panic!("a set returned {other:?}"),
    }
}

fn deleted(existed: bool) -> Applied {
    Applied::Deleted { existed }
}

pub async fn batch_results_are_in_operation_order(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "b", bytes("old")).await;
    let ops = vec![
        set("c", "z", json("[1]")),
        delete("c", "b"),
        set("d", "a", bytes("2")),
        delete("c", "nothing"),
        set("c", "a", bytes("3")),
    ];
    let applied = app.commit(vec![], ops).await;
    assert_eq!(applied[1], deleted(true));
    assert_eq!(applied[3], deleted(false));
    for (at, c, k, value) in [
        (0, "c", "z", json("[1]")),
        (2, "d", "a", bytes("2")),
        (4, "c", "a", bytes("3")),
    ] {
        let entry = app.get(c, k).await.unwrap();
        assert_eq!((entry.value, entry.version), (value, version(&applied[at])));
    }
    assert_eq!(app.keys("c").await, ["a", "z"]);
}

pub async fn empty_batch_is_a_no_op(kit: Kit) {
    let app = kit.app().await;
    assert_eq!(app.commit(vec![], vec![]).await, []);
    let of_handler = Commit {
        depth: 1,
        ..app.batch(vec![], vec![])
    };
    let done = app.store.commit(of_handler).await;
    assert_eq!(done.expect("committed").applied, []);
    let other = AppId::generate();
    for depth in [0, 1] {
        let batch = Commit {
            depth,
            ..Commit::new(other, NOW, Batch::default())
        };
        assert_app_not_found(app.store.commit(batch).await);
    }
}

pub async fn batch_may_write_the_same_key_twice(kit: Kit) {
    let app = kit.app().await;
    let before = app.set("c", "k", bytes("0")).await;
    let ops = vec![
        set("c", "k", bytes("1")),
        set("c", "other", bytes("x")),
        set("c", "k", json("2")),
        set("c", "k", bytes("3")),
    ];
    let later = app.later(5);
    let applied = later.commit(vec![at_version("c", "k", before)], ops).await;
    let versions: Vec<_> = [0, 2, 3].map(|at| version(&applied[at])).to_vec();
    assert!(before < versions[0] && versions[0] < versions[1] && versions[1] < versions[2]);
    let entry = app.get("c", "k").await.unwrap();
    assert_eq!((entry.value, entry.version), (bytes("3"), versions[2]));
    assert_eq!((entry.created_at, entry.updated_at), (app.now, later.now));
}

pub async fn batch_may_delete_and_recreate_a_key(kit: Kit) {
    let app = kit.app().await;
    for there in [true, false] {
        let before = if there {
            app.set("c", "k", bytes("0")).await
        } else {
            Version(0)
        };
        let ops = vec![
            delete("c", "k"),
            set("c", "k", bytes("1")),
            delete("c", "k"),
            delete("c", "k"),
            set("c", "k", bytes("2")),
            set("c", "k", bytes("3")),
            delete("c", "k"),
        ];
        let applied = app.commit(vec![], ops).await;
        assert_eq!(applied[0], deleted(there));
        assert_eq!(
            [applied[2], applied[3], applied[6]],
            [true, false, true].map(deleted)
        );
        assert!(version(&applied[1]) > before);
        assert!(version(&applied[4]) > version(&applied[1]));
        assert_eq!(app.get("c", "k").await, None);
        let last = app.set("c", "k", bytes("4")).await;
        assert!(last > version(&applied[5]), "a version was reused");
        assert!(app.delete("c", "k").await);
    }
}

pub async fn set_after_delete_in_a_batch_creates_the_entry(kit: Kit) {
    let app = kit.app().await;
    let before = app.set("c", "k", bytes("0")).await;
    let later = app.later(5);
    let ops = vec![delete("c", "k"), set("c", "k", bytes("1"))];
    let applied = later.commit(vec![], ops).await;
    assert_eq!(applied[0], deleted(true));
    let entry = app.get("c", "k").await.unwrap();
    assert_eq!(entry.created_at, later.now);
    assert!(entry.version > before && entry.version == version(&applied[1]));
    let latest = app.later(10);
    let ops = vec![
        set("c", "k", bytes("2")),
        delete("c", "k"),
        set("c", "k", bytes("3")),
        delete("c", "x"),
    ];
    let applied = latest
        .commit(vec![at_version("c", "k", entry.version)], ops)
        .await;
    assert_eq!([applied[1], applied[3]], [true, false].map(deleted));
    let entry = app.get("c", "k").await.unwrap();
    assert_eq!((entry.value, entry.created_at), (bytes("3"), latest.now));
    assert_eq!(app.keys("c").await, ["k"]);
}

pub async fn batch_may_set_an_already_expired_entry(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "k", bytes("0")).await;
    let ops = vec![
        set_until("c", "k", bytes("1"), NOW),
        delete("c", "k"),
        set_until("c", "k", bytes("2"), NOW.plus_ms(1)),
        delete("c", "k"),
        set_until("c", "l", bytes("3"), NOW),
        set("c", "l", bytes("4")),
    ];
    let applied = app.commit(vec![absent("c", "l")], ops).await;
    assert_eq!([applied[1], applied[3]], [false, true].map(deleted));
    assert_eq!(app.keys("c").await, ["l"]);
}

pub async fn batch_of_1000_operations_commits(kit: Kit) {
    let app = kit.app().await;
    let k = |at: usize| format!("{at:04}");
    // In an order other than that of the keys.
    let order = |at: usize| (at * 7) % 1000;
    let ops = (0..1000)
        .map(|at| set("c", &k(order(at)), bytes(k(order(at)))))
        .collect();
    let applied = app.commit(vec![], ops).await;
    assert_eq!(app.keys("c").await, (0..1000).map(k).collect::<Vec<_>>());
    for at in [0, 1, 500, 999] {
        let entry = app.get("c", &k(order(at))).await.unwrap();
        assert_eq!(entry.version, version(&applied[at]));
        assert_eq!(entry.value, bytes(k(order(at))));
    }
    // A check on each, and every second one is deleted.
    let checks = (0..1000)
        .map(|at| at_version("c", &k(order(at)), version(&applied[at])))
        .collect();
    let ops = (0..1000).map(|at| match at % 2 {
        0 => delete("c", &k(at)),
        _ => set("c", &k(at), json("null")),
    });
    let ops: Vec<Op> = ops.collect();
    let applied = app.commit(checks, ops.clone()).await;
    assert!(
        applied
            .iter()
            .step_by(2)
            .all(|applied| *applied == deleted(true))
    );
    assert_eq!(app.keys("c").await.len(), 500);
    let again = app.commit(vec![], ops).await;
    assert!(
        again
            .iter()
            .step_by(2)
            .all(|applied| *applied == deleted(false))
    );
}

pub async fn batch_for_an_unknown_app_writes_nothing(kit: Kit) {
    let app = kit.app().await;
    let mut missing = app.clone();
    missing.id = AppId::generate();
    let ops = vec![
        set("c", "a", bytes("1")),
        set("c", "b", bytes("1")),
        delete("c", "a"),
    ];
    assert_app_not_found(missing.try_commit(vec![], ops).await);
    let mut created = super::kit::app("late");
    created.id = missing.id;
    kit.create(&created).await.unwrap();
    assert_eq!(missing.keys("c").await, Vec::<String>::new());
}

/// Every sequence of up to four operations on one key, starting from an entry that exists, has
/// expired or is absent, gives the same result as the operations one by one.
pub async fn batched_operations_on_a_key_equal_single_writes(kit: Kit) {
    let app = kit.app().await.later(10);
    let kinds = 3_usize;
    for len in 1..=4 {
        for sequence in 0..kinds.pow(len) {
            for start in 0..3 {
                let name = format!("{len}-{sequence}-{start}");
                let op = |c: &str, at: u32| match sequence / kinds.pow(at) % kinds {
                    0 => delete(c, &name),
                    1 => set(c, &name, bytes([at as u8])),
                    _ => set_until(c, &name, bytes([at as u8]), app.now),
                };
                for c in ["single", "batch"] {
                    match start {
                        0 => drop(app.set_until(c, &name, bytes("s"), NOW).await),
                        1 => drop(app.set(c, &name, bytes("s")).await),
                        _ => {}
                    }
                }
                let later = app.later(1);
                let mut single = Vec::new();
                for at in 0..len {
                    single.extend(later.commit(vec![], vec![op("single", at)]).await);
                }
                let batch = later
                    .commit(vec![], (0..len).map(|at| op("batch", at)).collect())
                    .await;
                let deletions = |all: &[Applied]| {
                    let pick = |applied: &Applied| match applied {
                        Applied::Deleted { existed } => Some(*existed),
                        _ => None,
                    };
                    all.iter().map(pick).collect::<Vec<_>>()
                };
                assert_eq!(deletions(&single), deletions(&batch), "{name}");
                let (single, batch) = (
                    later.get("single", &name).await,
                    later.get("batch", &name).await,
                );
                let told = |e: &kvasm_core::Entry| (e.value.clone(), e.created_at, e.updated_at);
                assert_eq!(
                    single.as_ref().map(told),
                    batch.as_ref().map(told),
                    "{name}"
                );
            }
        }
    }
}
