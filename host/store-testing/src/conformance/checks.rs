//! Checks: a batch takes effect only if all of its checks hold.

use super::Kit;
use super::kit::{absent, at_version, bytes, delete, set, set_version};
use kvasm_core::{Applied, Version};

pub async fn set_can_require_absence_or_a_version(kit: Kit) {
    let app = kit.app().await;
    let op = |value| vec![set("c", "k", bytes(value))];
    // Of an absent entry, only its absence holds.
    assert_eq!(
        app.expect_conflict(vec![at_version("c", "k", Version(1))], op("0"))
            .await,
        [0]
    );
    let first = set_version(app.commit(vec![absent("c", "k")], op("1")).await);
    assert_eq!(
        app.expect_conflict(vec![absent("c", "k")], op("2")).await,
        [0]
    );
    for wrong in [0, 1, first.0 - 1, first.0 + 1, u64::MAX] {
        if wrong != first.0 {
            let check = at_version("c", "k", Version(wrong));
            assert_eq!(
                app.expect_conflict(vec![check], op("2")).await,
                [0],
                "version {wrong}"
            );
        }
    }
    assert_eq!(app.value("c", "k").await, Some(bytes("1")));
    let second = set_version(app.commit(vec![at_version("c", "k", first)], op("2")).await);
    assert!(second > first);
    assert_eq!(
        app.expect_conflict(vec![at_version("c", "k", first)], op("3"))
            .await,
        [0]
    );
    let entry = app.get("c", "k").await.unwrap();
    assert_eq!((entry.value, entry.version), (bytes("2"), second));
}

pub async fn delete_can_require_a_version(kit: Kit) {
    let app = kit.app().await;
    let op = || vec![delete("c", "k")];
    assert_eq!(
        app.expect_conflict(vec![at_version("c", "k", Version(1))], op())
            .await,
        [0]
    );
    let old = app.set("c", "k", bytes("1")).await;
    let new = app.set("c", "k", bytes("2")).await;
    assert_eq!(
        app.expect_conflict(vec![at_version("c", "k", old)], op())
            .await,
        [0]
    );
    assert!(app.has("c", "k").await);
    let applied = app.commit(vec![at_version("c", "k", new)], op()).await;
    assert_eq!(applied, [Applied::Deleted { existed: true }]);
    assert_eq!(
        app.expect_conflict(vec![at_version("c", "k", new)], op())
            .await,
        [0]
    );
}

pub async fn delete_can_require_absence(kit: Kit) {
    let app = kit.app().await;
    let op = || vec![delete("c", "k")];
    let applied = app.commit(vec![absent("c", "k")], op()).await;
    assert_eq!(applied, [Applied::Deleted { existed: false }]);
    app.set("c", "k", bytes("1")).await;
    assert_eq!(app.expect_conflict(vec![absent("c", "k")], op()).await, [0]);
    assert!(app.has("c", "k").await);
}

pub async fn all_failed_checks_are_reported(kit: Kit) {
    let app = kit.app().await;
    let version = app.set("c", "there", bytes("1")).await;
    let checks = vec![
        at_version("c", "there", version),
        absent("c", "there"),
        absent("c", "gone"),
        at_version("c", "gone", version),
        at_version("c", "there", Version(version.0 + 1)),
        at_version("d", "there", version),
        at_version("c", "there", version),
        absent("c", "there"),
    ];
    let op = vec![set("c", "new", bytes("1"))];
    assert_eq!(
        app.expect_conflict(checks.clone(), op).await,
        [1, 3, 4, 5, 7]
    );
    assert_eq!(app.expect_conflict(checks, vec![]).await, [1, 3, 4, 5, 7]);
    assert!(!app.has("c", "new").await);
    // The same check twice on the key that is set, one of them wrong.
    let checks = vec![at_version("c", "there", version), absent("c", "there")];
    assert_eq!(
        app.expect_conflict(checks, vec![set("c", "there", bytes("2"))])
            .await,
        [1]
    );
}

pub async fn failed_check_aborts_the_whole_batch(kit: Kit) {
    let app = kit.app().await;
    let version = app.set("c", "a", bytes("1")).await;
    app.set("c", "b", bytes("1")).await;
    let ops = vec![
        set("c", "a", bytes("2")),
        delete("c", "b"),
        set("c", "d", bytes("2")),
        set("d", "a", bytes("2")),
    ];
    let checks = vec![
        at_version("c", "a", version),
        absent("c", "x"),
        absent("c", "b"),
    ];
    assert_eq!(app.expect_conflict(checks, ops).await, [2]);
    let entry = app.get("c", "a").await.unwrap();
    assert_eq!((entry.value, entry.version), (bytes("1"), version));
    assert_eq!(app.keys("c").await, ["a", "b"]);
    assert_eq!(app.keys("d").await, Vec::<String>::new());
}

pub async fn checks_see_the_state_before_the_batch(kit: Kit) {
    let app = kit.app().await;
    let ops = vec![
        set("c", "k", bytes("1")),
        delete("c", "k"),
        set("c", "k", bytes("2")),
    ];
    app.commit(vec![absent("c", "k"), absent("c", "k")], ops.clone())
        .await;
    let version = app.get("c", "k").await.unwrap().version;
    let ops = vec![delete("c", "k"), set("c", "k", bytes("3"))];
    app.commit(vec![at_version("c", "k", version)], ops.clone())
        .await;
    assert_eq!(app.expect_conflict(vec![absent("c", "k")], ops).await, [0]);
    assert_eq!(app.value("c", "k").await, Some(bytes("3")));
}

pub async fn check_may_cover_a_key_that_is_not_written(kit: Kit) {
    let app = kit.app().await;
    let version = app.set("c", "guard", bytes("1")).await;
    let op = |value| vec![set("c", "k", bytes(value))];
    app.commit(vec![at_version("c", "guard", version)], op("1"))
        .await;
    app.commit(vec![absent("c", "other")], op("2")).await;
    assert_eq!(
        app.expect_conflict(vec![absent("c", "guard")], op("3"))
            .await,
        [0]
    );
    let removed = vec![delete("c", "k")];
    assert_eq!(
        app.expect_conflict(vec![at_version("d", "guard", version)], removed.clone())
            .await,
        [0]
    );
    assert_eq!(app.value("c", "k").await, Some(bytes("2")));
    // The checks wrote nothing.
    assert_eq!(app.keys("c").await, ["guard", "k"]);
    assert_eq!(app.get("c", "guard").await.unwrap().version, version);
    app.commit(
        vec![absent("c", "other"), at_version("c", "guard", version)],
        removed,
    )
    .await;
    assert_eq!(app.keys("c").await, ["guard"]);
    // Any caller can create what was checked for absence.
    app.commit(
        vec![absent("c", "other")],
        vec![set("c", "other", bytes("1"))],
    )
    .await;
}

pub async fn batch_may_contain_only_checks(kit: Kit) {
    let app = kit.app().await;
    let version = app.set("c", "k", bytes("1")).await;
    app.commit(vec![at_version("c", "k", version)], vec![])
        .await;
    app.commit(
        vec![absent("c", "x"), at_version("c", "k", version)],
        vec![],
    )
    .await;
    assert_eq!(
        app.expect_conflict(vec![absent("c", "k")], vec![]).await,
        [0]
    );
    assert_eq!(app.keys("c").await, ["k"]);
}

pub async fn recreated_entry_fails_an_old_version_check(kit: Kit) {
    let app = kit.app().await;
    let mut old = app.set("c", "k", bytes("same")).await;
    for _ in 0..20 {
        app.delete("c", "k").await;
        let new = app.set("c", "k", bytes("same")).await;
        let op = vec![set("c", "k", bytes("mine"))];
        assert_eq!(
            app.expect_conflict(vec![at_version("c", "k", old)], op)
                .await,
            [0]
        );
        old = new;
    }
}
