//! Upkeep that is independent of apps: old audit rows, the history of hosts, and free space to return.

use super::upkeep::{REST, ROWS};
use super::{DispatchContext, millis};
use kvasm_core::Timestamp;
use kvasm_core::store::StoreError;
use kvasm_service::{TaskHandle, error_chain};
use std::sync::Arc;

/// Runs each part, even if another one has failed.
pub(super) async fn round(
    shared: Arc<DispatchContext>,
    task: TaskHandle,
) -> Result<(), StoreError> {
    let pruned = prune_audit(&shared, &task).await;
    prune_history(&shared, &task).await;
    let reclaimed = reclaim_space(&shared, &task).await;
    pruned.and(reclaimed)
}

/// Removes audit rows of all apps that are too old, unless the clock is in doubt.
async fn prune_audit(shared: &DispatchContext, task: &TaskHandle) -> Result<(), StoreError> {
    let age = i64::try_from(millis(shared.options.audit_age)).unwrap_or(i64::MAX);
    loop {
        let Some(now) = shared.clock.for_deletion() else {
            return Ok(());
        };
        let before = Timestamp(now.0.saturating_sub(age));
        let pruned = shared.host.store().prune_audit(before, ROWS).await?;
        shared.host.metrics().upkeep("audit", pruned);
        if pruned < u64::from(ROWS) {
            return Ok(());
        }
        task.progress();
        tokio::time::sleep(REST).await;
    }
}

/// Removes what is too old or too much of the history of hosts, unless the clock is in doubt. If it
/// cannot be pruned, that does not make the host unready.
async fn prune_history(shared: &DispatchContext, task: &TaskHandle) {
    while let Some(now) = shared.clock.for_deletion() {
        let pruned = shared
            .host
            .history()
            .prune(now, &shared.options.history, ROWS);
        match pruned.await {
            Ok(pruned) if pruned == u64::from(ROWS) => {}
            Ok(_) => return,
            Err(error) => {
                return task.report_skip(&"the history of hosts", &error_chain(&error));
            }
        }
        task.progress();
        tokio::time::sleep(REST).await;
    }
}

/// Returns free space to the file system.
async fn reclaim_space(shared: &DispatchContext, task: &TaskHandle) -> Result<(), StoreError> {
    while shared.host.store().reclaim_space().await? {
        task.progress();
        tokio::time::sleep(REST).await;
    }
    Ok(())
}
