//! Deliveries: claimed in order, leased, acknowledged with a commit, nacked.

use super::Kit;
use super::event_kit::{trigger, watch};
use super::kit::{NOW, Tenant, absent, collection, delete, json, key, set};
use super::loop_guard::LoopGuard;
use kvasm_core::store::StoreError;
use kvasm_core::{
    Delivery, DeliveryState, EventKind, LeaseToken, NewTrigger, Policy, Queue, Timestamp, Verdict,
};
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::JoinSet;

pub(super) fn key_of(delivery: &Delivery) -> String {
    let (_, key) = delivery.event.kind.entry().expect("an entry");
    key.as_str().to_owned()
}

pub(super) fn value_of(delivery: &Delivery) -> String {
    match &delivery.event.kind {
        EventKind::Set { value, .. } => String::from_utf8_lossy(value.as_bytes()).into_owned(),
        other => panic!("not a set: {other:?}"),
    }
}

pub(super) async fn watched(kit: &Kit) -> Tenant {
    let app = kit.app().await;
    app.watch("t", "c").await;
    app
}

pub async fn claimed_delivery_is_leased(kit: Kit) {
    let app = watched(&kit).await;
    assert_eq!(app.due().await, [""; 0]);
    app.set("c", "k", json("1")).await;
    assert_eq!(app.due().await, ["t"]);
    let [(delivery, receipt)] = app.claim("t", 10).await.try_into().expect("one");
    assert_eq!(
        (delivery.attempts, delivery.state()),
        (1, DeliveryState::Leased)
    );
    assert_eq!(delivery.due_at, Some(NOW.plus_ms(1_000)));
    assert_eq!(app.due().await, [""; 0]);
    assert_eq!(app.claim("t", 10).await, []);
    app.acknowledge(&receipt, vec![set("d", "k", json("2"))])
        .await
        .expect("done");
    assert_eq!(app.value("d", "k").await, Some(json("2")));
    assert_eq!(app.outstanding().await, []);
    let again = app
        .acknowledge(&receipt, vec![set("d", "k", json("3"))])
        .await;
    assert!(matches!(again, Err(StoreError::LeaseLost)), "{again:?}");
    assert_eq!(app.value("d", "k").await, Some(json("2")));
}

/// A late handler has no effect, neither by its writes nor on the delivery.
pub async fn expired_lease_is_lost(kit: Kit) {
    let app = watched(&kit).await;
    app.set("c", "k", json("1")).await;
    let [(_, slow)] = app.claim("t", 1).await.try_into().expect("one");
    let later = app.later(1_000);
    assert_eq!(app.later(999).claim("t", 1).await, []);
    let [(delivery, quick)] = later.claim("t", 1).await.try_into().expect("rescued");
    assert_eq!(delivery.attempts, 2);
    let late = later
        .acknowledge(&slow, vec![set("d", "k", json("1"))])
        .await;
    assert!(matches!(late, Err(StoreError::LeaseLost)), "{late:?}");
    assert!(!later.has("d", "k").await);
    assert!(!later.fail(&slow, Verdict::RetryAt(NOW), false).await);
    assert!(
        !later
            .store
            .renew(&slow, NOW.plus_ms(9_999))
            .await
            .expect("renew")
    );
    later
        .acknowledge(&quick, vec![])
        .await
        .expect("the holder of the lease");
    assert_eq!(later.outstanding().await, []);
}

pub async fn renewed_lease_stays_valid(kit: Kit) {
    let app = watched(&kit).await;
    app.set("c", "k", json("1")).await;
    let [(_, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    let until = NOW.plus_ms(5_000);
    assert!(app.store.renew(&receipt, until).await.expect("renew"));
    assert_eq!(app.later(4_999).claim("t", 1).await, []);
    app.later(4_999)
        .acknowledge(&receipt, vec![])
        .await
        .expect("done");
}

pub async fn failed_check_does_not_acknowledge_the_delivery(kit: Kit) {
    let app = watched(&kit).await;
    app.set("c", "k", json("1")).await;
    let [(_, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    let batch = app.acknowledging(
        &receipt,
        vec![absent("c", "k")],
        vec![set("d", "k", json("1"))],
    );
    let refused = app.store.commit(batch).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { .. })),
        "{refused:?}"
    );
    app.acknowledge(&receipt, vec![])
        .await
        .expect("the lease still holds");
}

pub async fn deliveries_of_a_key_are_sequential(kit: Kit) {
    let app = watched(&kit).await;
    for n in 0..5 {
        app.set("c", "a", json(&n.to_string())).await;
        app.set("c", "b", json(&n.to_string())).await;
    }
    for n in 0..5 {
        let claimed = claim_all(&app).await;
        let mut keys: Vec<_> = claimed.iter().map(|(d, _)| key_of(d)).collect();
        keys.sort();
        assert_eq!(keys, ["a", "b"], "round {n}");
        assert!(claimed.iter().all(|(d, _)| value_of(d) == n.to_string()));
        assert_eq!(claim_all(&app).await, []);
        for (_, receipt) in claimed {
            app.acknowledge(&receipt, vec![]).await.expect("done");
        }
    }
    assert_eq!(app.outstanding().await, []);
}

/// Claims until nothing is due: a claim may examine deliveries that have to wait.
async fn claim_all(app: &Tenant) -> Vec<(Delivery, LeaseToken)> {
    let mut all = Vec::new();
    let mut rounds = LoopGuard::new();
    while !app.due().await.is_empty() {
        rounds.next();
        all.extend(app.claim("t", 100).await);
    }
    all
}

pub async fn retry_blocks_only_its_own_key(kit: Kit) {
    let app = watched(&kit).await;
    app.set("c", "a", json("1")).await;
    app.set("c", "a", json("2")).await;
    app.set("c", "b", json("3")).await;
    let claimed = claim_all(&app).await;
    assert_eq!(claimed.len(), 2);
    for (delivery, receipt) in &claimed {
        if key_of(delivery) == "a" {
            let retry = Verdict::RetryAt(NOW.plus_ms(500));
            assert!(app.fail(receipt, retry, false).await);
        } else {
            app.acknowledge(receipt, vec![]).await.expect("done");
        }
    }
    assert_eq!(claim_all(&app).await, []);
    let waiting = app.outstanding().await;
    let retried = waiting.iter().find(|d| d.attempts == 1).expect("the first");
    assert_eq!(retried.state(), DeliveryState::Pending);
    assert_eq!(retried.error.as_deref(), Some("it failed"));
    assert_eq!(claim_all(&app.later(499)).await, []);
    let later = app.later(500);
    let [(first, receipt)] = claim_all(&later).await.try_into().expect("one");
    assert_eq!((value_of(&first).as_str(), first.attempts), ("1", 2));
    later.acknowledge(&receipt, vec![]).await.expect("done");
    let [(second, _)] = claim_all(&later).await.try_into().expect("the next");
    assert_eq!(value_of(&second), "2");
}

pub async fn dead_lettering_unblocks_the_next_delivery(kit: Kit) {
    let app = watched(&kit).await;
    app.set("c", "a", json("1")).await;
    app.set("c", "a", json("2")).await;
    let [(_, receipt)] = claim_all(&app).await.try_into().expect("one");
    let dead = Verdict::DeadLetter(kvasm_core::DeadReason::Attempts);
    assert!(app.fail(&receipt, dead, false).await);
    let [(next, _)] = claim_all(&app).await.try_into().expect("the next");
    assert_eq!(value_of(&next), "2");
}

pub async fn longest_due_deliveries_are_claimed_first(kit: Kit) {
    let app = watched(&kit).await;
    for n in (0..6u64).rev() {
        app.later(n).set("c", &n.to_string(), json("1")).await;
    }
    let later = app.later(10);
    let first: Vec<_> = later
        .claim("t", 4)
        .await
        .iter()
        .map(|(d, _)| key_of(d))
        .collect();
    assert_eq!(first, ["0", "1", "2", "3"]);
    assert_eq!(later.claim("t", 4).await.len(), 2);
}

pub async fn paused_trigger_is_not_due(kit: Kit) {
    let app = watched(&kit).await;
    app.watch("u", "c").await;
    app.set("c", "k", json("1")).await;
    assert_eq!(app.due().await, ["t", "u"]);
    app.pause("t", true).await;
    assert_eq!(app.due().await, ["u"]);
    app.set("c", "l", json("1")).await;
    app.pause("t", false).await;
    assert_eq!(app.claim("t", 10).await.len(), 2);
}

pub async fn due_queues_are_listed_in_pages(kit: Kit) {
    let apps = [kit.app().await, kit.app().await, kit.app().await];
    for app in &apps {
        for name in ["a", "b"] {
            app.watch(name, "c").await;
        }
        app.set("c", "k", json("1")).await;
    }
    let mut found = Vec::new();
    let mut after: Option<Queue> = None;
    let mut rounds = LoopGuard::new();
    loop {
        rounds.next();
        let page = kit.store.due(after.as_ref(), NOW, 4).await.expect("due");
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        found.extend(page);
    }
    assert!(found.is_sorted());
    let own = |queue: &&Queue| apps.iter().any(|app| app.id == queue.app);
    assert_eq!(found.iter().filter(own).count(), 6);
}

pub async fn claim_returns_the_retry_policy(kit: Kit) {
    let app = kit.app().await;
    let policy = Policy {
        attempts_max: 3,
        age_max: Duration::from_secs(60),
    };
    let made = trigger("t", watch("c"));
    app.set_trigger(NewTrigger { policy, ..made }).await;
    app.set("c", "k", json("1")).await;
    app.set("c", "l", json("1")).await;
    assert_eq!(app.claim("t", 1).await[0].0.policy, policy);
    // A delivery outlives its trigger.
    assert!(app.delete_trigger("t").await);
    assert_eq!(app.due().await, ["t"]);
    assert_eq!(app.claim("t", 1).await[0].0.policy, Policy::default());
}

pub async fn acknowledging_a_delivery_frees_its_usage(kit: Kit) {
    let app = watched(&kit).await;
    app.set("c", "k", json("12345")).await;
    assert_eq!(app.usage().await, (1, 14));
    let [(_, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    app.acknowledge(&receipt, vec![delete("c", "k")])
        .await
        .expect("done");
    // The deletion creates a delivery; nothing else counts.
    assert_eq!(app.usage().await, (0, 2));
    let [(_, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    app.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(app.usage().await, (0, 0));
}

pub async fn deleting_an_app_deletes_its_deliveries(kit: Kit) {
    let app = watched(&kit).await;
    app.set("c", "k", json("1")).await;
    app.set("c", "l", json("1")).await;
    let claimed = app.claim("t", 1).await;
    assert!(kit.delete_app(app.id).await.expect("deleted"));
    assert_eq!(app.due().await, [""; 0]);
    assert_eq!(app.claim("t", 10).await, []);
    let late = app.acknowledge(&claimed[0].1, vec![]).await;
    let gone = matches!(late, Err(StoreError::AppNotFound | StoreError::LeaseLost));
    assert!(gone, "{late:?}");
    assert!(!app.fail(&claimed[0].1, Verdict::RetryAt(NOW), false).await);
}

/// A clock that is set back delays what waits for a time, but nothing new.
pub async fn clock_stepping_back_does_not_delay_new_deliveries(kit: Kit) {
    let app = watched(&kit).await;
    app.set("c", "old", json("1")).await;
    app.set("c", "retried", json("1")).await;
    for (delivery, receipt) in claim_all(&app).await {
        if key_of(&delivery) == "retried" {
            app.fail(&receipt, Verdict::RetryAt(NOW.plus_ms(100)), false)
                .await;
        }
    }
    let hour = Timestamp(NOW.0 - 3_600_000);
    let back = Tenant {
        now: hour,
        ..app.clone()
    };
    back.set("c", "new", json("1")).await;
    let [(delivery, receipt)] = claim_all(&back).await.try_into().expect("the new one");
    assert_eq!(key_of(&delivery), "new");
    back.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(claim_all(&back).await, []);
    let mut later: Vec<_> = claim_all(&app.later(2_000)).await;
    later.sort_by_key(|(delivery, _)| key_of(delivery));
    let keys: Vec<_> = later.iter().map(|(d, _)| key_of(d)).collect();
    assert_eq!(keys, ["old", "retried"]);
}

/// The store and the handlers agree on the order of the changes of a key.
pub async fn racing_writes_are_delivered_in_commit_order(kit: Kit) {
    let app = watched(&kit).await;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let app = app.clone();
        writers.spawn(async move {
            for n in 0..25 {
                match n % 5 {
                    4 => drop(app.delete("c", "k").await),
                    _ => drop(
                        app.set("c", "k", json(&format!("{}", writer * 100 + n)))
                            .await,
                    ),
                }
            }
        });
    }
    writers.join_all().await;
    let mut found = app.outstanding().await;
    found.sort_by_key(|delivery| delivery.place.seq);
    let mut state: HashMap<&str, String> = HashMap::new();
    for delivery in &found {
        match &delivery.event.kind {
            EventKind::Set { value, .. } => {
                state.insert("k", String::from_utf8_lossy(value.as_bytes()).into_owned());
            }
            EventKind::Deleted { .. } => {
                assert!(state.remove("k").is_some(), "a deletion of an absent entry");
            }
            EventKind::Due | EventKind::Timer { .. } => panic!("no schedule here"),
        }
    }
    let entry = app
        .store
        .get(app.id, &collection("c"), &key("k"), NOW)
        .await;
    let now = entry
        .expect("get")
        .map(|e| String::from_utf8_lossy(e.value.as_bytes()).into_owned());
    assert_eq!(state.remove("k"), now, "the last event is the stored value");
}
