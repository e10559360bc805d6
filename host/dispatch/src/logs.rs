//! Writes the logs of apps, and the records of their calls, to the store.

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
    shared.host.log_keeper().attach();
    if shared.options.calls.bytes_of_app > 0 {
        shared.host.call_keeper().attach();
    }
    let mut failed = PAUSE_FAILED;
    loop {
        let pause = match working(&task, round(&shared)).await {
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
    // Lines and records of later calls are written by the code that stops the host.
    let (host, options) = (&shared.host, &shared.options);
    if let Err(error) = host.flush_logs(&options.logs, &options.calls).await {
        task.report_skip(&"the last lines of logs", &error_chain(&error));
    }
    Ok(())
}

/// Writes what is due of both, even if one fails. First the calls, about which lines may be due then.
async fn round(shared: &DispatchContext) -> Result<(), StoreError> {
    let (host, options) = (&shared.host, &shared.options);
    let calls = host.call_keeper().round(&options.calls).await;
    let lines = host.log_keeper().round(&options.logs).await;
    calls.and(lines)
}
