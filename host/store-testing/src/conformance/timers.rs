//! Timers.

use super::Kit;
use super::kit::{Tenant, json, set as put};
use kvasm_core::store::StoreError;
use kvasm_core::{
    Applied, Batch, DELIVERY_BYTES, Delivery, EventKind, LeaseToken, NewTimer, Op, TIMER_TRIGGER,
    TimerName, TimerOp, TimerTime, Timestamp, Value, Verdict, timer_trigger,
};
use std::collections::BTreeSet;

pub(super) const MINUTE: u64 = 60_000;

pub(super) fn name(name: &str) -> TimerName {
    TimerName::parse(name).expect("a timer's name")
}

pub(super) fn after(timer: &str, ms: u64) -> TimerOp {
    at(timer, TimerTime::After(ms), b"payload")
}

pub(super) fn at(timer: &str, time: TimerTime, payload: &[u8]) -> TimerOp {
    TimerOp::Set(NewTimer {
        name: name(timer),
        time,
        payload: Value::Bytes(payload.to_vec()),
    })
}

pub(super) fn cancel(timer: &str) -> TimerOp {
    TimerOp::Cancel {
        name: name(timer),
        expect: None,
    }
}

impl Tenant {
    async fn try_timers(
        &self,
        timers: Vec<TimerOp>,
        ops: Vec<Op>,
        receipt: Option<&LeaseToken>,
    ) -> Result<Vec<Applied>, StoreError> {
        let mut commit = self.batch(vec![], ops);
        commit.batch = Batch {
            timers,
            acknowledge: receipt.cloned().map(Box::new),
            ..commit.batch
        };
        self.store.commit(commit).await.map(|done| done.applied)
    }

    pub(super) async fn timers(&self, timers: Vec<TimerOp>) -> Vec<Applied> {
        let done = self.try_timers(timers, vec![], None).await;
        done.expect("timers")
    }

    pub(super) async fn timer(&self, timer: &str) -> Option<Delivery> {
        let found = self.store.timer(self.id, &name(timer)).await;
        found.expect("a timer")
    }

    pub(super) async fn timer_names(&self) -> Vec<String> {
        let all = self.store.timers(self.id, None, 10_000).await;
        let all = all.expect("timers").into_iter();
        all.filter_map(|timer| named(&timer)).collect()
    }

    pub(super) async fn due_timers(&self, limit: u32) -> Vec<(Delivery, LeaseToken)> {
        self.claim(TIMER_TRIGGER, limit).await
    }
}

pub(super) fn named(delivery: &Delivery) -> Option<String> {
    match &delivery.event.kind {
        EventKind::Timer { name, .. } => Some(name.to_string()),
        _ => None,
    }
}

pub async fn timer_is_claimed_at_its_time_and_not_before(kit: Kit) {
    let app = kit.app().await;
    let time = TimerTime::At(app.later(MINUTE).now);
    assert_eq!(
        app.timers(vec![at("a", time, b"\0x"), after("b", 2 * MINUTE)])
            .await,
        [Applied::TimerSet, Applied::TimerSet]
    );
    assert!(app.due().await.is_empty() && app.due_timers(10).await.is_empty());
    assert!(app.later(MINUTE - 1).due_timers(10).await.is_empty());
    let at_minute = app.later(MINUTE);
    assert_eq!(at_minute.due().await, [TIMER_TRIGGER]);
    let [(delivery, receipt)] = at_minute.due_timers(10).await.try_into().expect("one");
    let EventKind::Timer { name, payload } = &delivery.event.kind else {
        panic!("{delivery:?}");
    };
    assert_eq!(
        (name.as_str(), payload),
        ("a", &Value::Bytes(b"\0x".to_vec()))
    );
    assert_eq!(
        (delivery.event.at, delivery.queued_at),
        (at_minute.now, at_minute.now)
    );
    assert_eq!((delivery.event.depth, delivery.attempts), (1, 1));
    assert_eq!(
        (delivery.target.column(), &delivery.place.trigger),
        (TIMER_TRIGGER, &timer_trigger())
    );
    at_minute.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(app.timer_names().await, ["b"]);
    // A time in the past is due at once, behind what was due before.
    app.timers(vec![at("c", TimerTime::At(Timestamp(1)), b"")])
        .await;
    let [(late, _)] = app.due_timers(10).await.try_into().expect("one");
    assert_eq!((late.event.at, late.queued_at), (Timestamp(1), app.now));
}

pub async fn setting_a_name_again_replaces_its_timer(kit: Kit) {
    let app = kit.app().await;
    app.timers(vec![after("a", MINUTE)]).await;
    let before = app.usage().await;
    let first = app.timer("a").await.expect("set").event.id;
    app.timers(vec![at(
        "a",
        TimerTime::After(5 * MINUTE),
        b"longer payload",
    )])
    .await;
    let second = app.timer("a").await.expect("set");
    assert_ne!(second.event.id, first);
    assert_eq!(app.usage().await.1 - before.1, 14 - 7);
    assert!(app.later(MINUTE).due_timers(10).await.is_empty());
    let late = app.later(5 * MINUTE);
    let [(delivery, receipt)] = late.due_timers(10).await.try_into().expect("one");
    assert_eq!(delivery.event.id, second.event.id);
    late.acknowledge(&receipt, vec![]).await.expect("done");
    assert_eq!(
        (app.usage().await, app.timer_names().await.len()),
        ((0, 0), 0)
    );
}

pub async fn replacing_or_cancelling_a_leased_timer_makes_its_commit_fail(kit: Kit) {
    let app = kit.app().await;
    for (changes, left) in [(vec![after("a", MINUTE)], 1), (vec![cancel("a")], 0)] {
        app.timers(vec![after("a", 0)]).await;
        let [(_, receipt)] = app.due_timers(1).await.try_into().expect("one");
        let done = app.timers(changes).await;
        assert_eq!(
            done.contains(&Applied::TimerCancelled { existed: true }),
            left == 0
        );
        let lost = app
            .acknowledge(&receipt, vec![put("c", "k", json("1"))])
            .await;
        assert!(matches!(lost, Err(StoreError::LeaseLost)), "{lost:?}");
        assert!(!app.fail(&receipt, Verdict::RetryAt(app.now), false).await);
        assert!(!app.store.renew(&receipt, app.now).await.expect("a renewal"));
        assert!(app.get("c", "k").await.is_none());
        assert_eq!(app.timer_names().await.len(), left);
        app.timers(vec![cancel("a")]).await;
        assert_eq!(app.usage().await, (0, 0));
    }
}

pub async fn cancel_reports_whether_the_timer_was_set(kit: Kit) {
    let app = kit.app().await;
    let existed = |existed| Applied::TimerCancelled { existed };
    assert_eq!(app.timers(vec![cancel("a")]).await, [existed(false)]);
    app.timers(vec![after("a", MINUTE), after("b", MINUTE)])
        .await;
    assert_eq!(
        app.timers(vec![cancel("a"), cancel("a")]).await,
        [existed(true), existed(false)]
    );
    assert_eq!(app.timer_names().await, ["b"]);
    // Operations of a batch see those before them.
    let mixed = vec![
        after("a", 0),
        cancel("a"),
        cancel("b"),
        after("b", 5),
        after("b", MINUTE),
    ];
    let done = app.timers(mixed).await;
    assert_eq!(done[1..3], [existed(true), existed(true)]);
    assert_eq!(app.timer_names().await, ["b"]);
    assert!(app.later(5).due_timers(9).await.is_empty());
    app.timers(vec![cancel("b")]).await;
    assert_eq!(app.usage().await, (0, 0));
}

pub async fn timers_are_all_or_nothing_with_the_writes_of_their_batch(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "text", json("\"x\"")).await;
    app.timers(vec![after("kept", MINUTE)]).await;
    let usage = app.usage().await;
    let add = super::event_kit::increment("c", "text", 1);
    let ops = vec![put("c", "k", json("1")), add];
    let refused = app
        .try_timers(vec![after("a", 0), cancel("kept")], ops, None)
        .await;
    assert!(
        matches!(refused, Err(StoreError::NotInteger { at: 1 })),
        "{refused:?}"
    );
    let expects = |expect| TimerOp::Cancel {
        name: name("kept"),
        expect: Some(expect),
    };
    let unexpected = vec![after("a", 0), expects(false)];
    let refused = app
        .try_timers(unexpected, vec![put("c", "k", json("1"))], None)
        .await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { .. })),
        "{refused:?}"
    );
    assert_eq!(
        (app.timer_names().await, app.usage().await),
        (vec!["kept".to_owned()], usage)
    );
    assert!(app.get("c", "k").await.is_none());
    let both = vec![expects(true), after("a", 0)];
    let done = app
        .try_timers(both, vec![put("c", "k", json("1"))], None)
        .await
        .expect("both");
    assert!(matches!(done[0], Applied::Set(_)), "{done:?}");
    assert_eq!(
        done[1..],
        [Applied::TimerCancelled { existed: true }, Applied::TimerSet]
    );
    assert_eq!(app.timer_names().await, ["a"]);
}

pub async fn handler_of_a_timer_may_set_it_again(kit: Kit) {
    let app = kit.app().await;
    app.timers(vec![after("tick", 0)]).await;
    let [(_, receipt)] = app.due_timers(1).await.try_into().expect("one");
    // In its own commit the timer is not set any more.
    let expect = Some(false);
    let again = vec![
        TimerOp::Cancel {
            name: name("tick"),
            expect,
        },
        after("tick", MINUTE),
    ];
    let done = app
        .try_timers(again, vec![put("c", "k", json("1"))], Some(&receipt))
        .await;
    assert_eq!(
        done.expect("done")[1..],
        [
            Applied::TimerCancelled { existed: false },
            Applied::TimerSet
        ]
    );
    assert_eq!(app.timer_names().await, ["tick"]);
    assert_eq!(app.later(MINUTE).due_timers(9).await.len(), 1);
}

pub async fn timers_are_independent_of_each_other(kit: Kit) {
    let app = kit.app().await;
    app.watch("t", "c").await;
    app.timers((0..5).map(|n| after(&n.to_string(), 0)).collect())
        .await;
    let claimed = app.due_timers(9).await;
    assert_eq!(claimed.len(), 5);
    let keys: BTreeSet<_> = claimed.iter().map(|(d, _)| d.place.ordering_key).collect();
    assert_eq!(keys.len(), 5);
    // Nor do they trigger or wait for changes.
    assert!(app.claim("t", 9).await.is_empty());
    let [(first, receipt), ..] = claimed.as_slice() else {
        panic!("none");
    };
    let later = app.later(MINUTE).now;
    assert!(app.fail(receipt, Verdict::RetryAt(later), false).await);
    let timer = app
        .timer(&named(first).expect("a name"))
        .await
        .expect("still set");
    assert_eq!((timer.attempts, timer.due_at), (1, Some(later)));
}

pub async fn timers_of_other_apps_are_out_of_reach(kit: Kit) {
    let (one, two) = (kit.app().await, kit.app().await);
    one.timers(vec![after("a", 0)]).await;
    assert_eq!(
        two.timers(vec![cancel("a")]).await,
        [Applied::TimerCancelled { existed: false }]
    );
    two.timers(vec![after("a", MINUTE), after("b", MINUTE)])
        .await;
    assert!(two.due_timers(9).await.is_empty());
    assert_eq!(
        (one.timer_names().await.len(), two.timer_names().await.len()),
        (1, 2)
    );
    let claimed = one.due_timers(9).await;
    assert_eq!(claimed.len(), 1);
    assert!(
        two.store
            .delete_app(two.id, two.audit_row("test"))
            .await
            .expect("a deletion")
    );
    assert!(two.timer("a").await.is_none() && two.timer_names().await.is_empty());
}

pub async fn timers_are_listed_by_name_in_pages(kit: Kit) {
    let app = kit.app().await;
    let names = ["", "a", "a/b", "b", "é", "z"].map(|text| format!("{text}!"));
    let all: Vec<_> = names.iter().rev().map(|text| after(text, MINUTE)).collect();
    app.timers(all).await;
    let mut listed = Vec::new();
    loop {
        let last = listed.last().map(|text: &String| name(text));
        let page = app
            .store
            .timers(app.id, last.as_ref(), 2)
            .await
            .expect("a page");
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        listed.extend(page.iter().filter_map(named));
    }
    let mut sorted = names.to_vec();
    sorted.sort();
    assert_eq!(listed, sorted);
}

pub async fn timers_count_as_deliveries_against_the_quota(kit: Kit) {
    let app = kit.app().await;
    let one = 1 + 7 + DELIVERY_BYTES;
    app.set_quota(None, Some(2 * one)).await;
    app.timers(vec![after("a", MINUTE), after("b", MINUTE)])
        .await;
    assert_eq!(app.quota_usage().await.bytes, 2 * one);
    let refused = app.try_timers(vec![after("c", MINUTE)], vec![], None).await;
    assert!(
        matches!(refused, Err(StoreError::Quota { .. })),
        "{refused:?}"
    );
    // Replacing adds nothing, and cancelling makes room.
    app.timers(vec![after("a", 2 * MINUTE)]).await;
    app.timers(vec![cancel("b"), after("c", MINUTE)]).await;
    assert_eq!(app.timer_names().await, ["a", "c"]);
    let usage = app.quota_usage().await;
    assert_eq!((usage.bytes, usage.deliveries), (2 * one, 2));
}
