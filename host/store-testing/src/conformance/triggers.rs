//! Triggers: which changes create deliveries, and where triggers come from.

use super::Kit;
use super::event_kit::increment;
use super::kit::{
    NOW, Tenant, absent, assert_app_not_found, audit_row, bytes, cost, delete, json, new_plugin,
    set, set_until,
};
use kvasm_core::store::StoreError;
use kvasm_core::{
    Changes, Commit, DeclaredTrigger, Delivery, EventKind, Exports, FAILURES_MAX, NewPlugin,
    NewTrigger, Op, Origin, Pause, Policy, Queue, Schedule, ScheduleTick, TRIGGERS_MAX, Target,
    Trigger, Verdict, Watch,
};
use std::sync::Arc;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

pub async fn each_kind_of_change_creates_a_delivery(kit: Kit) {
    let app = kit.app().await;
    app.watch("t", "orders").await;
    let set_at = app.set("orders", "a", json("{\"n\":1}")).await;
    let later = app.later(5);
    later
        .commit(vec![], vec![increment("orders", "n", 3)])
        .await;
    later.set("orders", "b", bytes("\0x")).await;
    let version = later.get("orders", "a").await.expect("a").version;
    assert!(later.delete("orders", "a").await);
    let found = app.outstanding().await;
    assert_eq!(found.len(), 4);
    let of = |key: &str, kind: &str| {
        let is = |d: &&Delivery| {
            let what = &d.event.kind;
            what.kind() == kind && what.entry().is_some_and(|(_, k)| k.as_str() == key)
        };
        found.iter().find(is).expect("a delivery").clone()
    };
    let first = of("a", "set");
    assert_eq!(first.event.at, NOW);
    assert_eq!(
        (first.event.depth, first.attempts, first.target.column()),
        (1, 0, "t")
    );
    let EventKind::Set {
        version: told,
        value,
        collection,
        ..
    } = first.event.kind
    else {
        panic!("not a set")
    };
    assert_eq!(
        (told, value, collection.as_str()),
        (set_at, json("{\"n\":1}"), "orders")
    );
    let EventKind::Set { value, .. } = of("n", "set").event.kind else {
        panic!()
    };
    assert_eq!(value, json("3"));
    let EventKind::Set { value, .. } = of("b", "set").event.kind else {
        panic!()
    };
    assert_eq!(value, bytes("\0x"));
    let gone = of("a", "delete");
    let EventKind::Deleted { version: had, .. } = gone.event.kind else {
        panic!()
    };
    assert_eq!(had, version);
    assert_eq!(gone.event.at, NOW.plus_ms(5));
}

pub async fn no_op_write_creates_no_delivery(kit: Kit) {
    let app = kit.app().await;
    app.watch("t", "c").await;
    assert!(!app.delete("c", "absent").await);
    app.set("other", "a", json("1")).await;
    app.expect_conflict(vec![absent("other", "a")], vec![set("c", "a", json("1"))])
        .await;
    app.set_until("c", "short", json("1"), NOW.plus_ms(1)).await;
    let before = app.outstanding().await.len();
    assert_eq!(before, 1);
    // It has expired: deleting it is no change, and the expiry creates no delivery.
    assert!(!app.later(1).delete("c", "short").await);
    assert_eq!(app.outstanding().await.len(), before);
}

pub async fn trigger_matches_its_prefix_and_event_kinds(kit: Kit) {
    let app = kit.app().await;
    let with = |prefix: &str, set, delete| Changes {
        collection: super::kit::collection("c"),
        prefix: prefix.to_owned(),
        set,
        delete,
    };
    for (name, changes) in [
        ("all", with("", true, true)),
        ("sets", with("", true, false)),
        ("deletes", with("", false, true)),
        ("some", with("é/", true, true)),
    ] {
        app.set_trigger(trigger(name, Watch::Changes(changes)))
            .await;
    }
    app.set("c", "x", json("1")).await;
    app.set("c", "é/1", json("1")).await;
    app.delete("c", "x").await;
    let names: Vec<_> = app
        .outstanding()
        .await
        .into_iter()
        .map(|d| d.place.trigger.to_string())
        .collect();
    let count = |name: &str| names.iter().filter(|found| *found == name).count();
    assert_eq!(["all", "sets", "deletes", "some"].map(count), [3, 2, 1, 1]);
    // One event, no matter how many triggers match.
    let mut ids: Vec<_> = app.outstanding().await.iter().map(|d| d.event.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

pub async fn batch_operations_are_delivered_in_order(kit: Kit) {
    let app = kit.app().await;
    app.watch("t", "c").await;
    let ops = vec![
        set("c", "k", json("1")),
        increment("c", "k", 1),
        set("d", "k", json("0")),
        delete("c", "k"),
        set("c", "k", json("3")),
        set("c", "l", json("4")),
    ];
    let batch = Commit {
        depth: 3,
        ..app.batch(vec![], ops)
    };
    let committed = app.store.commit(batch).await.expect("commit");
    assert_eq!(committed.deliveries, 5);
    let found = app.outstanding().await;
    assert!(found.iter().all(|delivery| delivery.event.depth == 4));
    let mut of_k: Vec<_> = found
        .iter()
        .filter(|d| d.event.kind.entry().is_some_and(|(_, k)| k.as_str() == "k"))
        .collect();
    of_k.sort_by_key(|delivery| delivery.place.seq);
    let kinds: Vec<_> = of_k.iter().map(|d| d.event.kind.kind()).collect();
    assert_eq!(kinds, ["set", "set", "delete", "set"]);
}

pub async fn failed_write_creates_no_delivery(kit: Kit) {
    let app = kit.app().await;
    app.watch("t", "c").await;
    app.set("d", "text", json("\"x\"")).await;
    let refused = app
        .try_commit(
            vec![],
            vec![set("c", "a", json("1")), increment("d", "text", 1)],
        )
        .await;
    assert!(refused.is_err());
    app.set_quota(None, Some(10)).await;
    let refused = app
        .try_commit(vec![], vec![set("c", "a", bytes("12345678901"))])
        .await;
    assert!(
        matches!(refused, Err(StoreError::Quota { .. })),
        "{refused:?}"
    );
    assert_eq!(app.outstanding().await, []);
}

/// Deliveries count against the quota, so that an app cannot fill the disk with them.
pub async fn deliveries_count_against_the_quota(kit: Kit) {
    let app = kit.app().await;
    app.watch("t", "c").await;
    app.watch("u", "c").await;
    app.set("c", "k", bytes("12345678")).await;
    // The entry, and two deliveries of ten bytes.
    assert_eq!(app.usage().await, (1, 30));
    app.set_quota(None, Some(cost(1, 2, 31))).await;
    let again = || vec![set("c", "k", bytes("abcdefgh"))];
    let refused = app.try_commit(vec![], again()).await;
    assert!(
        matches!(refused, Err(StoreError::Quota { .. })),
        "{refused:?}"
    );
    app.set_quota(None, Some(cost(1, 4, 50))).await;
    app.commit(vec![], again()).await;
    assert_eq!(app.usage().await, (1, 50));
}

pub async fn triggers_can_be_set_replaced_paused_and_deleted(kit: Kit) {
    let app = kit.app().await;
    assert_eq!(app.triggers().await, []);
    let first = app.watch("b", "c").await;
    let second = app.watch("a", "c").await;
    assert_eq!(app.triggers().await, [second, first.clone()]);
    let schedule = Schedule::parse("*/5 * * * *").expect("a schedule");
    let other = NewTrigger {
        target: Target::function("f"),
        ..trigger("b", Watch::Schedule(schedule))
    };
    let made = app.set_trigger(other.clone()).await;
    let expected = Trigger {
        watch: other.watch,
        target: other.target,
        standing: made.standing,
        ..first
    };
    assert_eq!(made, expected);
    assert_eq!(app.triggers().await[1], expected);
    app.pause("b", true).await;
    assert_eq!(
        app.triggers().await[1].standing.paused,
        Some(Pause::Operator)
    );
    app.pause("b", false).await;
    assert_eq!(app.triggers().await[1].standing.paused, None);
    assert!(app.delete_trigger("b").await);
    assert!(!app.delete_trigger("b").await);
    assert_eq!(app.triggers().await.len(), 1);
    for paused in [true, false] {
        assert!(!app.try_pause("b", paused).await.expect("no trigger"));
    }
}

/// Replacing a trigger changes neither its creation time nor when an unchanged schedule is due
/// next.
pub async fn replacing_a_trigger_keeps_its_creation_time_and_plan(kit: Kit) {
    let app = kit.app().await;
    let every = |text: &str| Watch::Schedule(Schedule::parse(text).expect("a schedule"));
    let made = app.set_trigger(trigger("t", every("*/5 * * * *"))).await;
    assert_eq!((made.created_at, made.next_at), (NOW, None));
    let planned = ScheduleTick {
        queue: Queue {
            app: app.id,
            trigger: made.name.clone(),
        },
        planned: None,
        next: Some(NOW.plus_ms(7_000)),
        run: None,
        now: NOW,
    };
    assert!(!app.store.tick(&planned).await.expect("a plan"));
    app.pause("t", true).await;
    let later = app.later(1_000);
    let narrower = NewTrigger {
        policy: Policy {
            attempts_max: 3,
            ..Policy::default()
        },
        ..trigger("t", every("*/5 * * * *"))
    };
    let set = later.set_trigger(narrower.clone()).await;
    let expected = Trigger {
        policy: narrower.policy,
        next_at: planned.next,
        standing: set.standing,
        ..made.clone()
    };
    assert_eq!((set.standing.paused, set.standing.failures), (None, 0));
    assert_eq!(set, expected, "not paused, as docs/events.md says");
    assert_eq!(later.triggers().await, [expected]);
    // A different schedule must be planned first.
    let other = later.set_trigger(trigger("t", every("*/6 * * * *"))).await;
    assert_eq!((other.created_at, other.next_at), (NOW, None));
    // A trigger that is deleted and created again is a new trigger.
    assert!(later.delete_trigger("t").await);
    let again = later.set_trigger(trigger("t", every("*/6 * * * *"))).await;
    assert_eq!(again.created_at, later.now);
}

fn assert_too_many(refused: Result<Trigger, StoreError>) {
    let found = TRIGGERS_MAX as u64 + 1;
    assert!(
        matches!(refused, Err(StoreError::TooManyTriggers { found: f }) if f == found),
        "{refused:?}"
    );
}

pub async fn concurrent_callers_cannot_exceed_the_trigger_limit(kit: Kit) {
    let app = kit.app().await;
    for number in 0..TRIGGERS_MAX - 3 {
        app.watch(&format!("t{number}"), "c").await;
    }
    let start = Arc::new(Barrier::new(12));
    let mut callers = JoinSet::new();
    for caller in 0..12 {
        let (app, start) = (app.clone(), Arc::clone(&start));
        callers.spawn(async move {
            start.wait().await;
            app.try_set_trigger(trigger(&format!("u{caller}"), super::event_kit::watch("c")))
                .await
        });
    }
    let (made, refused): (Vec<_>, Vec<_>) = callers
        .join_all()
        .await
        .into_iter()
        .partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (3, 9));
    refused.into_iter().for_each(assert_too_many);
    assert_eq!(app.triggers().await.len(), TRIGGERS_MAX);
    // An existing trigger can be replaced, and deleting one frees a slot.
    app.watch("t0", "d").await;
    assert_too_many(
        app.try_set_trigger(trigger("one-more", super::event_kit::watch("c")))
            .await,
    );
    assert!(app.delete_trigger("t1").await);
    app.watch("one-more", "c").await;
}

/// Triggers that a plugin declares count too.
pub async fn declared_triggers_count_against_the_limit(kit: Kit) {
    let app = kit.app().await;
    for number in 0..TRIGGERS_MAX - 1 {
        app.watch(&format!("t{number}"), "c").await;
    }
    // One uses no slot, as an operator's trigger overrides it.
    deploy(&app, "one", vec![declared("t0", "d"), declared("a", "d")]).await;
    assert_eq!(app.triggers().await.len(), TRIGGERS_MAX);
    let exports = Exports {
        triggers: vec![declared("a", "d"), declared("b", "d")],
        ..Exports::default()
    };
    let plugin = NewPlugin {
        exports,
        ..new_plugin(app.id, "two", true)
    };
    let before = app.triggers().await;
    let row = || app.audit_row("test");
    let refused = app.store.add_plugin(plugin.clone(), row()).await;
    assert!(
        matches!(refused, Err(StoreError::TooManyTriggers { .. })),
        "{refused:?}"
    );
    assert_eq!(
        (app.triggers().await, app.active().await),
        (before, Some(1))
    );
    assert_eq!(app.store.plugins(app.id, None, 9).await.unwrap().len(), 1);
    // It can be deployed, and activated once there is room.
    let activate = false;
    let added = app
        .store
        .add_plugin(NewPlugin { activate, ..plugin }, row());
    let version = added.await.expect("a version").0;
    let refused = app.try_activate(version).await;
    assert!(
        matches!(refused, Err(StoreError::TooManyTriggers { .. })),
        "{refused:?}"
    );
    assert!(app.delete_trigger("t0").await);
    app.activate(version).await;
    assert_eq!(app.triggers().await.len(), TRIGGERS_MAX);
}

/// A write sees a trigger once the trigger is acknowledged, and no longer than until it is
/// deleted.
pub async fn trigger_takes_effect_once_acknowledged(kit: Kit) {
    let app = kit.app().await;
    for round in 0..5 {
        app.watch("t", "c").await;
        app.set("c", "k", json("1")).await;
        assert_eq!(app.outstanding().await.len(), round + 1);
        assert!(app.delete_trigger("t").await);
        app.set("c", "k", json("1")).await;
        assert_eq!(
            app.outstanding().await.len(),
            round + 1,
            "deliveries stay, and none come"
        );
    }
}

pub async fn trigger_operations_on_an_unknown_app_fail(kit: Kit) {
    let app = kit.app().await;
    let gone = kit.app().await;
    gone.watch("t", "c").await;
    assert!(kit.delete_app(gone.id).await.expect("deleted"));
    assert_eq!(gone.triggers().await, []);
    let made = trigger("t", app.watch("t", "c").await.watch);
    assert_app_not_found(gone.try_set_trigger(made).await);
    assert_app_not_found(gone.try_pause("t", true).await);
}

fn trigger(name: &str, watch: Watch) -> NewTrigger {
    super::event_kit::trigger(name, watch)
}

pub(super) fn declared(name: &str, c: &str) -> DeclaredTrigger {
    DeclaredTrigger::new(
        super::event_kit::trigger_name(name),
        super::event_kit::watch(c),
    )
}

pub(super) async fn deploy(app: &Tenant, wasm: &str, triggers: Vec<DeclaredTrigger>) {
    let exports = Exports {
        triggers,
        ..Exports::default()
    };
    let plugin = NewPlugin {
        exports,
        ..new_plugin(app.id, wasm, true)
    };
    let added = app.store.add_plugin(plugin, app.audit_row("test")).await;
    added.expect("a version");
}

async fn names(app: &Tenant) -> Vec<(String, Origin)> {
    let all = app.triggers().await;
    all.iter().map(|t| (t.name.to_string(), t.origin)).collect()
}

pub async fn declared_triggers_follow_the_active_version(kit: Kit) {
    let app = kit.app().await;
    let own = |name: &str| (name.to_owned(), Origin::Plugin);
    deploy(&app, "one", vec![declared("a", "c"), declared("b", "c")]).await;
    assert_eq!(names(&app).await, [own("a"), own("b")]);
    app.set("c", "k", json("1")).await;
    assert_eq!(app.outstanding().await.len(), 2);
    deploy(&app, "two", vec![declared("b", "d"), declared("z", "d")]).await;
    assert_eq!(names(&app).await, [own("b"), own("z")]);
    app.set("c", "k", json("1")).await;
    assert_eq!(app.outstanding().await.len(), 2);
    assert_eq!(app.try_roll_back().await.expect("back"), 1);
    assert_eq!(names(&app).await, [own("a"), own("b")]);
    app.set("c", "k", json("1")).await;
    assert_eq!(app.outstanding().await.len(), 4);
}

pub async fn operator_trigger_overrides_a_declared_one(kit: Kit) {
    let app = kit.app().await;
    app.watch("a", "mine").await;
    deploy(&app, "one", vec![declared("a", "c")]).await;
    assert_eq!(names(&app).await, [("a".to_owned(), Origin::Operator)]);
    app.set("c", "k", json("1")).await;
    assert_eq!(app.outstanding().await, []);
    app.set("mine", "k", json("1")).await;
    assert_eq!(app.outstanding().await.len(), 1);
}

pub async fn activation_resumes_triggers_paused_by_failures(kit: Kit) {
    let app = kit.app().await;
    app.watch("by_failures", "c").await;
    for n in 0..FAILURES_MAX {
        app.set("c", &n.to_string(), json("1")).await;
    }
    for (_, receipt) in app.claim("by_failures", FAILURES_MAX).await {
        assert!(app.fail(&receipt, Verdict::RetryAt(NOW), true).await);
    }
    app.watch("by_hand", "c").await;
    app.pause("by_hand", true).await;
    let found: Vec<_> = app
        .triggers()
        .await
        .iter()
        .map(|t| t.standing.paused)
        .collect();
    assert_eq!(found, [Some(Pause::Failures), Some(Pause::Operator)]);
    deploy(&app, "one", vec![]).await;
    let found: Vec<_> = app
        .triggers()
        .await
        .iter()
        .map(|t| (t.standing.paused, t.standing.failures))
        .collect();
    assert_eq!(found, [(None, 0), (Some(Pause::Operator), 0)]);
}

pub async fn audited_write_creates_deliveries(kit: Kit) {
    let app = kit.app().await;
    app.watch("t", "c").await;
    let batch = Commit {
        audit: Some(Box::new(audit_row("kv.set"))),
        ..app.batch(vec![], vec![set("c", "k", json("1"))])
    };
    assert_eq!(app.store.commit(batch).await.expect("commit").deliveries, 1);
    let many: Vec<Op> = (0..20)
        .map(|n| set_until("c", &n.to_string(), json("1"), NOW.plus_ms(9)))
        .collect();
    app.commit(vec![], many).await;
    assert_eq!(app.outstanding().await.len(), 21);
}
