//! Deliveries that a host with a wrong clock has postponed.

use super::Kit;
use super::event_kit::trigger_name;
use super::kit::{Tenant, json};
use kvasm_core::{FAILURES_MAX, Pause, Queue, Timestamp, Verdict};

/// 400 days.
const AHEAD_MS: u64 = 400 * 24 * 60 * 60 * 1_000;
/// Longer than any regular delay.
const BEYOND_MS: u64 = 2 * 60 * 60 * 1_000;

async fn changed(kit: &Kit, changes: u32) -> Tenant {
    let app = kit.app().await;
    app.watch("t", "c").await;
    for n in 0..changes {
        app.set("c", &format!("{n:03}"), json("1")).await;
    }
    app
}

async fn rescue(app: &Tenant, limit: u32) -> u64 {
    let queue = Queue {
        app: app.id,
        trigger: trigger_name("t"),
    };
    let beyond = app.now.plus_ms(BEYOND_MS);
    let rescued = app.store.rescue(&queue, beyond, app.now, limit).await;
    rescued.expect("a rescue")
}

/// Whether a dispatcher would ever find the queue.
async fn is_outstanding(app: &Tenant) -> bool {
    let all = app.store.due(None, Timestamp(i64::MAX), 10_000).await;
    let all = all.expect("queues");
    all.iter().any(|queue| queue.app == app.id)
}

pub async fn retry_scheduled_too_far_ahead_becomes_due(kit: Kit) {
    let app = changed(&kit, 3).await;
    let ends = [AHEAD_MS, BEYOND_MS];
    for ((_, receipt), ms) in app.claim("t", 2).await.iter().zip(ends) {
        let retry = Verdict::RetryAt(app.now.plus_ms(ms));
        assert!(app.fail(receipt, retry, false).await);
    }
    let [(_, receipt)] = app.claim("t", 3).await.try_into().expect("the third");
    app.acknowledge(&receipt, vec![]).await.expect("done");
    assert!(app.due().await.is_empty());
    assert!(is_outstanding(&app).await);
    assert_eq!(rescue(&app, 100).await, 1);
    assert_eq!(rescue(&app, 100).await, 0);
    let [(delivery, receipt)] = app.claim("t", 3).await.try_into().expect("the first");
    assert_eq!(delivery.attempts, 2);
    app.acknowledge(&receipt, vec![]).await.expect("done");
    // A delivery with a regular delay stays as it is.
    let [last] = app.outstanding().await.try_into().expect("the second");
    assert_eq!(last.due_at, Some(app.now.plus_ms(BEYOND_MS)));
}

pub async fn lease_expiring_too_far_ahead_is_ended(kit: Kit) {
    let app = changed(&kit, 2).await;
    let [(_, one), (_, two)] = app.claim("t", 2).await.try_into().expect("two");
    for receipt in [&one, &two] {
        let until = app.now.plus_ms(AHEAD_MS);
        assert!(app.store.renew(receipt, until).await.expect("a renewal"));
    }
    assert!(is_outstanding(&app).await);
    assert_eq!(rescue(&app, 100).await, 2);
    // A handler that is still running may end its delivery.
    app.acknowledge(&one, vec![]).await.expect("done");
    let [(delivery, receipt)] = app.claim("t", 2).await.try_into().expect("the other");
    assert_eq!(delivery.attempts, 2);
    assert!(app.acknowledge(&two, vec![]).await.is_err());
    app.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!((rescue(&app, 100).await, app.usage().await.0), (0, 2));
    assert!(!is_outstanding(&app).await);
}

pub async fn probe_scheduled_too_far_ahead_becomes_due(kit: Kit) {
    let app = changed(&kit, FAILURES_MAX).await;
    let wrong = app.later(AHEAD_MS);
    for (_, receipt) in &app.claim("t", FAILURES_MAX).await {
        wrong.nack(receipt, Verdict::RetryAt(app.now), true).await;
    }
    let standing = app.triggers().await.swap_remove(0).standing;
    assert_eq!(standing.paused, Some(Pause::Failures));
    assert!(app.due().await.is_empty());
    rescue(&app, 100).await;
    let [(delivery, _)] = app.claim("t", 10).await.try_into().expect("the probe");
    assert!(delivery.is_probe);
    // A regular wait stays as it is.
    let probe_at = app.triggers().await.swap_remove(0).standing.probe_at;
    rescue(&app, 100).await;
    let after = app.triggers().await.swap_remove(0).standing.probe_at;
    assert_eq!(probe_at, after);
}

pub async fn long_queue_is_rescued_in_steps(kit: Kit) {
    let app = kit.app().await;
    app.watch("t", "c").await;
    let wrong = app.later(AHEAD_MS);
    for n in 0..5 {
        wrong.set("c", &format!("{n}"), json("1")).await;
    }
    assert!(app.due().await.is_empty());
    assert_eq!(
        [
            rescue(&app, 3).await,
            rescue(&app, 3).await,
            rescue(&app, 3).await
        ],
        [3, 2, 0]
    );
    assert_eq!(app.claim("t", 10).await.len(), 5);
}
