//! Writes to the store that this host is alive, and what it did.

use super::DispatchContext;
use super::supervisor::{Stop, working};
use kvasm_core::store::StoreError;
use kvasm_service::{TaskHandle, error_chain};
use std::sync::Arc;
use std::time::Duration;

/// Pause between two heartbeats. There is another one when a minute begins.
const PAUSE: Duration = Duration::from_secs(10);

/// Writes heartbeats until it is asked to stop, and then the last one. A failure shows in the
/// health of the host, and does not make it unready: calls work without a history.
pub(super) async fn run(
    shared: Arc<DispatchContext>,
    task: TaskHandle,
    mut stop: Stop,
) -> Result<(), StoreError> {
    let history = shared.host.history();
    let name = shared.options.shown_host_name();
    loop {
        match working(&task, history.beat(&name, false)).await {
            Ok(()) => task.report_ok(),
            Err(error) => task.report_failure(error_chain(&error)),
        }
        // A little later, so that clocks that differ by a moment agree on the minute.
        let next = history.until_next_minute().await + Duration::from_millis(20);
        tokio::select! {
            () = stop.requested() => break,
            () = tokio::time::sleep(PAUSE.min(next)) => {}
        }
    }
    // Requests may still run; the code that stops the host writes what they did.
    if let Err(error) = history.beat(&name, true).await {
        task.report_skip(&"the last heartbeat", &error_chain(&error));
    }
    Ok(())
}

/// Returns the name of this machine, or `unknown`.
pub(super) fn system_name() -> String {
    let read = |path| std::fs::read_to_string(path).ok();
    let names = [
        read("/proc/sys/kernel/hostname"),
        read("/etc/hostname"),
        std::env::var("HOSTNAME").ok(),
    ];
    let mut names = names.iter().flatten().map(|name| name.trim());
    let name = names.find(|name| !name.is_empty() && !name.contains(char::is_control));
    name.unwrap_or("unknown").to_owned()
}
