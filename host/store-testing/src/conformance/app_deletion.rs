//! A deleted app disappears at once, and its rows are removed in small steps. Audit rows are
//! removed when they are old or too many.

use super::Kit;
use super::app_settings::{config, sealed, set_setting};
use super::event_kit::trigger;
use super::grants::grant;
use super::kit::{
    Tenant, app, audit_row, bytes, collection, key, list, reap, reap_step, set, token,
};
use super::loop_guard::LoopGuard;
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Audit, DeadLetterFilter, DeadReason, Grant, PluginVersion, Schedule, Settings,
    Timestamp, Verdict, Watch,
};
use uuid::Uuid;

/// An app with every kind of row, and `entries` entries.
async fn full(kit: &Kit, entries: usize) -> Tenant {
    let app = kit.app().await;
    app.watch("t", "c").await;
    let watch = Watch::Schedule(Schedule::parse("* * * * *").expect("a schedule"));
    app.set_trigger(trigger("cron", watch)).await;
    for from in (0..entries).step_by(500) {
        let sets =
            (from..entries.min(from + 500)).map(|at| set("d", &format!("k{at}"), bytes("1")));
        app.commit(vec![], sets.collect()).await;
    }
    for k in ["a", "b", "e"] {
        app.set("c", k, bytes("1")).await;
    }
    let [(_, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    let give_up = Verdict::DeadLetter(DeadReason::Attempts);
    assert!(app.fail(&receipt, give_up, false).await);
    app.add(app.name.as_str(), true).await;
    let row = app.audit_row("test");
    let made = app.store.create_token(token("ci", Some(app.id)), row).await;
    assert!(made.expect("a token"));
    set_setting(&app, "n", config("v"))
        .await
        .expect("a setting");
    set_setting(&app, "n", sealed(1, "s"))
        .await
        .expect("a secret");
    grant(&app, vec![Grant::Timers]).await.expect("a grant");
    app
}

fn not_found<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::AppNotFound)), "{result:?}");
}

/// Asserts that nothing of the app is visible, and that nothing of it can be changed.
async fn assert_gone(app: &Tenant) {
    let store = &app.store;
    assert!(store.app_by_id(app.id).await.expect("read").is_none());
    assert_eq!(app.get("c", "a").await, None);
    assert!(!app.has("c", "a").await);
    let two = [(collection("c"), key("a")), (collection("d"), key("k1"))];
    let many = store.get_many(app.id, &two, app.now, 100).await;
    assert_eq!(many.expect("read"), [None, None]);
    for with_values in [false, true] {
        let mut query = list("d");
        query.with_values = with_values;
        assert!(app.page(&query).await.entries.is_empty());
    }
    let collections = store.collections(app.id, None, 9).await;
    assert_eq!(collections.expect("read"), []);
    let used = app.quota_usage().await;
    assert_eq!((used.entries, used.bytes, used.deliveries), (0, 0, 0));
    assert_eq!(app.triggers().await, []);
    assert_eq!(app.outstanding().await, []);
    assert_eq!(app.dead_letters().await, []);
    let all = DeadLetterFilter::default();
    let letters = store.count_dead_letters(app.id, &all, 9).await;
    assert_eq!(letters.expect("read"), 0);
    assert!(
        store
            .plugins(app.id, None, 9)
            .await
            .expect("read")
            .is_empty()
    );
    let plugin = store.plugin(app.id, PluginVersion(1)).await;
    assert!(plugin.expect("read").is_none());
    let tokens = store.tokens(Some(app.id), None, 9).await;
    assert!(tokens.expect("read").is_empty());
    assert_eq!(app.due().await, [""; 0]);
    let schedules = store.schedules(None, app.later(1 << 40).now, 100).await;
    let schedules = schedules.expect("read");
    assert!(schedules.iter().all(|due| due.place.queue.app != app.id));

    not_found(
        app.try_commit(vec![], vec![set("c", "a", bytes("2"))])
            .await,
    );
    not_found(app.try_add("another", true).await);
    not_found(app.try_activate(1).await);
    let again = trigger("t", super::event_kit::watch("c"));
    not_found(app.try_set_trigger(again).await);
    not_found(app.try_pause("t", false).await);
    let row = app.audit_row("test");
    not_found(store.create_token(token("ci", Some(app.id)), row).await);
    let settings = store.settings(app.id).await.expect("read");
    assert_eq!(settings, Settings::default());
    not_found(set_setting(app, "n", config("v")).await);
    assert!(!app.delete_app().await.expect("nothing"));
}

pub async fn deleted_app_disappears_at_once_and_is_reaped_in_steps(kit: Kit) {
    const ENTRIES: usize = 1_200;
    const STEP: u32 = 100;
    let gone = full(&kit, ENTRIES).await;
    let claimed = gone.claim("t", 1).await;
    let neighbour = full(&kit, 10).await;
    let before = neighbour.quota_usage().await;
    assert!(gone.delete_app().await.expect("deleted"));
    assert_gone(&gone).await;
    for (_, receipt) in &claimed {
        assert!(gone.acknowledge(receipt, vec![]).await.is_err());
        let give_up = Verdict::DeadLetter(DeadReason::Attempts);
        assert!(!gone.fail(receipt, give_up, true).await);
    }
    let names = async || {
        let apps = kit.store.apps(None, 100).await.expect("apps");
        apps.into_iter().map(|app| app.name).collect::<Vec<_>>()
    };
    assert_eq!(names().await, std::slice::from_ref(&neighbour.name));
    // The name can be reused.
    let next = app(gone.name.as_str());
    kit.create(&next).await.expect("a free name");
    let next = Tenant {
        id: next.id,
        ..gone.clone()
    };
    next.set("c", "a", bytes("new")).await;

    let mut steps = 0;
    let mut rounds = LoopGuard::new();
    loop {
        rounds.next();
        let reaped = reap_step(&*kit.store, STEP).await;
        if reaped == 0 {
            break;
        }
        assert!(reaped <= u64::from(STEP), "{reaped} rows in one step");
        steps += 1;
        assert_gone(&gone).await;
        // Other writes happen between two steps.
        neighbour.set("d", "k1", bytes("2")).await;
    }
    // The store in memory has nothing left to remove.
    assert!(
        steps == 0 || steps > ENTRIES / STEP as usize,
        "{steps} steps"
    );
    assert_gone(&gone).await;
    assert_eq!(neighbour.quota_usage().await, before);
    assert_eq!(neighbour.outstanding().await.len(), 2);
    assert_eq!(next.value("c", "a").await, Some(bytes("new")));
    let gone_module = super::kit::digest(gone.name.as_str());
    assert!(kit.store.module(gone_module).await.expect("read").is_none());
    let kept = super::kit::digest(neighbour.name.as_str());
    assert!(kit.store.module(kept).await.expect("read").is_some());
}

/// Deliveries outlive their trigger, which can then no longer be paused.
pub async fn orphaned_deliveries_of_a_deleted_app_are_not_due(kit: Kit) {
    let gone = kit.app().await;
    gone.watch("t", "c").await;
    gone.set("c", "k", bytes("1")).await;
    assert!(gone.delete_trigger("t").await);
    assert_eq!(gone.due().await, ["t"]);
    assert!(gone.delete_app().await.expect("deleted"));
    assert_eq!(gone.due().await, [""; 0]);
}

/// A host drops its in-memory copy of a module once the store has none.
pub async fn module_is_removed_with_the_last_app_that_uses_it(kit: Kit) {
    let (first, second) = (kit.app().await, kit.app().await);
    for app in [&first, &second] {
        app.add("shared", true).await;
    }
    let digest = super::kit::digest("shared");
    assert!(first.delete_app().await.expect("deleted"));
    assert!(kit.store.module(digest).await.expect("read").is_some());
    assert!(second.delete_app().await.expect("deleted"));
    assert!(kit.store.module(digest).await.expect("read").is_none());
    let third = kit.app().await;
    third.add("shared", true).await;
    reap(&*kit.store).await;
    assert!(kit.store.module(digest).await.expect("read").is_some());
}

/// Few rows can hold large values: a step is also small in bytes.
pub async fn large_values_are_reaped_in_small_steps(kit: Kit) {
    let gone = kit.app().await;
    for at in 0..20 {
        gone.set("c", &format!("k{at}"), bytes(vec![7; 1 << 20]))
            .await;
    }
    assert!(gone.delete_app().await.expect("deleted"));
    reap(&*kit.store).await;
    assert_gone(&gone).await;
    assert_eq!(kit.store.tombstones(None, 9).await.expect("graves"), []);
}

/// An audit row created at `ms`.
fn row_at(ms: u64, app: Option<&Tenant>) -> Audit {
    let id = Uuid::now_v7().as_u128() & ((1 << 80) - 1);
    Audit {
        id: Uuid::from_u128(u128::from(ms) << 80 | id),
        at: Timestamp(ms.cast_signed()),
        app: app.map(|app| (app.id, app.name.clone())),
        ..audit_row("test")
    }
}

pub async fn old_and_excess_audit_rows_are_pruned(kit: Kit) {
    let (one, two) = (kit.app().await, kit.app().await);
    for ms in 1..=30 {
        let about = [Some(&one), Some(&two), None][ms as usize % 3];
        let row = row_at(ms * 1_000, about);
        let made = kit.store.create_token(token("ci", None), row).await;
        assert!(made.expect("a token"));
    }
    let rows = async |app: Option<AppId>| {
        let rows = kit.store.audit(app, None, 1_000).await.expect("audit");
        rows.into_iter()
            .map(|row| row.at.0 / 1_000)
            .collect::<Vec<_>>()
    };
    let before = Timestamp(10_000);
    let prune = |limit| kit.store.prune_audit(before, limit);
    assert_eq!(prune(4).await.expect("four"), 4);
    assert_eq!(rows(None).await.last(), Some(&5));
    assert_eq!(prune(100).await.expect("five"), 5);
    assert_eq!(prune(100).await.expect("none"), 0);
    assert_eq!(rows(None).await.last(), Some(&10));
    // The newest rows of each app stay.
    let all = rows(Some(one.id)).await;
    let prune = |keep, limit| kit.store.prune_audit_of(one.id, keep, limit);
    assert_eq!(prune(100, 100).await.expect("none"), 0);
    assert_eq!(prune(4, 2).await.expect("two"), 2);
    assert_eq!(rows(Some(one.id)).await, all[..all.len() - 2]);
    assert_eq!(prune(4, 100).await.expect("the rest"), all.len() as u64 - 6);
    assert_eq!(rows(Some(one.id)).await, all[..4]);
    assert_eq!(rows(Some(two.id)).await.len(), 7);
}
