//! An expired entry is absent to every call, at once.

use super::Kit;
use super::kit::{NOW, absent, at_version, bytes, keys_of, list, set, set_until};
use kvasm_core::Timestamp;

pub async fn every_read_treats_an_expired_entry_as_absent(kit: Kit) {
    let app = kit.app().await;
    let until = NOW.plus_ms(100);
    app.set_until("c", "k", bytes("x"), until).await;
    let last_moment = app.later(99);
    assert_eq!(
        last_moment.get("c", "k").await.unwrap().expires_at,
        Some(until)
    );
    assert!(last_moment.has("c", "k").await);
    assert_eq!(last_moment.keys("c").await, ["k"]);
    for ms in [100, 101, 1_000_000] {
        let after = app.later(ms);
        assert_eq!(after.get("c", "k").await, None);
        assert!(!after.has("c", "k").await);
        for with_values in [false, true] {
            let mut query = list("c");
            query.with_values = with_values;
            let page = after.page(&query).await;
            assert!(page.entries.is_empty() && !page.more);
        }
    }
}

pub async fn set_over_an_expired_entry_creates_a_new_entry(kit: Kit) {
    let app = kit.app().await;
    for batch in [false, true] {
        let c = if batch { "batch" } else { "single" };
        let first = app.set_until(c, "k", bytes("1"), NOW.plus_ms(10)).await;
        let after = app.later(10);
        if batch {
            let ops = vec![set(c, "k", bytes("2")), set(c, "l", bytes("2"))];
            after.commit(vec![], ops).await;
        } else {
            after.set(c, "k", bytes("2")).await;
        }
        let entry = after.get(c, "k").await.unwrap();
        assert_eq!(entry.value, bytes("2"));
        assert_eq!((entry.created_at, entry.updated_at), (after.now, after.now));
        assert!(entry.version > first, "the version did not increase");
    }
}

pub async fn absence_check_passes_for_an_expired_entry(kit: Kit) {
    let app = kit.app().await;
    for batch in [false, true] {
        let c = if batch { "batch" } else { "single" };
        let version = app.set_until(c, "k", bytes("1"), NOW.plus_ms(10)).await;
        let ops = || {
            let mut ops = vec![set(c, "k", bytes("2"))];
            ops.extend(batch.then(|| set(c, "l", bytes("2"))));
            ops
        };
        // Before, it exists; after, it does not.
        assert_eq!(
            app.later(9)
                .expect_conflict(vec![absent(c, "k")], ops())
                .await,
            [0]
        );
        let after = app.later(10);
        assert_eq!(
            after
                .expect_conflict(vec![at_version(c, "k", version)], ops())
                .await,
            [0]
        );
        after.commit(vec![absent(c, "k")], ops()).await;
        let entry = after.get(c, "k").await.unwrap();
        assert_eq!((entry.value, entry.created_at), (bytes("2"), after.now));
        assert!(entry.version > version);
    }
}

pub async fn delete_of_an_expired_entry_reports_absent(kit: Kit) {
    let app = kit.app().await;
    for k in ["a", "b", "c", "d"] {
        app.set_until("c", k, bytes("1"), NOW.plus_ms(10)).await;
    }
    let version = app.get("c", "a").await.unwrap().version;
    let after = app.later(10);
    assert_eq!(
        after
            .expect_conflict(
                vec![at_version("c", "a", version)],
                vec![super::kit::delete("c", "a")]
            )
            .await,
        [0]
    );
    assert!(!after.delete("c", "a").await);
    assert!(!after.delete("c", "a").await);
    let applied = after
        .commit(
            vec![],
            vec![super::kit::delete("c", "b"), super::kit::delete("c", "d")],
        )
        .await;
    assert!(
        applied
            .iter()
            .all(|a| *a == kvasm_core::Applied::Deleted { existed: false })
    );
    after
        .commit(vec![absent("c", "c")], vec![super::kit::delete("c", "c")])
        .await;
    assert_eq!(after.keys("c").await, Vec::<String>::new());
    // A version from before the expiry does not bring it back.
    assert!(after.set("c", "a", bytes("2")).await > version);
}

pub async fn set_replaces_the_expiry(kit: Kit) {
    let app = kit.app().await;
    app.set_until("c", "k", bytes("1"), NOW.plus_ms(10)).await;
    app.set_until("c", "k", bytes("2"), NOW.plus_ms(20)).await;
    assert_eq!(app.later(10).value("c", "k").await, Some(bytes("2")));
    app.later(15).set("c", "k", bytes("3")).await;
    let entry = app.later(1_000).get("c", "k").await.unwrap();
    assert_eq!((entry.value, entry.expires_at), (bytes("3"), None));
    assert_eq!(entry.created_at, NOW);
}

pub async fn entry_set_with_a_past_expiry_is_absent(kit: Kit) {
    let app = kit.app().await;
    let before = app.set("c", "k", bytes("1")).await;
    let past = app.set_until("c", "k", bytes("2"), NOW).await;
    assert!(past > before);
    assert_eq!(app.get("c", "k").await, None);
    let version = app
        .set_until("c", "k", bytes("3"), Timestamp(i64::MIN))
        .await;
    assert!(!app.has("c", "k").await);
    assert!(version > past);
    assert!(
        app.set_until("c", "k", bytes("4"), Timestamp(i64::MAX))
            .await
            > version
    );
    assert!(app.has("c", "k").await);
}

pub async fn expired_entries_do_not_count_in_pages(kit: Kit) {
    let app = kit.app().await;
    let ops = (0..40).map(|at| {
        let k = format!("{at:02}");
        match at % 4 {
            0 => set("c", &k, bytes("stays")),
            _ => set_until("c", &k, bytes("goes"), NOW.plus_ms(10)),
        }
    });
    app.commit(vec![], ops.collect()).await;
    let after = app.later(10);
    for with_values in [false, true] {
        let mut query = list("c");
        query.with_values = with_values;
        query.limit = 5;
        let page = after.page(&query).await;
        assert_eq!(keys_of(&page), ["00", "04", "08", "12", "16"]);
        assert!(page.more);
        query.limit = 10;
        let page = after.page(&query).await;
        assert_eq!(page.entries.len(), 10);
        assert!(!page.more, "expired entries must not count as more");
    }
}
