//! Outstanding deliveries, as administrators list and discard them.

use super::Kit;
use super::event_kit::trigger_name;
use super::kit::{NOW, Tenant, json};
use kvasm_core::store::StoreError;
use kvasm_core::{DeliveryFilter, DeliveryState, TriggerDeletion};
use uuid::Uuid;

async fn watched(kit: &Kit) -> Tenant {
    let app = kit.app().await;
    app.watch("t", "c").await;
    app
}

async fn discard(app: &Tenant, which: DeliveryFilter, limit: u32) -> u64 {
    let row = app.audit_row("test");
    let done = app
        .store
        .discard_deliveries(app.id, which, limit, row)
        .await;
    done.expect("a discard")
}

pub async fn outstanding_deliveries_are_listed_in_pages(kit: Kit) {
    let app = watched(&kit).await;
    app.watch("u", "c").await;
    for key in ["a", "b", "a", "c", "a"] {
        app.set("c", key, json("1")).await;
    }
    let all = app.outstanding().await;
    assert_eq!(all.len(), 10);
    let (mut found, mut after) = (Vec::new(), None);
    for _ in 0..10 {
        let which = DeliveryFilter::default();
        let page = app.store.outstanding(app.id, &which, after.as_ref(), 3);
        let page = page.await.expect("a page");
        let Some(last) = page.last() else { break };
        after = Some(last.place.clone());
        found.extend(page);
    }
    assert_eq!(found, all);
    let which = DeliveryFilter::of(trigger_name("u"));
    let after = found
        .iter()
        .find(|delivery| delivery.place.trigger.as_str() == "u");
    let after = after.map(|delivery| delivery.place.clone());
    let rest = app.store.outstanding(app.id, &which, after.as_ref(), 9);
    assert_eq!(rest.await.expect("the rest"), all[6..]);
    let other = kit.app().await;
    assert_eq!(other.outstanding().await, []);
}

pub async fn outstanding_deliveries_can_be_filtered_by_each_field(kit: Kit) {
    let app = watched(&kit).await;
    app.watch("u", "c").await;
    for n in 0..3u64 {
        app.later(10 * n).set("c", &n.to_string(), json("1")).await;
    }
    let all = DeliveryFilter::default;
    let event = app.outstanding().await[0].event.id;
    for (which, count) in [
        (all(), 6),
        (DeliveryFilter::of(trigger_name("t")), 3),
        (DeliveryFilter::of(trigger_name("v")), 0),
        (
            DeliveryFilter {
                events: vec![event, Uuid::nil()],
                ..all()
            },
            2,
        ),
        (
            DeliveryFilter {
                events: vec![event],
                ..DeliveryFilter::of(trigger_name("t"))
            },
            1,
        ),
        (
            DeliveryFilter {
                from: Some(NOW.plus_ms(10)),
                ..all()
            },
            4,
        ),
        (
            DeliveryFilter {
                from: Some(NOW.plus_ms(1)),
                until: Some(NOW.plus_ms(20)),
                ..all()
            },
            2,
        ),
    ] {
        let counted = app.store.count_deliveries(app.id, &which, 100).await;
        assert_eq!(counted.expect("a count"), count, "{which:?}");
        let listed = app.store.outstanding(app.id, &which, None, 100).await;
        assert_eq!(listed.expect("a list").len() as u64, count, "{which:?}");
    }
    let counted = app.store.count_deliveries(app.id, &all(), 4).await;
    assert_eq!(counted.expect("a count"), 4);
    let foreign = kit.app().await;
    let which = DeliveryFilter {
        events: vec![event],
        ..all()
    };
    assert_eq!(discard(&foreign, which.clone(), 9).await, 0);
    assert_eq!(discard(&app, which, 9).await, 2);
    assert_eq!(app.outstanding().await.len(), 4);
}

pub async fn discarding_a_delivery_unblocks_the_next(kit: Kit) {
    let app = watched(&kit).await;
    for _ in 0..3 {
        app.set("c", "k", json("1")).await;
    }
    app.set("c", "l", json("1")).await;
    // A claim marks those that are behind others.
    let claimed = app.claim("t", 10).await;
    assert_eq!(claimed.len(), 2);
    let all = app.outstanding().await;
    let of_key = |key: &str| {
        let is = |d: &&kvasm_core::Delivery| {
            d.event.kind.entry().is_some_and(|(_, k)| k.as_str() == key)
        };
        all.iter()
            .filter(is)
            .map(|d| d.event.id)
            .collect::<Vec<_>>()
    };
    // The first, which a handler is running, and the second, which waits behind it.
    let which = DeliveryFilter {
        events: of_key("k")[..2].to_vec(),
        ..DeliveryFilter::default()
    };
    assert_eq!(discard(&app, which, 10).await, 2);
    let [(next, _)] = app.claim("t", 10).await.try_into().expect("the third");
    assert_eq!(next.event.id, of_key("k")[2]);
    // Discarding one in the middle does not affect the first.
    let third = DeliveryFilter {
        events: of_key("l"),
        ..DeliveryFilter::default()
    };
    assert_eq!(discard(&app, third, 10).await, 1);
    let left = app.outstanding().await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].state(), DeliveryState::Leased);
}

pub async fn discarded_delivery_cannot_be_acknowledged(kit: Kit) {
    let app = watched(&kit).await;
    app.set("c", "k", json("1")).await;
    let [(_, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    assert_eq!(discard(&app, DeliveryFilter::default(), 10).await, 1);
    let late = app.acknowledge(&receipt, vec![super::kit::set("d", "k", json("1"))]);
    let refused = late.await;
    assert!(matches!(refused, Err(StoreError::LeaseLost)), "{refused:?}");
    assert!(app.get("d", "k").await.is_none());
}

pub async fn discards_are_limited_and_free_usage(kit: Kit) {
    let app = watched(&kit).await;
    let before = app.quota_usage().await;
    for n in 0..5 {
        app.set("c", &n.to_string(), json("1")).await;
    }
    assert_eq!(app.quota_usage().await.deliveries, 5);
    assert_eq!(discard(&app, DeliveryFilter::default(), 2).await, 2);
    assert_eq!(discard(&app, DeliveryFilter::default(), 10).await, 3);
    assert_eq!(discard(&app, DeliveryFilter::default(), 10).await, 0);
    for n in 0..5 {
        assert!(app.later(1).delete("c", &n.to_string()).await);
    }
    assert_eq!(discard(&app, DeliveryFilter::default(), 10).await, 5);
    assert_eq!(app.quota_usage().await, before);
}

pub async fn trigger_with_outstanding_deliveries_is_deleted_only_on_request(kit: Kit) {
    let app = watched(&kit).await;
    app.watch("u", "other").await;
    app.set("c", "k", json("1")).await;
    let delete = async |name: &str, must_be_idle| {
        let (name, row) = (trigger_name(name), app.audit_row("test"));
        let deleted = app.store.delete_trigger(app.id, name, must_be_idle, row);
        deleted.await.expect("an answer")
    };
    assert_eq!(delete("t", true).await, TriggerDeletion::Outstanding);
    assert_eq!(app.triggers().await.len(), 2);
    assert_eq!(delete("u", true).await, TriggerDeletion::Deleted);
    assert_eq!(delete("u", true).await, TriggerDeletion::Absent);
    assert_eq!(delete("t", false).await, TriggerDeletion::Deleted);
    // Deliveries outlive their trigger.
    assert_eq!(app.outstanding().await.len(), 1);
    assert_eq!(delete("t", true).await, TriggerDeletion::Absent);
}
