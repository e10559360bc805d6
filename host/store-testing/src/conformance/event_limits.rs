//! Limits of what one write may cause, and of what may be outstanding.

use super::Kit;
use super::event_kit::trigger_name;
use super::kit::{Tenant, bytes, set};
use kvasm_core::store::StoreError;
use kvasm_core::{
    Commit, DELIVERIES_MAX, DELIVERIES_PER_WRITE_MAX, DELIVERY_BYTES, DeadLetterFilter, DeadReason,
    ENTRY_BYTES, FailedAttempt, Op, ProbeDelay, Resource, TRIGGERED_DELIVERIES_MAX, Verdict,
};

/// An app with `triggers` triggers on its collection `c`.
async fn watched(kit: &Kit, triggers: usize) -> Tenant {
    let app = kit.app().await;
    for at in 0..triggers {
        app.watch(&format!("t{at:02}"), "c").await;
    }
    app
}

/// Sets `count` keys of the collection `c`, starting at number `from`.
fn sets(from: usize, count: usize) -> Vec<Op> {
    (from..from + count)
        .map(|at| set("c", &format!("k{at:05}"), bytes("1")))
        .collect()
}

/// Commits the writes of a handler of an event of depth 1.
async fn handle(app: &Tenant, followers: u32, ops: Vec<Op>) -> Result<u64, StoreError> {
    let batch = Commit {
        depth: 1,
        delivery_budget: followers,
        ..app.batch(vec![], ops)
    };
    Ok(app.store.commit(batch).await?.deliveries)
}

/// Replays a dead letter.
async fn replay(app: &Tenant) {
    let row = app.audit_row("test");
    let replayed = app
        .store
        .replay(app.id, DeadLetterFilter::default(), 1, row)
        .await;
    assert_eq!(replayed.expect("replayed"), 1);
}

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> u32 {
    match result {
        Err(StoreError::Deliveries { limit }) => limit,
        other => panic!("{other:?}"),
    }
}

pub async fn deliveries_per_write_are_limited(kit: Kit) {
    const TRIGGERS: usize = 20;
    let app = watched(&kit, TRIGGERS).await;
    let most = DELIVERIES_PER_WRITE_MAX as usize / TRIGGERS;
    let limit = refused(app.try_commit(vec![], sets(0, most + 1)).await);
    assert_eq!(limit, DELIVERIES_PER_WRITE_MAX);
    assert_eq!(app.keys("c").await, [""; 0]);
    assert_eq!(app.outstanding().await, []);
    app.commit(vec![], sets(0, most)).await;
    let all = app.outstanding().await.len();
    assert_eq!(all, DELIVERIES_PER_WRITE_MAX as usize);
}

pub async fn fan_out_budget_is_shared_by_the_deliveries_of_a_change(kit: Kit) {
    let app = watched(&kit, 2).await;
    let followers = async || {
        let all = app.outstanding().await;
        all.into_iter()
            .map(|d| d.event.followers)
            .collect::<Vec<_>>()
    };
    // Each change of a call starts with the full budget.
    app.commit(vec![], sets(0, 1)).await;
    assert_eq!(followers().await, [TRIGGERED_DELIVERIES_MAX / 2 - 1; 2]);
    app.commit(vec![], sets(1, 3)).await;
    assert_eq!(followers().await, [TRIGGERED_DELIVERIES_MAX / 2 - 1; 8]);
    assert!(app.delete_app().await.expect("deleted"));

    // A handler's writes share what is left of its event's budget.
    let app = watched(&kit, 2).await;
    let followers = async || {
        let all = app.outstanding().await;
        all.into_iter()
            .map(|d| d.event.followers)
            .collect::<Vec<_>>()
    };
    assert_eq!(refused(handle(&app, 11, sets(0, 6)).await), 11);
    assert_eq!(refused(handle(&app, 1, sets(0, 1)).await), 1);
    assert_eq!(app.keys("c").await, [""; 0]);
    assert_eq!(handle(&app, 23, sets(0, 3)).await.expect("six"), 6);
    assert_eq!(followers().await, [23 / 6 - 1; 6]);
    // A dead letter keeps its budget, and so does a replay.
    let [(_, receipt)] = app.claim("t00", 1).await.try_into().expect("one");
    assert!(
        app.fail(&receipt, Verdict::DeadLetter(DeadReason::Age), false)
            .await
    );
    assert_eq!(app.dead_letters().await[0].event.followers, 2);
    replay(&app).await;
    assert_eq!(followers().await, [2; 6]);
    // With no budget left it may write, but only where no trigger watches.
    assert_eq!(refused(handle(&app, 0, sets(0, 1)).await), 0);
    let elsewhere = vec![set("d", "k", bytes("1"))];
    assert_eq!(handle(&app, 0, elsewhere).await.expect("written"), 0);
}

pub async fn outstanding_deliveries_are_bounded(kit: Kit) {
    const TRIGGERS: u64 = 100;
    let app = watched(&kit, TRIGGERS as usize).await;
    let step = u64::from(DELIVERIES_PER_WRITE_MAX) / TRIGGERS;
    for from in 0..DELIVERIES_MAX / TRIGGERS / step {
        app.commit(vec![], sets((from * step) as usize, step as usize))
            .await;
    }
    assert_eq!(app.quota_usage().await.deliveries, DELIVERIES_MAX);
    for ops in [sets(0, 1), sets(90_000, 2)] {
        match app.try_commit(vec![], ops).await {
            Err(StoreError::Quota { resource, limit }) => {
                assert_eq!((resource, limit), (Resource::Deliveries, DELIVERIES_MAX));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(app.quota_usage().await.deliveries, DELIVERIES_MAX);
    // Unwatched writes succeed, and a handler may do its work.
    app.set("d", "k", bytes("1")).await;
    let [(_, receipt)] = app.claim("t00", 1).await.try_into().expect("one");
    app.acknowledge(&receipt, vec![]).await.expect("done");
    app.store
        .commit(app.batch(vec![], vec![set("d", "k", bytes("2"))]))
        .await
        .expect("unwatched");
    assert_eq!(app.quota_usage().await.deliveries, DELIVERIES_MAX - 1);
    assert!(app.try_commit(vec![], sets(0, 1)).await.is_err());
}

pub async fn deliveries_and_dead_letters_count_toward_usage(kit: Kit) {
    let app = watched(&kit, 1).await;
    app.set("c", "key", bytes("12345678")).await;
    let entry = ENTRY_BYTES + 12;
    let used = app.quota_usage().await;
    assert_eq!(used.bytes, entry + DELIVERY_BYTES + 12);
    assert_eq!(used.deliveries, 1);
    let claim = async || {
        let [(_, receipt)] = app.claim("t00", 1).await.try_into().expect("one");
        receipt
    };
    // The dead letter also has the texts of its failure.
    let give_up = Verdict::DeadLetter(DeadReason::Attempts);
    assert!(app.fail(&claim().await, give_up, false).await);
    let letter = app.dead_letters().await.swap_remove(0);
    assert_eq!(
        letter.bytes(),
        DELIVERY_BYTES + 12 + "it failedat here".len() as u64
    );
    let used = app.quota_usage().await;
    assert_eq!((used.bytes, used.deliveries), (entry + letter.bytes(), 0));
    replay(&app).await;
    let used = app.quota_usage().await;
    assert_eq!(
        (used.bytes, used.deliveries),
        (entry + DELIVERY_BYTES + 12, 1)
    );
    app.acknowledge(&claim().await, vec![]).await.expect("done");
    let used = app.quota_usage().await;
    assert_eq!((used.bytes, used.deliveries), (entry, 0));
}

/// Dead letters count against the quota: an app over its quota cannot write where a trigger
/// watches, and discarding dead letters frees usage.
pub async fn dead_letters_count_against_the_quota(kit: Kit) {
    let app = watched(&kit, 1).await;
    app.commit(vec![], sets(0, 1)).await;
    let used = app.quota_usage().await.bytes;
    app.set_quota(None, Some(used)).await;
    let [(_, receipt)] = app.claim("t00", 1).await.try_into().expect("one");
    let give_up = Verdict::DeadLetter(DeadReason::Attempts);
    assert!(app.fail(&receipt, give_up, false).await, "is never refused");
    assert!(app.quota_usage().await.bytes > used);
    for _ in 0..20 {
        assert!(app.try_commit(vec![], sets(0, 1)).await.is_err());
    }
    let row = app.audit_row("test");
    let discarded = app
        .store
        .discard(app.id, DeadLetterFilter::default(), 9, row)
        .await;
    assert_eq!(discarded.expect("discarded"), 1);
    app.commit(vec![], sets(0, 1)).await;
}

/// A change that fails after counting leaves the usage counters as they were.
pub async fn failed_discard_does_not_change_usage(kit: Kit) {
    let app = watched(&kit, 1).await;
    app.commit(vec![], sets(0, 3)).await;
    for (_, receipt) in app.claim("t00", 3).await {
        let give_up = Verdict::DeadLetter(DeadReason::Attempts);
        assert!(app.fail(&receipt, give_up, false).await);
    }
    let row = app.audit_row("test");
    let pause = app
        .store
        .pause_trigger(app.id, trigger_name("t00"), true, row.clone());
    assert!(pause.await.expect("paused"));
    let before = app.quota_usage().await;
    // An audit row of that identity already exists.
    let discard = app
        .store
        .discard(app.id, DeadLetterFilter::default(), 2, row);
    if discard.await.is_err() {
        assert_eq!(app.dead_letters().await.len(), 3);
        assert_eq!(app.quota_usage().await, before);
        app.set("d", "k", bytes("1")).await;
        assert_eq!(
            app.quota_usage().await.bytes,
            before.bytes + ENTRY_BYTES + 3
        );
    }
}

/// The kept text of the last failure fits into the size that an outstanding delivery counts as.
pub async fn delivery_error_text_is_truncated(kit: Kit) {
    let app = watched(&kit, 1).await;
    app.commit(vec![], sets(0, 1)).await;
    let [(_, receipt)] = app.claim("t00", 1).await.try_into().expect("one");
    let failed = FailedAttempt {
        receipt,
        now: app.now,
        verdict: Verdict::RetryAt(app.now),
        deterministic: false,
        probe: ProbeDelay::default(),
        error: "é".repeat(2_000),
        trace: None,
        plugin: None,
    };
    let before = app.quota_usage().await;
    assert!(app.store.fail(&failed).await.expect("recorded").is_held());
    let kept = app.outstanding().await.swap_remove(0).error;
    assert_eq!(kept.expect("a text"), "é".repeat(128));
    assert_eq!(app.quota_usage().await, before);
}
