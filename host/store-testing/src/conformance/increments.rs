//! Increments: checked, atomic, and over the same integers on every store.

use super::Kit;
use super::event_kit::increment;
use super::kit::{NOW, Tenant, absent, at_version, bytes, cost, delete, json, set};
use kvasm_core::store::StoreError;
use kvasm_core::{Applied, Value, Version};
use tokio::task::JoinSet;

async fn add(app: &Tenant, k: &str, delta: i64) -> Result<(Version, i64), StoreError> {
    let applied = app
        .try_commit(vec![], vec![increment("c", k, delta)])
        .await?;
    match applied.as_slice() {
        [Applied::Incremented { version, value }] => Ok((*version, *value)),
        other => panic!("an increment returned {other:?}"),
    }
}

pub async fn increment_of_an_absent_entry_starts_at_zero(kit: Kit) {
    let app = kit.app().await;
    let (first, value) = add(&app, "k", 5).await.expect("a sum");
    assert_eq!(value, 5);
    let (second, value) = add(&app, "k", -7).await.expect("a sum");
    assert_eq!(value, -2);
    assert!(second > first);
    let entry = app.get("c", "k").await.expect("an entry");
    assert_eq!((entry.value, entry.version), (json("-2"), second));
    assert_eq!((entry.created_at, entry.updated_at), (NOW, NOW));
}

/// Which JSON numbers are integers, and their values.
pub async fn increment_accepts_the_same_integers_on_every_store(kit: Kit) {
    let app = kit.app().await;
    for (text, sum) in [
        ("0", 1),
        ("-0", 1),
        ("41", 42),
        ("1e2", 101),
        ("1.5e1", 16),
        ("-2E+3", -1999),
        (" 7 ", 8),
        ("9223372036854775806", i64::MAX),
    ] {
        app.set("c", "k", json(text)).await;
        let added = add(&app, "k", 1).await.expect(text);
        assert_eq!(added.1, sum, "{text}");
        assert_eq!(app.value("c", "k").await, Some(json(&sum.to_string())));
    }
    for text in ["1.0", "0.5", "10e-1", "true", "null", "\"1\"", "[1]", "{}"] {
        let version = app.set("c", "k", json(text)).await;
        let refused = add(&app, "k", 1).await;
        assert!(
            matches!(refused, Err(StoreError::NotInteger { at: 0 })),
            "{text}: {refused:?}"
        );
        // A store may write the number in another form, but has not written it again.
        assert_eq!(app.get("c", "k").await.expect("kept").version, version);
    }
    app.set("c", "k", bytes("1")).await;
    let refused = add(&app, "k", 1).await;
    assert!(matches!(refused, Err(StoreError::NotInteger { at: 0 })));
}

pub async fn increment_overflow_is_rejected(kit: Kit) {
    let app = kit.app().await;
    for (text, delta) in [
        ("9223372036854775807", 1),
        ("-9223372036854775808", -1),
        ("1", i64::MAX),
        ("9223372036854775808", -1),
        ("1e300", -1),
    ] {
        let before = app.set("c", "k", json(text)).await;
        let refused = add(&app, "k", delta).await;
        assert!(
            matches!(refused, Err(StoreError::Overflow { at: 0 })),
            "{text}: {refused:?}"
        );
        assert_eq!(app.get("c", "k").await.expect("kept").version, before);
    }
    app.set("c", "k", json("-1")).await;
    assert_eq!(
        add(&app, "k", i64::MIN + 1).await.expect("fits").1,
        i64::MIN
    );
}

pub async fn increment_keeps_the_expiry_and_restarts_after_it(kit: Kit) {
    let app = kit.app().await;
    app.set_until("c", "k", json("5"), NOW.plus_ms(10)).await;
    assert_eq!(add(&app.later(9), "k", 1).await.expect("a sum").1, 6);
    let entry = app.later(9).get("c", "k").await.expect("still there");
    assert_eq!(entry.expires_at, Some(NOW.plus_ms(10)));
    assert_eq!(entry.created_at, NOW);
    assert_eq!(add(&app.later(10), "k", 1).await.expect("a sum").1, 1);
    let entry = app.later(10).get("c", "k").await.expect("a new one");
    assert_eq!(
        (entry.expires_at, entry.created_at),
        (None, NOW.plus_ms(10))
    );
}

pub async fn increments_see_earlier_operations_of_their_batch(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "a", json("10")).await;
    let ops = vec![
        increment("c", "a", 1),
        set("c", "a", json("100")),
        increment("c", "a", 1),
        increment("c", "b", 3),
        delete("c", "b"),
        increment("c", "b", 4),
    ];
    let applied = app.commit(vec![absent("c", "b")], ops).await;
    let values: Vec<_> = applied
        .iter()
        .map(|applied| match applied {
            Applied::Incremented { value, .. } => *value,
            Applied::Set(_) => -1,
            Applied::Deleted { existed } => -2 - i64::from(*existed),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, [11, -1, 101, 3, -3, 4]);
    assert_eq!(app.value("c", "a").await, Some(json("101")));
    assert_eq!(app.value("c", "b").await, Some(json("4")));
    let Applied::Incremented { version, .. } = applied[2] else {
        panic!("{applied:?}")
    };
    assert_eq!(app.get("c", "a").await.expect("a").version, version);
    let guarded = vec![at_version("c", "a", version)];
    let applied = app.commit(guarded, vec![increment("c", "a", 1)]).await;
    assert!(matches!(
        applied[..],
        [Applied::Incremented { value: 102, .. }]
    ));
}

pub async fn rejected_increment_aborts_its_batch(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "text", json("\"x\"")).await;
    let ops = vec![
        set("c", "new", json("1")),
        increment("c", "n", 1),
        increment("c", "text", 1),
    ];
    let refused = app.try_commit(vec![], ops).await;
    assert!(
        matches!(refused, Err(StoreError::NotInteger { at: 2 })),
        "{refused:?}"
    );
    assert!(!app.has("c", "new").await && !app.has("c", "n").await);
}

pub async fn increments_count_against_the_quota(kit: Kit) {
    let app = kit.app().await;
    add(&app, "k", 9).await.expect("a sum");
    assert_eq!(app.usage().await, (1, 3));
    add(&app, "k", 1).await.expect("a sum");
    assert_eq!(app.usage().await, (1, 4));
    app.set_quota(Some(1), Some(cost(1, 0, 4))).await;
    assert!(matches!(
        add(&app, "l", 1).await,
        Err(StoreError::Quota { .. })
    ));
    assert!(matches!(
        add(&app, "k", 90).await,
        Err(StoreError::Quota { .. })
    ));
    add(&app, "k", -1)
        .await
        .expect("decreasing is always allowed");
    assert_eq!(app.value("c", "k").await, Some(json("9")));
}

/// 32 concurrent callers, 1,000 increments each.
pub async fn concurrent_increments_lose_no_update(kit: Kit) {
    let app = kit.app().await;
    let mut callers = JoinSet::new();
    for _ in 0..32 {
        let app = app.clone();
        callers.spawn(async move {
            let mut last = i64::MIN;
            for _ in 0..1_000 {
                let (_, value) = add(&app, "k", 1).await.expect("a sum");
                assert!(value > last, "a sum decreased");
                last = value;
            }
        });
    }
    callers.join_all().await;
    assert_eq!(app.value("c", "k").await, Some(json("32000")));
}

pub async fn concurrent_increments_do_not_lose_a_set(kit: Kit) {
    let app = kit.app().await;
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let app = app.clone();
        callers.spawn(async move {
            for round in 0..50 {
                // Each batch increments two keys, in its own order.
                let (first, second) = if (caller + round) % 2 == 0 {
                    ("a", "b")
                } else {
                    ("b", "a")
                };
                let ops = vec![increment("c", first, 1), increment("c", second, 1)];
                app.commit(vec![], ops).await;
            }
        });
    }
    callers.join_all().await;
    for k in ["a", "b"] {
        let Some(Value::Json(text)) = app.value("c", k).await else {
            panic!("{k} is missing")
        };
        assert_eq!(text.as_str(), "400");
    }
}
