//! Removes the rows of deleted apps, in small batches.

use super::DispatchContext;
use super::supervisor::Skips;
use super::upkeep::{REST, ROWS};
use kvasm_core::AppId;
use kvasm_core::store::StoreError;
use kvasm_service::TaskHandle;
use std::sync::Arc;

/// Number of deleted apps read per page.
const GRAVES: u32 = 100;

/// Removes the remaining rows of each deleted app. One that fails is skipped until the next
/// round.
pub(super) async fn round(
    shared: Arc<DispatchContext>,
    task: TaskHandle,
) -> Result<(), StoreError> {
    // Continues after the app at which the last round was aborted.
    let mut after = shared.reaper_position.lock().take();
    let mut skips = Skips::new(&task);
    loop {
        let graves = shared.host.store().tombstones(after, GRAVES).await?;
        for grave in &graves {
            let reaped = reap(&shared, &task, *grave).await;
            let what = format_args!("the rows of the deleted app {grave}");
            if let Err(error) = skips.take(what, reaped) {
                *shared.reaper_position.lock() = Some(*grave);
                return Err(error);
            }
        }
        match graves.last() {
            Some(last) => after = Some(*last),
            None => return Ok(()),
        }
    }
}

async fn reap(shared: &DispatchContext, task: &TaskHandle, grave: AppId) -> Result<(), StoreError> {
    loop {
        let reaped = shared.host.store().reap(grave, ROWS).await?;
        if reaped == 0 {
            return Ok(());
        }
        shared.host.metrics().upkeep("rows_of_deleted_apps", reaped);
        task.progress();
        tokio::time::sleep(REST).await;
    }
}
