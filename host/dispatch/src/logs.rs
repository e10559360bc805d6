//! Writes the logs of apps to the store.

use super::DispatchContext;
use super::supervisor::{Stop, working};
use kvasm_core::store::StoreError;
use kvasm_service::{TaskHandle, error_chain};
use std::sync::Arc;
use std::time::Duration;

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(250);
/// Pause after a round that failed. It doubles with each in a row.
const PAUSE_FAILED: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// Writes until it is asked to stop. A failure counts as a skip, and makes the host unready only after
/// [`HealthLimits::unlogged`](kvasm_service::HealthLimits::unlogged): calls work without a log.
pub(super) async fn run(
    shared: Arc<DispatchContext>,
    task: TaskHandle,
    mut stop: Stop,
) -> Result<(), StoreError> {
    let (keeper, retention) = (shared.host.log_keeper(), &shared.options.logs);
    keeper.attach();
    let mut failed = PAUSE_FAILED;
    loop {
        let pause = match working(&task, keeper.round(retention)).await {
            Ok(()) => {
                failed = PAUSE_FAILED;
                task.report_ok();
                PAUSE
            }
            Err(error) => {
                task.report_skip(&"the logs of apps", &error_chain(&error));
                let pause = failed;
                failed = PAUSE_MAX.min(failed * 2);
                pause
            }
        };
        tokio::select! {
            () = stop.requested() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    // Lines of later calls are written by the code that stops the host.
    if let Err(error) = keeper.flush(retention).await {
        task.report_skip(&"the last lines of logs", &error_chain(&error));
    }
    Ok(())
}
