//! What belongs to no live app: the audit log, deleted apps, and space to give back.

use super::{Shared, millis};
use crate::model::{AppName, Timestamp};
use crate::store::StoreError;
use std::time::Duration;

/// Rows that are removed in one transaction: few enough that nobody waits for it.
const ROWS: u32 = 500;
/// Between two such transactions, so that others come between them.
const REST: Duration = Duration::from_millis(10);
/// Apps that are read in one go.
const APPS: u32 = 200;

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

/// Removes audit rows that are too old, and those of each app that are too many.
async fn prune_audit(shared: &Shared) -> Result<(), StoreError> {
    let age = i64::try_from(millis(shared.options.audit_age)).unwrap_or(i64::MAX);
    let before = Timestamp(Timestamp::now().0.saturating_sub(age));
    let store = shared.host.store();
    loop {
        let pruned = store.prune_audit(before, ROWS).await?;
        if rested(shared, pruned).await {
            break;
        }
    }
    let mut after: Option<AppName> = None;
    loop {
        let apps = store.apps(after.as_ref(), APPS).await?;
        let Some(last) = apps.last() else {
            return Ok(());
        };
        after = Some(last.name.clone());
        for app in &apps {
            let keep = shared.options.audit_of_app;
            loop {
                let pruned = store.prune_audit_of(app.id, keep, ROWS).await?;
                if rested(shared, pruned).await {
                    break;
                }
            }
        }
    }
}

/// Counts audit rows that were removed, and rests if there may be more; whether
/// these were the last.
async fn rested(shared: &Shared, pruned: u64) -> bool {
    shared.host.metrics().upkeep("audit", pruned);
    if pruned < u64::from(ROWS) {
        return true;
    }
    tokio::time::sleep(REST).await;
    false
}
