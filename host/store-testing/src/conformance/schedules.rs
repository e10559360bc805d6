//! Schedules: planned, and run once across all hosts, without overlap.

use super::Kit;
use super::event_kit::{trigger, trigger_name};
use super::kit::{NOW, Tenant};
use kvasm_core::{
    AppId, EventKind, Queue, Schedule, SchedulePosition, ScheduleTick, Timestamp, Trigger, Watch,
};
use tokio::task::JoinSet;

async fn scheduled(kit: &Kit) -> Tenant {
    let app = kit.app().await;
    let watch = Watch::Schedule(Schedule::parse("* * * * *").expect("a schedule"));
    app.set_trigger(trigger("t", watch)).await;
    app
}

async fn tick(
    app: &Tenant,
    planned: Option<Timestamp>,
    next: Option<Timestamp>,
    run: Option<Timestamp>,
) -> bool {
    let tick = ScheduleTick {
        queue: Queue {
            app: app.id,
            trigger: trigger_name("t"),
        },
        planned,
        next,
        run,
        now: app.now,
    };
    app.store.tick(&tick).await.expect("tick")
}

async fn due(app: &Tenant) -> Vec<Trigger> {
    let all = app
        .store
        .schedules(None, app.now, 1_000)
        .await
        .expect("schedules");
    let own = all.into_iter().filter(|due| due.place.queue.app == app.id);
    own.map(|due| due.trigger.expect("a trigger")).collect()
}

pub async fn schedule_is_planned_then_run(kit: Kit) {
    let app = scheduled(&kit).await;
    assert_eq!(due(&app).await.len(), 1, "not planned yet");
    let next = NOW.plus_ms(60_000);
    assert!(!tick(&app, None, Some(next), None).await);
    assert_eq!(due(&app).await, []);
    assert_eq!(app.triggers().await[0].next_at, Some(next));
    let later = app.later(60_005);
    assert_eq!(due(&later).await.len(), 1);
    let after = NOW.plus_ms(120_000);
    assert!(tick(&later, Some(next), Some(after), Some(next)).await);
    assert_eq!(due(&later).await, []);
    let [(delivery, receipt)] = later.claim("t", 1).await.try_into().expect("a run");
    assert_eq!(delivery.event.kind, EventKind::Due);
    assert_eq!(delivery.event.trace, None);
    assert_eq!((delivery.event.at, delivery.queued_at), (next, later.now));
    later.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(later.usage().await, (0, 0));
}

pub async fn due_schedules_are_listed_in_pages(kit: Kit) {
    let app = scheduled(&kit).await;
    for n in 0..6u64 {
        let name = format!("t{n}");
        let watch = Watch::Schedule(Schedule::parse("* * * * *").expect("a schedule"));
        app.set_trigger(trigger(&name, watch)).await;
        let tick = ScheduleTick {
            queue: Queue {
                app: app.id,
                trigger: trigger_name(&name),
            },
            planned: None,
            // Two with the same time, and one that is not due.
            next: Some(NOW.plus_ms(n / 2)),
            run: None,
            now: app.now,
        };
        app.store.tick(&tick).await.expect("tick");
    }
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let page = app.store.schedules(after.as_ref(), NOW.plus_ms(1), 2).await;
        let page = page.expect("schedules");
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        after = Some(last.place.clone());
        let own = page.iter().filter(|due| due.place.queue.app == app.id);
        found.extend(own.map(|due| due.place.queue.trigger.to_string()));
    }
    // The first is not planned yet.
    assert_eq!(found, ["t", "t0", "t1", "t2", "t3"]);
}

pub async fn schedules_planned_too_far_ahead_are_found(kit: Kit) {
    let app = scheduled(&kit).await;
    let (near, far) = (NOW.plus_ms(60_000), NOW.plus_ms(400 * 86_400_000));
    tick(&app, None, Some(far), None).await;
    let ahead = |after: Timestamp| SchedulePosition {
        queue: Queue {
            app: AppId::from(uuid::Uuid::nil()),
            trigger: trigger_name("t"),
        },
        next_at: Some(after),
    };
    let found = async |after| {
        let ahead = ahead(after);
        let all = app
            .store
            .schedules(Some(&ahead), Timestamp(i64::MAX), 1_000);
        let all = all.await.expect("schedules");
        let own = all.iter().filter(|due| due.place.queue.app == app.id);
        own.map(|due| due.place.next_at).collect::<Vec<_>>()
    };
    assert_eq!(found(NOW).await, [Some(far)]);
    // Planned again, without a run, whenever its trigger can be probed.
    let replan = ScheduleTick {
        queue: Queue {
            app: app.id,
            trigger: trigger_name("t"),
        },
        planned: Some(far),
        next: Some(near),
        run: None,
        now: Timestamp(i64::MAX),
    };
    assert!(!app.store.tick(&replan).await.expect("tick"));
    assert_eq!(found(NOW).await, [Some(near)]);
    assert_eq!(found(near.plus_ms(1)).await, []);
    assert_eq!((due(&app).await, app.outstanding().await), (vec![], vec![]));
    let end = Some(Timestamp(i64::MAX));
    tick(&app, Some(near), end, None).await;
    assert_eq!(found(NOW).await, [end]);
    app.pause("t", true).await;
    assert_eq!(found(NOW).await, []);
}

pub async fn tick_for_an_outdated_plan_is_a_no_op(kit: Kit) {
    let app = scheduled(&kit).await;
    assert!(!tick(&app, Some(NOW), Some(NOW.plus_ms(1)), Some(NOW)).await);
    assert_eq!(app.triggers().await[0].next_at, None);
    assert_eq!(app.outstanding().await, []);
}

pub async fn schedule_does_not_overlap_its_own_runs(kit: Kit) {
    let app = scheduled(&kit).await;
    let at = |minutes: u64| NOW.plus_ms(minutes * 60_000);
    tick(&app, None, Some(at(1)), None).await;
    assert!(tick(&app, Some(at(1)), Some(at(2)), Some(at(1))).await);
    assert!(!tick(&app, Some(at(2)), Some(at(3)), Some(at(2))).await);
    let [(_, receipt)] = app.claim("t", 5).await.try_into().expect("one run");
    assert!(!tick(&app, Some(at(3)), Some(at(4)), Some(at(3))).await);
    app.acknowledge(&receipt, vec![]).await.expect("done");
    assert!(tick(&app, Some(at(4)), Some(at(5)), Some(at(4))).await);
}

pub async fn one_concurrent_tick_creates_the_run(kit: Kit) {
    let app = scheduled(&kit).await;
    tick(&app, None, Some(NOW), None).await;
    for round in 0..10u64 {
        let (planned, next) = (NOW.plus_ms(round), NOW.plus_ms(round + 1));
        let mut callers = JoinSet::new();
        for _ in 0..8 {
            let app = app.clone();
            let run = Some(planned);
            callers.spawn(async move { tick(&app, run, Some(next), run).await });
        }
        let made = callers.join_all().await;
        assert_eq!(
            made.iter().filter(|made| **made).count(),
            1,
            "round {round}"
        );
        let [(_, receipt)] = app.claim("t", 5).await.try_into().expect("one run");
        app.acknowledge(&receipt, vec![]).await.expect("done");
    }
}

pub async fn paused_schedule_is_not_due(kit: Kit) {
    let app = scheduled(&kit).await;
    app.pause("t", true).await;
    assert_eq!(due(&app).await, []);
    app.pause("t", false).await;
    assert_eq!(due(&app).await.len(), 1);
    kit.delete_app(app.id).await.expect("deleted");
    assert_eq!(due(&app).await, []);
    assert!(!tick(&app, None, Some(NOW), None).await);
}
