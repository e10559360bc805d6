//! Runs a loop while the dispatcher runs: restarts it after an error or a panic, and reports its
//! state in the host's health.

use kvasm_core::store::StoreError;
use kvasm_service::{TaskHandle, error_chain};
use std::fmt;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The delay before a loop is restarted. It doubles each time, until the loop has run for longer
/// than the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Signals loops to stop.
#[derive(Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Creates the sender and the receiver of the signal.
    pub(super) fn new() -> (watch::Sender<bool>, Stop) {
        let (tell, told) = watch::channel(false);
        (tell, Stop(told))
    }

    /// Whether the loop should stop.
    pub(super) fn is_requested(&self) -> bool {
        // Also if the sender was dropped, like `requested`.
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until the loop should stop.
    pub(super) async fn requested(&mut self) {
        // An error means that the sender was dropped.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Runs the loop that `run` returns until it ends without an error, which it does when it is
/// asked to stop. `run` gets the number of earlier starts. Dropping this future ends the loop.
pub(super) async fn supervise<F>(task: TaskHandle, mut stop: Stop, run: impl Fn(u64) -> F)
where
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let mut pause = PAUSE_MIN;
    for starts in 0.. {
        let started = Instant::now();
        // In a separate task, so that a panic only ends that task.
        let mut running = JoinSet::new();
        running.spawn(run(starts));
        match running.join_next().await {
            None | Some(Ok(Ok(()))) => return,
            Some(Ok(Err(error))) => task.report_failure(error_chain(&error)),
            Some(Err(panic)) => task.report_failure(panic.to_string()),
        }
        if started.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        tokio::select! {
            () = stop.requested() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = PAUSE_MAX.min(pause * 2);
        task.restarted();
    }
}

/// Runs rounds, with a `pause` before each, until a stop is requested, which also interrupts a
/// round. After a failure, when `starts` is not 0, the first round starts immediately.
pub(super) async fn run_rounds<F>(
    mut pause: Duration,
    starts: u64,
    task: &TaskHandle,
    mut stop: Stop,
    round: impl Fn() -> F,
) -> Result<(), StoreError>
where
    F: Future<Output = Result<(), StoreError>>,
{
    let interval = pause;
    if starts > 0 {
        pause = Duration::ZERO;
    }
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            done = working(task, round()) => done?,
        }
        task.report_ok();
        pause = interval;
    }
}

/// Runs a unit of work of a task, whose duration its health watches.
pub(super) async fn working<T>(task: &TaskHandle, work: impl Future<Output = T>) -> T {
    let _working = task.working();
    work.await
}

/// Number of consecutive failing items that counts as a failure of the store.
const FAILING_ITEMS: u32 = 10;

/// Skips failing items, each of one app, until too many fail in a row.
pub(super) struct Skips<'t> {
    task: &'t TaskHandle,
    in_a_row: u32,
}

impl<'t> Skips<'t> {
    pub(super) fn new(task: &'t TaskHandle) -> Skips<'t> {
        Skips { task, in_a_row: 0 }
    }

    /// Returns the result of an item; `None` if it is skipped.
    ///
    /// # Errors
    /// The error of the item, if too many have failed.
    pub(super) fn take<T>(
        &mut self,
        what: fmt::Arguments<'_>,
        done: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.task.progress();
        let error = match done {
            Ok(done) => {
                self.in_a_row = 0;
                return Ok(Some(done));
            }
            Err(error) => error,
        };
        self.task.report_skip(&what, &error_chain(&error));
        self.in_a_row += 1;
        match self.in_a_row {
            FAILING_ITEMS.. => Err(error),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_metrics::Metrics;
    use kvasm_service::{Health, HealthLimits};
    use kvasm_store_memory::MemoryStore;
    use std::sync::Arc;

    #[tokio::test]
    async fn supervised_loop_restarts_after_an_error_or_panic() {
        let store = Arc::new(MemoryStore::new());
        let metrics = Metrics::default();
        let health = Arc::new(Health::new(store, metrics.clone(), HealthLimits::default()));
        let (tell, stop) = Stop::new();
        let task = health.task("claims");
        let told = stop.clone();
        let supervised = tokio::spawn(supervise(task.clone(), stop, move |starts| {
            let (task, mut told) = (task.clone(), told.clone());
            async move {
                match starts {
                    0 => return Err(StoreError::Failed("an error".into())),
                    1 => panic!("a bug"),
                    _ => task.report_ok(),
                }
                told.requested().await;
                Ok(())
            }
        }));
        let mut seen = Vec::new();
        loop {
            let state = health.tasks().remove(0);
            if let Some((_, cause)) = state.failing
                && seen.last() != Some(&cause)
            {
                seen.push(cause);
            } else if state.restarts == 2 && health.check().await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(seen[0], "the store failed: an error");
        assert!(seen[1].contains("a bug"), "{seen:?}");
        let text = metrics.encode();
        assert!(text.contains("kvasm_task_restarts_total{name=\"claims\"} 2"));
        assert!(text.contains("kvasm_task_failing{name=\"claims\"} 0"));
        tell.send_replace(true);
        supervised.await.unwrap();
    }
}
