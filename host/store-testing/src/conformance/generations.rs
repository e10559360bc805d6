//! The generation of the registry: each change by an administrator becomes the new generation
//! as soon as it is visible.

use super::Kit;
use super::audit::{NamedOperation, changed, changes, operations};
use super::kit::{Tenant, audit_row, bytes, set};
use kvasm_core::store::Store;
use kvasm_core::{
    AppLimits, Audit, Commit, DeadLetterFilter, DeadReason, DeliveryFilter, Generation,
    LimitsPatch, Verdict,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;
use uuid::Uuid;

async fn generation(store: &Arc<dyn Store>) -> Generation {
    store.generation().await.expect("the generation")
}

/// Creates two dead letters and a delivery of a trigger "d".
async fn with_deliveries(app: &Tenant) {
    app.watch("d", "c").await;
    for number in 0..2 {
        app.set("c", &number.to_string(), bytes("x")).await;
        let [(_, receipt)] = app.claim("d", 1).await.try_into().expect("one");
        let dead = Verdict::DeadLetter(DeadReason::Attempts);
        assert!(app.fail(&receipt, dead, false).await);
    }
    app.set("c", "k", bytes("x")).await;
}

/// Operations on the result of [`with_deliveries`], each of which takes effect.
fn on_deliveries(app: &Tenant) -> Vec<NamedOperation> {
    let id = app.id;
    operations! { |store, row|
        store.replay(id, DeadLetterFilter::default(), 1, row).await.map(|count| count > 0);
        store.discard(id, DeadLetterFilter::default(), 1, row).await.map(|count| count > 0);
        store.discard_deliveries(id, DeliveryFilter::default(), 1, row).await.map(|count| count > 0);
    }
}

pub async fn each_registry_change_advances_the_generation(kit: Kit) {
    assert_eq!(generation(&kit.store).await, Generation(Uuid::nil()));
    let app = kit.app().await;
    with_deliveries(&app).await;
    for (shown, operation) in on_deliveries(&app).into_iter().chain(changes(&app)) {
        let row = audit_row("test");
        let changed = operation(Arc::clone(&kit.store), row.clone()).await;
        assert!(changed.expect("done"), "{shown}");
        assert_eq!(generation(&kit.store).await, Generation(row.id), "{shown}");
    }
}

pub async fn no_op_does_not_advance_the_generation(kit: Kit) {
    let app = kit.app().await;
    let before = generation(&kit.store).await;
    let deleted = kit.store.delete_app(Uuid::nil().into(), audit_row("test"));
    assert!(!deleted.await.unwrap());
    let others = AppLimits {
        calls_at_once: Some(1),
        ..AppLimits::default()
    };
    let patch = LimitsPatch::from(AppLimits::default());
    let (store, row) = (&kit.store, audit_row("test"));
    let refused = store.set_limits(app.id, patch, Some(others), row).await;
    assert!(refused.is_err());
    // Entries are not part of the registry.
    let audit: Option<Box<Audit>> = Some(Box::new(audit_row("test")));
    let batch = app.batch(vec![], vec![set("c", "k", bytes("x"))]);
    store.commit(Commit { audit, ..batch }).await.unwrap();
    assert_eq!(generation(&kit.store).await, before);
}

/// A row read between two generation checks with the same result is of that generation, neither
/// older nor newer.
pub async fn rows_read_within_one_generation_are_current(kit: Kit) {
    const CHANGES: u32 = 60;
    let app = kit.app().await;
    let row = audit_row("first");
    let first = kit.store.set_public(app.id, false, row.clone()).await;
    assert_eq!(first.unwrap().limits, AppLimits::default());
    let rows: Vec<_> = (0..CHANGES).map(|_| audit_row("test")).collect();
    let mut expected: HashMap<Uuid, Option<u32>> = HashMap::from([(row.id, None)]);
    expected.extend(rows.iter().map(|row| row.id).zip((0..).map(Some)));
    let (expected, over) = (Arc::new(expected), Arc::new(AtomicBool::new(false)));
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let (store, id) = (Arc::clone(&kit.store), app.id);
        let (expected, over) = (Arc::clone(&expected), Arc::clone(&over));
        readers.spawn(async move {
            let mut same = 0;
            loop {
                let is_last = over.load(Ordering::SeqCst);
                let before = generation(&store).await;
                let row = store.app_by_id(id).await.unwrap().expect("the app");
                if generation(&store).await == before {
                    assert_eq!(row.limits.calls_per_second, expected[&before.0]);
                    same += 1;
                }
                if is_last {
                    return same;
                }
            }
        });
    }
    for (number, row) in (0..).zip(rows) {
        let limits = AppLimits {
            calls_per_second: Some(number),
            ..AppLimits::default()
        };
        let changed = kit
            .store
            .set_limits(app.id, limits.into(), None, row.clone());
        changed.await.unwrap();
        // A change is visible once it is acknowledged.
        assert_eq!(generation(&kit.store).await, Generation(row.id));
    }
    over.store(true, Ordering::SeqCst);
    for same in readers.join_all().await {
        assert!(same > 0, "nothing was compared");
    }
}

/// Concurrent changes: each is the generation for a moment, and the last one stays.
pub async fn concurrent_registry_changes_all_take_effect(kit: Kit) {
    let apps = [kit.app().await, kit.app().await];
    let before = generation(&kit.store).await;
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let app = apps[caller % 2].clone();
        callers.spawn(async move {
            let mut rows = Vec::new();
            for number in 0..10 {
                let row = audit_row("test");
                rows.push(row.id);
                let change = app.store.set_public(app.id, number % 2 > 0, row);
                changed(change.await.unwrap());
            }
            rows
        });
    }
    let rows = callers.join_all().await.concat();
    let last = generation(&kit.store).await;
    assert_ne!(last, before);
    assert!(rows.contains(&last.0));
}

#[cfg(test)]
mod tests {
    /// An operation missing here could leave stale data in the caches of hosts.
    #[test]
    fn every_registry_operation_is_covered() {
        let registry = [
            include_str!("../../../core/src/store/registry.rs"),
            include_str!("../../../core/src/store/settings_store.rs"),
        ]
        .concat();
        let tried = [include_str!("generations.rs"), include_str!("audit.rs")].concat();
        let methods: Vec<_> = registry.split("    async fn ").skip(1).collect();
        let operations = methods.iter().filter_map(|method| {
            let (head, _) = method.split_once(';')?;
            let (name, parameters) = head.split_once('(')?;
            parameters.contains("audit: Audit").then_some(name)
        });
        let operations: Vec<_> = operations.collect();
        assert!(operations.len() >= 20, "only {operations:?} were found");
        for name in operations {
            assert!(tried.contains(&format!("        store.{name}(")), "{name}");
        }
    }
}
