//! The end of a timer's wait: its next run, its repair, and deferred deliveries.

use super::Kit;
use super::kit::{Tenant, json};
use super::timers::{MINUTE, after, at, cancel, name, named};
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, DeadLetterFilter, DeadReason, Queue, TimerTime, Timestamp, TraceContext, Verdict,
    timer_trigger,
};

pub async fn next_timer_is_the_first_one_after_a_time(kit: Kit) {
    let (one, two) = (kit.app().await, kit.app().await);
    let next = async |now: Timestamp| one.store.next_timer(now).await.expect("a time");
    assert_eq!(next(one.now).await, None);
    let time = |ms| TimerTime::At(one.later(ms).now);
    let two_timers = vec![
        at("a", time(5 * MINUTE), b""),
        at("b", time(2 * MINUTE), b""),
    ];
    one.timers(two_timers).await;
    two.timers(vec![at("a", time(3 * MINUTE), b"")]).await;
    assert_eq!(next(one.now).await, Some(one.later(2 * MINUTE).now));
    assert_eq!(
        next(one.later(2 * MINUTE).now).await,
        Some(one.later(3 * MINUTE).now)
    );
    assert_eq!(next(one.later(5 * MINUTE).now).await, None);
    one.timers(vec![cancel("b")]).await;
    assert_eq!(next(one.now).await, Some(one.later(3 * MINUTE).now));
}

pub async fn timer_can_be_run_now_unless_it_is_leased(kit: Kit) {
    let app = kit.app().await;
    let generation = app.store.generation().await.expect("a generation");
    let run = async |timer| {
        let row = app.audit_row("timer.run");
        app.store.run_timer(app.id, name(timer), row).await
    };
    assert!(!run("a").await.expect("no timer"));
    app.timers(vec![after("a", MINUTE), after("b", MINUTE)])
        .await;
    assert!(run("a").await.expect("a timer"));
    let due = app.timer("a").await.expect("set").due_at.expect("due");
    let now = Tenant {
        now: due,
        ..app.clone()
    };
    let [(delivery, receipt)] = now.due_timers(9).await.try_into().expect("one");
    assert_eq!(
        (named(&delivery).as_deref(), delivery.event.at),
        (Some("a"), app.later(MINUTE).now)
    );
    assert!(!run("a").await.expect("a leased timer"));
    now.acknowledge(&receipt, vec![]).await.expect("done");
    let rows = app
        .store
        .audit(Some(app.id), None, 9)
        .await
        .expect("audit rows");
    assert_eq!(
        rows.iter().filter(|row| row.action == "timer.run").count(),
        1
    );
    assert_ne!(
        app.store.generation().await.expect("a generation"),
        generation
    );
    let never = Tenant {
        id: AppId::generate(),
        ..app.clone()
    };
    let gone = never
        .store
        .run_timer(never.id, name("a"), app.audit_row("timer.run"))
        .await;
    assert!(matches!(gone, Err(StoreError::AppNotFound)), "{gone:?}");
}

pub async fn replayed_timer_is_no_longer_found_by_its_name(kit: Kit) {
    let app = kit.app().await;
    app.timers(vec![after("a", 0)]).await;
    let [(first, receipt)] = app.due_timers(9).await.try_into().expect("one");
    let verdict = Verdict::DeadLetter(DeadReason::Attempts);
    assert!(app.fail(&receipt, verdict, false).await);
    assert!(app.timer("a").await.is_none());
    let [letter] = app.dead_letters().await.try_into().expect("a letter");
    assert_eq!(letter.event, first.event);
    app.timers(vec![after("a", MINUTE)]).await;
    let row = app.audit_row("test");
    let all = DeadLetterFilter::default();
    assert_eq!(
        app.store
            .replay(app.id, all, 9, row)
            .await
            .expect("a replay"),
        1
    );
    // It does not wait for the other one, nor replace it.
    let [(again, receipt)] = app.later(1).due_timers(9).await.try_into().expect("one");
    assert_eq!((again.event.id, again.replays), (first.event.id, 1));
    app.timers(vec![cancel("a")]).await;
    app.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(
        (app.usage().await, app.outstanding().await.len()),
        ((0, 0), 0)
    );
}

pub async fn deferred_delivery_waits_without_counting_an_attempt(kit: Kit) {
    let app = kit.app().await;
    app.watch("t", "c").await;
    app.set("c", "k", json("1")).await;
    let [(_, receipt)] = app.claim("t", 9).await.try_into().expect("one");
    assert!(
        app.store
            .defer(&receipt, MINUTE, app.now)
            .await
            .expect("a deferral")
    );
    assert!(
        !app.store
            .defer(&receipt, MINUTE, app.now)
            .await
            .expect("no lease")
    );
    // Its successor waits with it.
    app.set("c", "k", json("2")).await;
    assert!(app.later(MINUTE - 1).claim("t", 9).await.is_empty());
    let late = app.later(MINUTE);
    let [(delivery, receipt)] = late.claim("t", 9).await.try_into().expect("one");
    assert_eq!(
        (delivery.attempts, delivery.error, delivery.queued_at),
        (1, None, late.now)
    );
    late.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(late.claim("t", 9).await.len(), 1);
}

pub async fn only_waits_longer_than_asked_for_are_repaired(kit: Kit) {
    const YEAR: u64 = 365 * 24 * 60 * MINUTE;
    let app = kit.app().await;
    // A host whose clock is ten years ahead.
    let wrong = app.later(10 * YEAR);
    app.timers(vec![
        at("at", TimerTime::At(app.later(YEAR).now), b""),
        after("after", YEAR),
        after("deferred", 0),
    ])
    .await;
    wrong.timers(vec![after("wrong", MINUTE)]).await;
    let [(_, receipt)] = app.due_timers(9).await.try_into().expect("one");
    assert!(
        app.store
            .defer(&receipt, 20 * MINUTE * 60, app.now)
            .await
            .expect("a deferral")
    );
    let queue = Queue {
        app: app.id,
        trigger: timer_trigger(),
    };
    let beyond = app.later(120 * MINUTE).now;
    let rescue = async || {
        app.store
            .rescue(&queue, beyond, app.now, 9)
            .await
            .expect("a rescue")
    };
    assert_eq!((rescue().await, rescue().await), (1, 0));
    let due = async |timer: &str| app.timer(timer).await.expect("set").due_at;
    assert_eq!(due("wrong").await, Some(app.later(MINUTE).now));
    assert_eq!(due("at").await, Some(app.later(YEAR).now));
    assert_eq!(due("after").await, Some(app.later(YEAR).now));
    assert_eq!(due("deferred").await, Some(app.later(20 * MINUTE * 60).now));
    // After a failure it waits as any delivery does.
    let late = app.later(YEAR);
    let claimed = late.due_timers(9).await;
    let (_, receipt) = claimed
        .iter()
        .find(|(d, _)| named(d).as_deref() == Some("at"))
        .expect("at");
    let retry = Verdict::RetryAt(late.later(YEAR).now);
    assert!(late.fail(receipt, retry, false).await);
    let beyond = late.later(120 * MINUTE).now;
    let rescued = app.store.rescue(&queue, beyond, late.now, 9).await;
    assert_eq!(rescued.expect("a rescue"), 1);
    assert_eq!(due("at").await, Some(late.now));
}

pub async fn timer_keeps_the_trace_of_what_set_it(kit: Kit) {
    let app = kit.app().await;
    let trace = TraceContext::root(app.id.uuid());
    let mut commit = app.batch(vec![], vec![]);
    commit.batch.timers = vec![after("a", 0)];
    commit.trace = Some(trace.clone());
    app.store.commit(commit).await.expect("a timer");
    let [(delivery, _)] = app.due_timers(1).await.try_into().expect("one");
    assert_eq!(delivery.event.trace, Some(trace));
    assert_eq!(app.quota_usage().await.bytes, delivery.event.bytes());
}

pub async fn concurrent_settings_of_a_name_leave_one_timer(kit: Kit) {
    let app = kit.app().await;
    for _ in 0..5 {
        let mut setters = Vec::new();
        for n in 0..8 {
            let app = app.clone();
            setters.push(tokio::spawn(async move {
                // In opposite orders.
                let (a, b) = (after("a", n), after("b", n));
                let both = if n % 2 == 0 { vec![a, b] } else { vec![b, a] };
                app.timers(both).await;
                if n == 3 {
                    app.timers(vec![cancel("b")]).await;
                }
            }));
        }
        for setter in setters {
            setter.await.expect("a setter");
        }
        app.timers(vec![after("b", 0)]).await;
        assert_eq!(app.timer_names().await, ["a", "b"]);
        assert_eq!(app.outstanding().await.len(), 2);
        assert_eq!(app.usage().await, (0, 2 * (1 + 7)));
        app.timers(vec![cancel("a"), cancel("b")]).await;
        assert_eq!(app.usage().await, (0, 0));
    }
}
