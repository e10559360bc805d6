//! Wakes the claims when a timer becomes due, so that it does not wait for the next poll.
//!
//! The next timer of all apps is read from the store with each poll, because other hosts set timers
//! too. A timer that this host sets for an earlier time is known at once.

use super::DispatchContext;
use super::supervisor::{Stop, working};
use kvasm_core::Timestamp;
use kvasm_core::store::StoreError;
use kvasm_service::TaskHandle;
use std::sync::Arc;
use std::time::Duration;

/// Wakes the claims repeatedly.
pub(super) async fn run(
    shared: Arc<DispatchContext>,
    task: TaskHandle,
    mut stop: Stop,
) -> Result<(), StoreError> {
    // Timers that are due already are found by the claims.
    let mut woken = shared.clock.now();
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            () = shared.clock.wait_until_trusted() => {}
        }
        // After the last wake-up, so that none is left out; not before a clock that was set back.
        woken = woken.min(shared.clock.now());
        let next = tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            next = working(&task, shared.host.store().next_timer(woken)) => next?,
        };
        task.report_ok();
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            due = first_due(&shared, next) => if due {
                woken = shared.clock.now();
                shared.changed.notify_one();
            },
            () = tokio::time::sleep(shared.options.poll) => {}
        }
    }
}

/// Waits until `next`, or a timer that is set meanwhile, is due. Never returns if there is none.
async fn first_due(shared: &DispatchContext, next: Option<Timestamp>) -> bool {
    let mut next = next.unwrap_or(Timestamp(i64::MAX));
    loop {
        let wait = next.0.saturating_sub(shared.clock.now().0);
        if wait <= 0 {
            return true;
        }
        tokio::select! {
            earlier = shared.host.notifier().wait_for_timer(next) => next = earlier,
            () = tokio::time::sleep(Duration::from_millis(wait.unsigned_abs())) => {}
        }
    }
}
