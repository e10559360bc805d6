//! Reads of many entries at once.

use super::Kit;
use super::kit::{NOW, Tenant, bytes, collection, json, key, set};
use kvasm_core::store::StoreError;
use kvasm_core::{Entry, Value};

async fn get(
    app: &Tenant,
    keys: &[(&str, &str)],
    bytes_max: usize,
) -> Result<Vec<Option<Entry>>, StoreError> {
    let keys: Vec<_> = keys.iter().map(|(c, k)| (collection(c), key(k))).collect();
    app.store.get_many(app.id, &keys, app.now, bytes_max).await
}

pub async fn get_many_returns_results_in_request_order(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "a", json("1")).await;
    app.set("d", "a", bytes("two")).await;
    app.set_until("c", "gone", json("3"), NOW).await;
    let keys = [
        ("d", "a"),
        ("c", "absent"),
        ("c", "a"),
        ("c", "gone"),
        ("d", "a"),
    ];
    let found = get(&app, &keys, 1000).await.expect("entries");
    let values: Vec<_> = found
        .iter()
        .map(|e| e.as_ref().map(|e| e.value.clone()))
        .collect();
    let two = Some(bytes("two"));
    assert_eq!(values, [two.clone(), None, Some(json("1")), None, two]);
    assert_eq!(found[2], app.get("c", "a").await);
    assert_eq!(get(&app, &[], 10).await.expect("nothing"), []);
}

pub async fn get_many_limits_the_total_value_bytes(kit: Kit) {
    let app = kit.app().await;
    for k in ["a", "b"] {
        app.set("c", k, bytes("12345")).await;
    }
    let keys = [("c", "a"), ("c", "b"), ("c", "absent")];
    assert!(get(&app, &keys, 10).await.is_ok());
    let refused = get(&app, &keys, 9).await;
    assert!(
        matches!(refused, Err(StoreError::AnswerTooLarge { limit: 9 })),
        "{refused:?}"
    );
    // A key that is requested twice is returned twice.
    assert!(get(&app, &[("c", "a"), ("c", "a")], 9).await.is_err());
}

/// A result includes a batch completely or not at all.
pub async fn get_many_reads_a_consistent_snapshot(kit: Kit) {
    let app = kit.app().await;
    let write = |n: u32| {
        let value = json(&n.to_string());
        vec![set("c", "a", value.clone()), set("c", "b", value)]
    };
    app.commit(vec![], write(0)).await;
    let writer = tokio::spawn({
        let app = app.clone();
        async move {
            for n in 1..200 {
                app.commit(vec![], write(n)).await;
            }
        }
    });
    while !writer.is_finished() {
        let found = get(&app, &[("c", "a"), ("c", "b")], 100)
            .await
            .expect("entries");
        let value = |at: usize| found[at].as_ref().map(|entry: &Entry| entry.value.clone());
        assert_eq!(value(0), value(1));
    }
    writer.await.expect("the writer");
    let all: Vec<Value> = get(&app, &[("c", "a")], 100)
        .await
        .expect("one")
        .into_iter()
        .flatten()
        .map(|e| e.value)
        .collect();
    assert_eq!(all, [json("199")]);
}
