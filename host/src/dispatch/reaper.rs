//! Removes the rows of deleted apps, in small steps.

use super::Shared;
use super::supervisor::{Stop, rounds};
use super::upkeep::{REST, ROWS};
use crate::model::AppId;
use crate::service::{Task, chain};
use crate::store::StoreError;
use std::sync::Arc;

/// Deleted apps that are read in one go.
const GRAVES: u32 = 100;
/// Deleted apps in a row whose removal fails before that counts as a failure of the
/// store.
const FAILING_GRAVES: u32 = 10;

/// Goes through all deleted apps again and again. After a failure, which is when
/// `starts` is not 0, at once.
pub(super) async fn run(
    shared: Arc<Shared>,
    task: Task,
    stop: Stop,
    starts: u64,
) -> Result<(), StoreError> {
    let pause = shared.options.upkeep;
    rounds(pause, starts, &task, stop, || round(&shared, &task)).await
}

/// Removes what is left of each deleted app. One that fails is left aside until the
/// next round.
async fn round(shared: &Shared, task: &Task) -> Result<(), StoreError> {
    // Behind those at which the last round was given up.
    let (mut after, mut failed) = (shared.reaped_until.lock().take(), 0);
    loop {
        let graves = shared.host.store().graves(after, GRAVES).await?;
        for grave in &graves {
            let Err(error) = reap(shared, *grave).await else {
                failed = 0;
                continue;
            };
            let what = format_args!("the rows of the deleted app {grave}");
            task.skips(&what, &chain(&error));
            failed += 1;
            if failed >= FAILING_GRAVES {
                *shared.reaped_until.lock() = Some(*grave);
                return Err(error);
            }
        }
        match graves.last() {
            Some(last) => after = Some(*last),
            None => return Ok(()),
        }
    }
}

async fn reap(shared: &Shared, grave: AppId) -> Result<(), StoreError> {
    loop {
        let reaped = shared.host.store().reap(grave, ROWS).await?;
        if reaped == 0 {
            return Ok(());
        }
        shared.host.metrics().upkeep("rows_of_deleted_apps", reaped);
        tokio::time::sleep(REST).await;
    }
}
