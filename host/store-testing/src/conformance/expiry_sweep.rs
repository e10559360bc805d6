//! Only expired entries are swept, in bounded steps.

use super::Kit;
use super::kit::{NOW, json};

pub async fn expired_entries_are_swept_in_steps(kit: Kit) {
    let app = kit.app().await;
    for n in 0..5u64 {
        app.set_until("c", &n.to_string(), json("1"), NOW.plus_ms(n))
            .await;
    }
    app.set("d", "stays", json("1")).await;
    let usage = app.usage().await;
    assert_eq!(usage, (6, 5 * 3 + 7));
    let sweep = |ms: u64, limit| app.store.sweep(app.id, NOW.plus_ms(ms), limit);
    assert_eq!(sweep(0, 10).await.expect("one"), 1);
    assert_eq!(sweep(3, 2).await.expect("two"), 2);
    assert_eq!(sweep(3, 2).await.expect("one"), 1);
    assert_eq!(sweep(3, 2).await.expect("none"), 0);
    assert_eq!(app.usage().await, (2, 3 + 7));
    assert!(app.has("c", "4").await && app.has("d", "stays").await);
    assert_eq!(sweep(9, 2).await.expect("the last"), 1);
    assert_eq!(app.keys("c").await, [""; 0]);
}

pub async fn rewritten_entry_is_not_swept(kit: Kit) {
    let app = kit.app().await;
    app.watch("t", "c").await;
    app.set_until("c", "a", json("1"), NOW.plus_ms(1)).await;
    app.set_until("c", "b", json("1"), NOW.plus_ms(1)).await;
    app.set("c", "a", json("2")).await;
    app.set_until("c", "b", json("2"), NOW.plus_ms(10)).await;
    let told = app.outstanding().await.len();
    assert_eq!(
        app.store
            .sweep(app.id, NOW.plus_ms(5), 10)
            .await
            .expect("none"),
        0
    );
    assert_eq!(app.later(5).value("c", "b").await, Some(json("2")));
    assert_eq!(
        app.store
            .sweep(app.id, NOW.plus_ms(10), 10)
            .await
            .expect("one"),
        1
    );
    // The expiry of an entry is not a change.
    assert_eq!(app.outstanding().await.len(), told);
    let nobody = kvasm_core::AppId::generate();
    assert_eq!(app.store.sweep(nobody, NOW, 10).await.expect("no app"), 0);
}

/// Concurrent writers and sweepers: no live entry is lost, and usage is exact.
pub async fn sweeping_during_concurrent_writes_loses_nothing(kit: Kit) {
    let app = kit.app().await;
    let writer = tokio::spawn({
        let app = app.clone();
        async move {
            for n in 0..300u64 {
                let key = (n % 10).to_string();
                match n % 3 {
                    0 => drop(app.set("c", &key, json("1")).await),
                    1 => drop(app.set_until("c", &key, json("1"), NOW).await),
                    _ => drop(app.set_until("c", &key, json("1"), NOW.plus_ms(99)).await),
                }
            }
            for n in 0..10 {
                app.set("c", &n.to_string(), json("22")).await;
            }
        }
    });
    while !writer.is_finished() {
        app.store.sweep(app.id, NOW, 3).await.expect("a sweep");
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer");
    assert_eq!(app.keys("c").await.len(), 10);
    assert_eq!(app.usage().await, (10, 40));
}
