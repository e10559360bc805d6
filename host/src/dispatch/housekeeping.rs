//! What belongs to no live app: the audit log, deleted apps, and space to give back.

use super::upkeep::{REST, ROWS};
use super::{Shared, millis};
use crate::model::Timestamp;
use crate::store::StoreError;

/// Does each part, whether or not another one has failed.
pub(super) async fn round(shared: &Shared) {
    let store = shared.host.store();
    report("a deleted app's rows", reap(shared).await);
    report("old audit rows", prune_audit(shared).await);
    let mut more = Ok(true);
    while let Ok(true) = more {
        more = store.give_back().await;
        tokio::time::sleep(REST).await;
    }
    report("free space", more.map(drop));
}

fn report(what: &str, result: Result<(), StoreError>) {
    if let Err(error) = result {
        let cause = &error as &dyn std::error::Error;
        tracing::warn!(error = cause, what, "upkeep has failed; trying again later");
    }
}

/// Removes the rows of deleted apps.
async fn reap(shared: &Shared) -> Result<(), StoreError> {
    loop {
        let reaped = shared.host.store().reap(ROWS).await?;
        if reaped == 0 {
            return Ok(());
        }
        shared.host.metrics().upkeep("deleted_apps", reaped);
        tokio::time::sleep(REST).await;
    }
}

/// Removes audit rows that are too old, of all apps.
async fn prune_audit(shared: &Shared) -> Result<(), StoreError> {
    let age = i64::try_from(millis(shared.options.audit_age)).unwrap_or(i64::MAX);
    let before = Timestamp(Timestamp::now().0.saturating_sub(age));
    loop {
        let pruned = shared.host.store().prune_audit(before, ROWS).await?;
        shared.host.metrics().upkeep("audit", pruned);
        if pruned < u64::from(ROWS) {
            return Ok(());
        }
        tokio::time::sleep(REST).await;
    }
}
