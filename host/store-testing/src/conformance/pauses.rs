//! Pauses after failures, the probes that end them, and deliveries released untried.

use super::Kit;
use super::event_kit::{trigger, trigger_name};
use super::kit::{NOW, Tenant, json};
use kvasm_core::{
    DeadReason, Delivery, FAILURES_MAX, FailOutcome, LeaseToken, Pause, Queue, Schedule,
    ScheduleTick, Timestamp, TriggerHealth, Verdict, Watch,
};
use std::collections::BTreeSet;

const RETRY: Verdict = Verdict::RetryAt(NOW);
/// The first wait for a probe, without jitter.
const WAIT_MS: u64 = 60_000;

async fn watched(kit: &Kit, changes: u32) -> Tenant {
    let app = kit.app().await;
    app.watch("t", "c").await;
    for n in 0..changes {
        app.set("c", &format!("{n:03}"), json("1")).await;
    }
    app
}

async fn standing(app: &Tenant) -> TriggerHealth {
    app.triggers().await.swap_remove(0).standing
}

fn key_of(delivery: &Delivery) -> String {
    let (_, key) = delivery.event.kind.entry().expect("an entry");
    key.as_str().to_owned()
}

/// Claims and fails enough deliveries to pause the trigger. Returns their keys.
async fn paused(app: &Tenant) -> BTreeSet<String> {
    let claimed = app.claim("t", FAILURES_MAX).await;
    assert_eq!(claimed.len(), FAILURES_MAX as usize);
    for (at, (_, receipt)) in claimed.iter().enumerate() {
        let returned = app.nack(receipt, RETRY, true).await;
        let is_last = at + 1 == claimed.len();
        let expected = match is_last {
            false => FailOutcome::Recorded,
            true => FailOutcome::Paused {
                failures: FAILURES_MAX,
                probe_at: app.now.plus_ms(WAIT_MS),
            },
        };
        assert_eq!(returned, expected);
    }
    claimed
        .iter()
        .map(|(delivery, _)| key_of(delivery))
        .collect()
}

async fn probe(app: &Tenant) -> (Delivery, LeaseToken) {
    assert_eq!(app.due().await, ["t"]);
    let [(delivery, receipt)] = app.claim("t", 10).await.try_into().expect("one probe");
    assert!(delivery.is_probe);
    // No second probe while it is leased.
    assert_eq!(app.due().await, [""; 0]);
    assert!(app.claim("t", 10).await.is_empty());
    (delivery, receipt)
}

pub async fn consecutive_failures_count_each_delivery_once(kit: Kit) {
    let app = watched(&kit, 1).await;
    for _ in 0..FAILURES_MAX + 2 {
        let [(delivery, receipt)] = app.claim("t", 1).await.try_into().expect("one");
        assert!(!delivery.is_probe);
        assert_eq!(app.nack(&receipt, RETRY, true).await, FailOutcome::Recorded);
    }
    assert_eq!(
        (standing(&app).await.paused, standing(&app).await.failures),
        (None, 1)
    );
    // A success resets the count, and the delivery counts again.
    app.set("c", "good", json("1")).await;
    for (delivery, receipt) in app.claim("t", 2).await {
        match key_of(&delivery).as_str() {
            "good" => app.acknowledge(&receipt, vec![]).await.expect("done"),
            _ => assert!(app.fail(&receipt, RETRY, false).await),
        }
    }
    assert_eq!(standing(&app).await.failures, 0);
    let [(_, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    assert!(
        app.fail(
            &receipt,
            Verdict::DeadLetter(DeadReason::Deterministic),
            true
        )
        .await
    );
    assert_eq!(standing(&app).await.failures, 1);
}

pub async fn ten_failed_deliveries_pause_a_trigger_and_a_probe_resumes_it(kit: Kit) {
    let app = watched(&kit, FAILURES_MAX + 2).await;
    let failed = paused(&app).await;
    assert_eq!(standing(&app).await.paused, Some(Pause::Failures));
    let before = app.later(WAIT_MS - 1);
    assert_eq!(before.due().await, [""; 0]);
    assert!(before.claim("t", 10).await.is_empty());
    let later = app.later(WAIT_MS);
    let (delivery, receipt) = probe(&later).await;
    assert!(
        !failed.contains(&key_of(&delivery)),
        "this delivery has not failed yet"
    );
    later.acknowledge(&receipt, vec![]).await.expect("done");
    let now = standing(&later).await;
    assert_eq!((now.paused, now.failures, now.probe_at), (None, 0, None));
    let rest = later.claim("t", 100).await;
    assert_eq!(rest.len(), FAILURES_MAX as usize + 1);
    assert!(rest.iter().all(|(delivery, _)| !delivery.is_probe));
}

pub async fn failed_probe_doubles_the_wait(kit: Kit) {
    let app = watched(&kit, FAILURES_MAX + 1).await;
    let mut failed = paused(&app).await;
    let mut at = app.later(WAIT_MS);
    for wait in [2, 4, 8] {
        let (delivery, receipt) = probe(&at).await;
        failed.insert(key_of(&delivery));
        let probe_at = at.now.plus_ms(wait * WAIT_MS);
        let returned = at.nack(&receipt, Verdict::RetryAt(at.now), true).await;
        assert_eq!(returned, FailOutcome::ProbeFailed { probe_at });
        assert_eq!(at.due().await, [""; 0]);
        at = at.later(wait * WAIT_MS);
    }
    // Each delivery counts once, even if earlier probes of it failed.
    assert_eq!(standing(&app).await.failures, FAILURES_MAX + 1);
    assert_eq!(failed.len(), FAILURES_MAX as usize + 1);
}

pub async fn transient_probe_failure_does_not_double_the_wait(kit: Kit) {
    let app = watched(&kit, FAILURES_MAX + 1).await;
    paused(&app).await;
    let mut at = app.later(WAIT_MS);
    for _ in 0..3 {
        let (_, receipt) = probe(&at).await;
        let probe_at = at.now.plus_ms(WAIT_MS);
        let returned = at.nack(&receipt, Verdict::RetryAt(at.now), false).await;
        assert_eq!(returned, FailOutcome::ProbeFailed { probe_at });
        at = at.later(WAIT_MS);
    }
}

pub async fn probe_of_a_crashed_host_is_replaced(kit: Kit) {
    let app = watched(&kit, FAILURES_MAX + 1).await;
    paused(&app).await;
    let later = app.later(WAIT_MS);
    let (_, dead) = probe(&later).await;
    // The lease lasts one second.
    let after = later.later(1_000);
    let (_, receipt) = probe(&after).await;
    assert_ne!(receipt.lease, dead.lease);
    after.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(standing(&after).await.paused, None);
}

pub async fn renewed_probe_stays_the_only_probe(kit: Kit) {
    let app = watched(&kit, FAILURES_MAX + 1).await;
    paused(&app).await;
    let first = app.later(WAIT_MS);
    let (_, receipt) = probe(&first).await;
    let store = &kit.store;
    // Its lease is one second; the handler runs for an hour.
    let renewed = store.renew(&receipt, first.now.plus_ms(3_600_000)).await;
    assert!(renewed.expect("renewed"));
    for ms in [1_000, 60_000, 3_599_999] {
        let later = first.later(ms);
        assert_eq!(later.due().await, [""; 0], "{ms}");
        assert!(later.claim("t", 10).await.is_empty(), "{ms}");
    }
    // Then its host crashes.
    let after = first.later(3_600_000);
    let (_, next) = probe(&after).await;
    // A lost lease cannot be renewed.
    let renewed = store.renew(&receipt, after.now.plus_ms(7_200_000)).await;
    assert!(!renewed.expect("an answer"));
    let last = after.later(1_000);
    let (_, last_receipt) = probe(&last).await;
    assert_ne!(last_receipt.lease, next.lease);
    last.acknowledge(&last_receipt, vec![]).await.expect("done");
    // And it is no longer a probe.
    assert_eq!(standing(&last).await.probe_at, None);
}

pub async fn only_one_concurrent_claim_gets_the_probe(kit: Kit) {
    let app = watched(&kit, FAILURES_MAX + 8).await;
    paused(&app).await;
    let later = app.later(WAIT_MS);
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let later = later.clone();
        claims.spawn(async move { later.claim("t", 4).await.len() });
    }
    let claimed: usize = claims.join_all().await.into_iter().sum();
    assert_eq!(claimed, 1);
}

pub async fn success_of_an_earlier_claim_resumes_the_trigger(kit: Kit) {
    let app = watched(&kit, FAILURES_MAX + 1).await;
    let claimed = app.claim("t", 100).await;
    let (last, others) = claimed.split_last().expect("deliveries");
    for (_, receipt) in others {
        assert!(app.fail(receipt, RETRY, true).await);
    }
    assert_eq!(standing(&app).await.paused, Some(Pause::Failures));
    app.acknowledge(&last.1, vec![]).await.expect("done");
    assert_eq!(standing(&app).await.paused, None);
    assert_eq!(app.claim("t", 100).await.len(), FAILURES_MAX as usize);
}

pub async fn operator_pause_is_never_probed(kit: Kit) {
    let app = watched(&kit, FAILURES_MAX + 1).await;
    paused(&app).await;
    app.pause("t", true).await;
    let much_later = app.later(1_000 * WAIT_MS);
    assert_eq!(much_later.due().await, [""; 0]);
    assert!(much_later.claim("t", 10).await.is_empty());
    app.pause("t", false).await;
    assert_eq!(app.claim("t", 100).await.len(), FAILURES_MAX as usize + 1);
    // A delivery that is running when an operator pauses may succeed, but does not resume the
    // trigger.
    app.set("c", "more", json("1")).await;
    let [(_, receipt)] = app.claim("t", 10).await.try_into().expect("one");
    app.pause("t", true).await;
    app.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(standing(&app).await.paused, Some(Pause::Operator));
}

/// All its runs are dead letters, so there is no delivery to probe with.
pub async fn paused_schedule_runs_to_probe(kit: Kit) {
    let app = kit.app().await;
    let every = Schedule::parse("* * * * *").expect("a schedule");
    app.set_trigger(trigger("t", Watch::Schedule(every))).await;
    let tick = |planned: Option<Timestamp>, now: Timestamp| ScheduleTick {
        queue: Queue {
            app: app.id,
            trigger: trigger_name("t"),
        },
        planned,
        next: Some(now.plus_ms(1)),
        run: planned,
        now,
    };
    assert!(!app.store.tick(&tick(None, NOW)).await.expect("a plan"));
    let mut at = app.later(1);
    for _ in 0..FAILURES_MAX {
        let planned = app.triggers().await[0].next_at;
        assert!(at.store.tick(&tick(planned, at.now)).await.expect("a run"));
        let [(_, receipt)] = at.claim("t", 1).await.try_into().expect("one");
        assert!(
            at.fail(
                &receipt,
                Verdict::DeadLetter(DeadReason::Deterministic),
                true
            )
            .await
        );
        at = at.later(1);
    }
    assert_eq!(standing(&app).await.paused, Some(Pause::Failures));
    let planned = app.triggers().await[0].next_at;
    let due = at.store.schedules(None, at.now, 9_999).await.expect("due");
    assert!(due.iter().all(|due| due.place.queue.app != app.id));
    assert!(!at.store.tick(&tick(planned, at.now)).await.expect("paused"));
    let later = at.later(WAIT_MS);
    let due = later
        .store
        .schedules(None, later.now, 9_999)
        .await
        .expect("due");
    assert!(due.iter().any(|due| due.place.queue.app == app.id));
    assert!(
        later
            .store
            .tick(&tick(planned, later.now))
            .await
            .expect("a run")
    );
    let (_, receipt) = probe(&later).await;
    later.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(standing(&app).await.paused, None);
}

pub async fn released_delivery_does_not_count_as_an_attempt(kit: Kit) {
    let app = watched(&kit, FAILURES_MAX + 1).await;
    let [(first, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    assert!(app.store.release(&receipt, NOW).await.expect("released"));
    assert!(!app.store.release(&receipt, NOW).await.expect("once"));
    let all = app.outstanding().await;
    assert!(
        all.iter()
            .all(|delivery| delivery.attempts == 0 && !delivery.leased)
    );
    let [(again, _)] = app.claim("t", 1).await.try_into().expect("one");
    assert_eq!((again.event.id, again.attempts), (first.event.id, 1));
    // A released probe has no outcome, so another may follow at once.
    let later = app.later(2_000);
    paused(&later).await;
    let later = later.later(WAIT_MS);
    let (_, receipt) = probe(&later).await;
    assert!(
        later
            .store
            .release(&receipt, later.now)
            .await
            .expect("released")
    );
    let (_, receipt) = probe(&later).await;
    let returned = later
        .nack(&receipt, Verdict::RetryAt(later.now), true)
        .await;
    let probe_at = later.now.plus_ms(2 * WAIT_MS);
    assert_eq!(returned, FailOutcome::ProbeFailed { probe_at });
}
