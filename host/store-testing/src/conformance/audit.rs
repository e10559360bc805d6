//! The audit log: each change that takes effect writes one row; nothing else does.

use super::Kit;
use super::app_settings::{config, key_id, resealed, sealed, setting_name};
use super::event_kit::{trigger, trigger_name, watch};
use super::kit::{
    KIT_ACTION, Tenant, absent, app, assert_app_not_found, audit_row, bytes, delete, digest,
    new_plugin, set, token, token_id,
};
use super::loop_guard::LoopGuard;
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{
    AppId, AppLimits, Applied, Audit, Commit, DeadLetterFilter, DeadReason, DeliveryFilter, Grant,
    LimitsPatch, Op, PluginVersion, SettingKind, TRIGGERS_MAX, TimerName, Timestamp, Token,
    TokenId, TriggerDeletion, Verdict,
};
use serde_json::json;
use std::cmp::Reverse;
use std::pin::Pin;
use std::slice;
use std::sync::Arc;
use tokio::task::JoinSet;

/// All rows of an app, or of all apps, except those of the kit; newest first, in small pages.
async fn log(kit: &Kit, app: Option<AppId>) -> Vec<Audit> {
    let mut all: Vec<Audit> = Vec::new();
    let mut rounds = LoopGuard::new();
    loop {
        rounds.next();
        let before = all.last().map(|row| row.id);
        let page = kit.store.audit(app, before, 4).await.expect("audit");
        assert!(page.len() <= 4);
        if page.is_empty() {
            all.retain(|row| row.action != KIT_ACTION);
            return all;
        }
        all.extend(page);
    }
}

pub(super) type Outcome = Pin<Box<dyn Future<Output = Result<bool, StoreError>> + Send>>;

/// An operation, and the row that it writes if it changes something. Returns whether it did.
pub(super) type Operation = Box<dyn FnOnce(Arc<dyn Store>, Audit) -> Outcome + Send>;

/// Builds operations from expressions that return whether they changed something.
macro_rules! operations {
    (|$store:ident, $row:ident| $($done:expr;)*) => {
        vec![$((
            stringify!($done),
            $crate::conformance::audit::operation(move |$store, $row| async move { $done }),
        )),*]
    };
}
pub(super) use operations;

pub(super) fn operation<F: Future<Output = Result<bool, StoreError>> + Send + 'static>(
    run: impl FnOnce(Arc<dyn Store>, Audit) -> F + Send + 'static,
) -> Operation {
    Box::new(move |store, row| Box::pin(run(store, row)))
}

pub(super) type NamedOperation = (&'static str, Operation);

pub(super) fn changed<T>(_: T) -> bool {
    true
}

/// Operations that create and change an app, in an order in which all of them take effect.
pub(super) fn changes(tenant: &Tenant) -> Vec<NamedOperation> {
    let id = tenant.id;
    let (made, bound) = (app("made"), token("bound", Some(id)));
    let (made_id, bound_id) = (made.id, bound.id);
    let (one, two) = (new_plugin(id, "one", true), new_plugin(id, "two", false));
    let second = PluginVersion(2);
    let patch = || LimitsPatch::from(AppLimits::default());
    let name = || trigger_name("t");
    operations! { |store, row|
        store.create_app(made, row).await.map(changed);
        store.set_public(id, true, row).await.map(changed);
        // The value it already has: this still takes effect.
        store.set_public(id, true, row).await.map(changed);
        store.set_limits(made_id, patch(), None, row).await.map(changed);
        store.set_limits(id, patch(), Some(AppLimits::default()), row).await.map(changed);
        store.add_plugin(one, row).await.map(changed);
        store.add_plugin(two, row).await.map(changed);
        store.activate_plugin(id, second, row).await.map(changed);
        store.activate_plugin(id, second, row).await.map(changed);
        store.roll_back_plugin(id, row).await.map(changed);
        store.delete_plugin(id, second, row).await;
        store.create_token(token("free", None), row).await;
        store.create_token(bound, row).await;
        store.revoke_token(Some(id), bound_id, row).await;
        store.set_trigger(id, trigger("t", watch("c")), row).await.map(changed);
        store.set_trigger(id, trigger("t", watch("c")), row).await.map(changed);
        store.pause_trigger(id, name(), true, row).await;
        store.delete_trigger(id, name(), false, row).await.map(|done| done == TriggerDeletion::Deleted);
        store.set_setting(id, setting_name("n"), config("a"), row).await.map(changed);
        // The value it already has: this still takes effect.
        store.set_setting(id, setting_name("n"), config("a"), row).await.map(changed);
        store.set_setting(id, setting_name("n"), sealed(1, "a"), row).await.map(changed);
        store.unset_setting(id, SettingKind::Config, setting_name("n"), row).await;
        store.add_grants(id, vec![Grant::Timers], row).await.map(|count| count > 0);
        store.remove_grants(id, vec![Grant::Timers], row).await.map(|count| count > 0);
        store.set_secrets_key(key_id(2), row).await;
        store.reseal_secrets(id, vec![resealed("n", "a", sealed(2, "b"))], row).await.map(|count| count > 0);
        store.unset_setting(id, SettingKind::Secret, setting_name("n"), row).await;
        store.delete_app(made_id, row).await;
    }
}

/// A row with every field set, about an app or not.
fn full_row(app: Option<&Tenant>, number: usize) -> Audit {
    Audit {
        at: Timestamp(1000 + number as i64),
        token: number.is_multiple_of(2).then(|| token("used", None).id),
        actor: format!("ä'\"\\ {number}"),
        action: format!("test.{number}").into(),
        app: app.map(|app| (app.id, app.name.clone())),
        detail: json!({
            "number": number,
            "nested": [null, true, -1.5, {"é\"\n": ""}],
            "large": u64::MAX,
        }),
        ..audit_row("replaced")
    }
}

pub async fn each_change_writes_one_audit_row(kit: Kit) {
    let app = kit.app().await;
    let mut expected: Vec<Audit> = Vec::new();
    for (number, (shown, operation)) in changes(&app).into_iter().enumerate() {
        let about = (number % 3 > 0).then_some(&app);
        let row = full_row(about, number);
        let changed = operation(Arc::clone(&kit.store), row.clone()).await;
        assert!(changed.expect("done"), "{shown}");
        expected.insert(0, row);
        let newest = kit.store.audit(None, None, 1).await.unwrap();
        assert_eq!(newest, expected[..1], "{shown}");
    }
    assert_eq!(log(&kit, None).await, expected);
    expected.retain(|row| row.app.is_some());
    assert_eq!(log(&kit, Some(app.id)).await, expected);
}

pub async fn audit_rows_may_reference_missing_apps_and_tokens(kit: Kit) {
    // Neither the token nor the app exists, or ever did.
    let never = Tenant {
        id: AppId::generate(),
        ..kit.app().await
    };
    let mut row = full_row(Some(&never), 0);
    row.token = Some(TokenId::BOOTSTRAP);
    row.detail = json!({});
    let free = token("free", None);
    kit.store
        .create_token(free, row.clone())
        .await
        .expect("done");
    assert_eq!(log(&kit, None).await, [row.clone()]);
    assert_eq!(log(&kit, Some(never.id)).await, [row]);
}

pub async fn no_op_writes_no_audit_row(kit: Kit) {
    let app = kit.app().await;
    let id = app.id;
    let taken = token("taken", None);
    let (taken_id, again, bootstrap) = (taken.id, taken.clone(), TokenId::BOOTSTRAP);
    app.add("one", true).await;
    let row = || app.audit_row("test");
    assert!(kit.store.create_token(taken, row()).await.unwrap());
    let revoked = kit.store.revoke_token(None, taken_id, row()).await;
    assert!(revoked.unwrap());
    let before = log(&kit, None).await;
    assert_eq!(before.len(), 3);
    let name = || trigger_name("t");
    let operations: Vec<NamedOperation> = operations! { |store, row|
        store.delete_app(AppId::generate(), row).await;
        store.delete_plugin(id, PluginVersion(2), row).await;
        store.create_token(again, row).await;
        store.revoke_token(None, taken_id, row).await;
        store.revoke_token(Some(id), bootstrap, row).await;
        store.pause_trigger(id, name(), true, row).await;
        store.delete_trigger(id, name(), true, row).await.map(|done| done == TriggerDeletion::Deleted);
        store.discard_deliveries(id, DeliveryFilter::default(), 9, row).await.map(|count| count > 0);
        store.run_timer(id, TimerName::stored("t".to_owned()), row).await;
        store.replay(id, DeadLetterFilter::default(), 9, row).await.map(|count| count > 0);
        store.discard(id, DeadLetterFilter::default(), 9, row).await.map(|count| count > 0);
        store.unset_setting(id, SettingKind::Secret, setting_name("n"), row).await;
        store.reseal_secrets(id, vec![resealed("n", "a", sealed(1, "b"))], row).await.map(|count| count > 0);
        store.add_grants(id, vec![], row).await.map(|count| count > 0);
        store.remove_grants(id, vec![Grant::Timers], row).await.map(|count| count > 0);
    };
    for (shown, operation) in operations {
        let changed = operation(Arc::clone(&kit.store), row()).await;
        assert!(!changed.expect("nothing to do"), "{shown}");
        assert_eq!(log(&kit, None).await, before, "{shown}");
    }
}

pub async fn failed_operation_writes_no_audit_row(kit: Kit) {
    let tenant = kit.app().await;
    let (id, never) = (tenant.id, AppId::generate());
    tenant.add("one", true).await;
    for number in 0..TRIGGERS_MAX {
        tenant.watch(&number.to_string(), "c").await;
    }
    let before = log(&kit, None).await;
    let (again, version) = (app(tenant.name.as_str()), PluginVersion(1));
    let patch = || LimitsPatch::from(AppLimits::default());
    let others = AppLimits {
        calls_at_once: Some(1),
        ..AppLimits::default()
    };
    let two = move |activate| new_plugin(never, "two", activate);
    let all = DeadLetterFilter::default;
    let operations: Vec<NamedOperation> = operations! { |store, row|
        store.create_app(again, row).await.map(changed);
        store.set_public(never, true, row).await.map(changed);
        store.set_limits(never, patch(), None, row).await.map(changed);
        store.set_limits(id, patch(), Some(others), row).await.map(changed);
        store.add_plugin(two(true), row).await.map(changed);
        store.add_plugin(two(false), row).await.map(changed);
        store.activate_plugin(never, version, row).await.map(changed);
        store.activate_plugin(id, PluginVersion(2), row).await.map(changed);
        store.roll_back_plugin(id, row).await.map(changed);
        store.roll_back_plugin(never, row).await.map(changed);
        store.delete_plugin(id, version, row).await;
        store.create_token(token("ci", Some(never)), row).await;
        store.set_trigger(never, trigger("t", watch("c")), row).await.map(changed);
        store.set_trigger(id, trigger("t", watch("c")), row).await.map(changed);
        store.pause_trigger(never, trigger_name("t"), true, row).await;
        store.delete_trigger(never, trigger_name("t"), false, row).await.map(changed);
        store.discard_deliveries(never, DeliveryFilter::default(), 9, row).await.map(changed);
        store.run_timer(never, TimerName::stored("t".to_owned()), row).await;
        store.replay(never, all(), 9, row).await.map(changed);
        store.discard(never, all(), 9, row).await.map(changed);
        store.set_setting(never, setting_name("n"), config("a"), row).await.map(changed);
        store.unset_setting(never, SettingKind::Config, setting_name("n"), row).await;
        store.reseal_secrets(never, vec![], row).await.map(changed);
        store.add_grants(never, vec![Grant::Timers], row).await.map(changed);
        store.remove_grants(never, vec![Grant::Timers], row).await.map(changed);
    };
    for (shown, operation) in operations {
        let failed = operation(Arc::clone(&kit.store), tenant.audit_row("test")).await;
        assert!(failed.is_err(), "{shown}: {failed:?}");
        assert_eq!(log(&kit, None).await, before, "{shown}");
    }
    // No other part of the failed operation is stored either.
    assert_eq!(kit.store.module(digest("two")).await.unwrap(), None);
    assert!(kit.store.tokens(None, None, 9).await.unwrap().is_empty());
    assert_eq!(kit.store.plugins(id, None, 9).await.unwrap().len(), 1);
}

pub async fn unaudited_operation_writes_no_audit_row(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "k", bytes("x")).await;
    app.commit(vec![], vec![delete("c", "k"), set("c", "l", bytes("x"))])
        .await;
    assert!(log(&kit, None).await.is_empty());
}

/// An operation whose row cannot be written has no effect, not even on the usage counters.
pub async fn operation_is_rolled_back_if_its_audit_row_fails(kit: Kit) {
    let app = kit.app().await;
    let row = app.audit_row("first");
    let made = token("ci", None);
    kit.store.create_token(made, row.clone()).await.unwrap();
    app.watch("t", "c").await;
    app.set("c", "k", bytes("12345678")).await;
    let [(_, receipt)] = app.claim("t", 1).await.try_into().expect("one");
    let dead = Verdict::DeadLetter(DeadReason::Attempts);
    assert!(app.fail(&receipt, dead, false).await);
    let (usage, letters) = (app.usage().await, app.dead_letters().await);
    // Several at once, so that they may share a transaction with writes that succeed.
    let mut callers = JoinSet::new();
    for number in 0..8 {
        let (app, row) = (app.clone(), row.clone());
        callers.spawn(async move {
            let store = &app.store;
            let done = match number % 3 {
                0 => store.set_public(app.id, true, row).await.map(changed),
                1 => store
                    .discard(app.id, DeadLetterFilter::default(), 9, row)
                    .await
                    .map(changed),
                _ => return assert!(!app.delete("c", "nothing").await),
            };
            assert!(matches!(done, Err(StoreError::Failed(_))), "{done:?}");
        });
    }
    callers.join_all().await;
    assert_eq!(
        (app.usage().await, app.dead_letters().await),
        (usage, letters)
    );
    assert!(!app.app_row().await.public);
    let first = log(&kit, None).await.pop();
    assert_eq!(first, Some(row));
}

pub async fn audit_rows_survive_app_deletion(kit: Kit) {
    let (gone, kept) = (kit.app().await, kit.app().await);
    for app in [&gone, &kept] {
        app.add("one", true).await;
        let token = token("ci", Some(app.id));
        let created = kit.store.create_token(token, app.audit_row("test")).await;
        assert!(created.unwrap());
    }
    let before = log(&kit, None).await;
    let own = log(&kit, Some(gone.id)).await;
    assert_eq!((before.len(), own.len()), (4, 2));
    let deleted = gone.audit_row("app.delete");
    let gone_now = kit.store.delete_app(gone.id, deleted.clone()).await;
    assert!(gone_now.unwrap());
    let with_deletion = |rows: &[Audit]| [slice::from_ref(&deleted), rows].concat();
    assert_eq!(log(&kit, None).await, with_deletion(&before));
    assert_eq!(log(&kit, Some(gone.id)).await, with_deletion(&own));
    // A new app of the same name is a different app.
    let again = app(gone.name.as_str());
    kit.create(&again).await.unwrap();
    assert!(log(&kit, Some(again.id)).await.is_empty());
    assert!(kit.delete_app(kept.id).await.unwrap());
    assert_eq!(log(&kit, Some(kept.id)).await.len(), 2);
}

pub async fn audit_rows_are_paged_newest_first(kit: Kit) {
    let (one, two) = (kit.app().await, kit.app().await);
    let mut rng = kit.rng();
    let about = [None, Some(&one), Some(&two)];
    let mut rows: Vec<_> = (0..23).map(|at| full_row(about[at % 3], at)).collect();
    // The identity decides which is newer, not the order of the writes.
    let mut left = rows.clone();
    while !left.is_empty() {
        let row = left.swap_remove(rng.below(left.len()));
        let token = token("ci", None);
        kit.store.create_token(token, row).await.expect("done");
    }
    rows.reverse();
    assert_eq!(log(&kit, None).await, rows);
    for app in [one.id, two.id] {
        let of_app = |row: &&Audit| row.app.as_ref().is_some_and(|(id, _)| *id == app);
        let own: Vec<_> = rows.iter().filter(of_app).cloned().collect();
        assert!(own.len() >= 7);
        assert_eq!(log(&kit, Some(app)).await, own);
        // The start may be a row of another app.
        let page = kit.store.audit(Some(app), Some(rows[9].id), 100).await;
        let rest: Vec<_> = own.into_iter().filter(|row| row.id < rows[9].id).collect();
        assert_eq!(page.unwrap(), rest);
    }
    let page = kit.store.audit(None, Some(rows[4].id), 3).await.unwrap();
    assert_eq!(page, rows[5..8]);
    assert!(kit.store.audit(None, None, 0).await.unwrap().is_empty());
    assert!(log(&kit, Some(AppId::generate())).await.is_empty());
}

/// Writes of every shape, to an app whose only entry is `c/old`.
fn writes() -> Vec<Vec<Op>> {
    vec![
        vec![set("c", "old", bytes("new"))],
        vec![set("c", "k", bytes("x"))],
        vec![delete("c", "old")],
        vec![delete("c", "nothing")],
        vec![set("c", "k", bytes("x")), set("c", "l", bytes("x"))],
        vec![delete("c", "old"), delete("c", "nothing")],
        vec![set("c", "k", bytes("x")), delete("c", "old")],
        vec![set("c", "k", bytes("x")), delete("c", "k")],
        vec![],
    ]
}

async fn commit(app: &Tenant, batch: Commit, row: &Audit) -> Result<Vec<Applied>, StoreError> {
    let audit = Some(Box::new(row.clone()));
    let committed = app.store.commit(Commit { audit, ..batch }).await;
    committed.map(|committed| committed.applied)
}

pub async fn audited_batch_writes_one_audit_row(kit: Kit) {
    let mut expected = Vec::new();
    for (number, ops) in writes().into_iter().enumerate() {
        for checks in [vec![], vec![absent("c", "none")]] {
            let app = kit.app().await;
            app.set("c", "old", bytes("x")).await;
            let row = full_row(Some(&app), number);
            let count = ops.len();
            let applied = commit(&app, app.batch(checks, ops.clone()), &row).await;
            assert_eq!(applied.expect("done").len(), count);
            for op in &ops {
                if let Op::Set { key, value, .. } = op {
                    let deleted = ops.len() == 2 && ops[1] == delete("c", key.as_str());
                    let found = app.value("c", key.as_str()).await;
                    assert_eq!(found.as_ref(), (!deleted).then_some(value));
                }
            }
            let rows = log(&kit, Some(app.id)).await;
            assert_eq!(rows, slice::from_ref(&row), "{ops:?}");
            expected.insert(0, row);
        }
    }
    assert_eq!(log(&kit, None).await, expected);
}

pub async fn failed_batch_writes_no_audit_row(kit: Kit) {
    let app = kit.app().await;
    let version = app.set("c", "old", bytes("x")).await;
    let before = app.usage().await;
    // Not even the first write may stay.
    for ops in writes() {
        let batch = app.batch(vec![absent("c", "old")], ops);
        let failed = commit(&app, batch, &app.audit_row("conflict")).await;
        assert!(matches!(failed, Err(StoreError::Conflict { .. })));
    }
    for (entries, bytes_max) in [(Some(1), None), (None, Some(app.quota_usage().await.bytes))] {
        app.set_quota(entries, bytes_max).await;
        for ops in [
            vec![set("c", "k", bytes("x"))],
            vec![set("c", "k", bytes("x")), set("c", "l", bytes("x"))],
            vec![
                delete("c", "old"),
                set("c", "k", bytes("x")),
                set("c", "l", bytes("x")),
            ],
        ] {
            for checks in [vec![], vec![absent("c", "k")]] {
                let batch = app.batch(checks, ops.clone());
                let failed = commit(&app, batch, &app.audit_row("quota")).await;
                assert!(matches!(failed, Err(StoreError::Quota { .. })), "{ops:?}");
            }
        }
    }
    let never = Tenant {
        id: AppId::generate(),
        ..app.clone()
    };
    for ops in writes() {
        let batch = never.batch(vec![], ops);
        let row = never.audit_row("never");
        assert_app_not_found(commit(&never, batch, &row).await);
    }
    assert!(log(&kit, Some(never.id)).await.is_empty());
    // Only the two changes of the quota are in the log.
    let rows = log(&kit, None).await;
    assert!(rows.len() == 2 && rows.iter().all(|row| row.action == "test"));
    assert_eq!(app.get("c", "old").await.unwrap().version, version);
    assert_eq!((app.usage().await, app.keys("c").await.len()), (before, 1));
}

/// Tries an operation that only one caller per round can do; returns whether it was done.
async fn try_once_per_round(tenant: &Tenant, kind: u32, round: u32, row: &Audit) -> bool {
    let (store, row) = (&tenant.store, row.clone());
    let done = match kind {
        0 => match store.create_app(app(&format!("race-{round}")), row).await {
            Err(StoreError::AppExists) => Ok(false),
            other => other.map(changed),
        },
        1 => {
            let id = token_id(round.into());
            let token = Token {
                id,
                ..token("ci", None)
            };
            store.create_token(token, row).await
        }
        _ => {
            let k = format!("k{round}");
            let ops = vec![set("c", &k, bytes("x"))];
            let batch = tenant.batch(vec![absent("c", &k)], ops);
            match commit(tenant, batch, &row).await {
                Err(StoreError::Conflict { .. }) => Ok(false),
                other => other.map(changed),
            }
        }
    };
    done.expect("done or not")
}

pub async fn concurrent_changes_write_one_audit_row_each(kit: Kit) {
    let app = kit.app().await;
    let mut callers = JoinSet::new();
    for caller in 0..12 {
        let app = app.clone();
        callers.spawn(async move {
            let mut rows = Vec::new();
            for round in 0..10 {
                let row = app.audit_row("race");
                if try_once_per_round(&app, (caller + round) % 3, round, &row).await {
                    rows.push(row);
                }
            }
            rows
        });
    }
    let mut expected = callers.join_all().await.concat();
    assert_eq!(expected.len(), 30, "one of each kind in each round");
    expected.sort_by_key(|row| Reverse(row.id));
    assert_eq!(log(&kit, Some(app.id)).await, expected);
}
