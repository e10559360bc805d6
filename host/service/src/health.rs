//! Readiness of this host: a write probe of the store, and the state of the background tasks.

use super::health_limits::{Delays, HealthLimits};
use kvasm_core::Timestamp;
use kvasm_core::store::{Store, StoreError};
use kvasm_metrics::Metrics;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Timeout of a probe of the store.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the result of a probe is reused, so that callers cannot make the host write more
/// often.
const PROBE_AGE_MAX: Duration = Duration::from_secs(1);
/// Minimum interval between log lines of the same kind.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Probes the store and tracks the background tasks of one host.
pub struct Health {
    store: Arc<dyn Store>,
    metrics: Metrics,
    limits: HealthLimits,
    delays: Mutex<Delays>,
    tasks: Mutex<BTreeMap<&'static str, HealthState>>,
    probe: Mutex<Option<Probe>>,
    probe_log: LogLimit,
    stopping: AtomicBool,
}

#[derive(Debug, Clone)]
pub(super) struct HealthState {
    failing: Option<(Timestamp, String)>,
    restarts: u64,
    skips: u64,
    /// Since when it has been working on the same item; `None` if it is waiting for work.
    pub(super) working_since: Option<Instant>,
    /// When it last completed a round, or was registered.
    pub(super) completed: Instant,
}

impl Default for HealthState {
    fn default() -> HealthState {
        HealthState {
            failing: None,
            restarts: 0,
            skips: 0,
            working_since: None,
            completed: Instant::now(),
        }
    }
}

/// A probe that is running or has ended.
struct Probe {
    started: Instant,
    result: watch::Receiver<Option<Probed>>,
}

#[derive(Clone)]
struct Probed {
    at: Instant,
    result: Result<(), StoreFailure>,
}

/// Why the store does not accept writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFailure {
    /// A short description, safe for anyone to see.
    pub summary: &'static str,
    /// With its causes, which may contain SQL and paths.
    pub cause: String,
}

/// The state of a background task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskHealth {
    /// Its name.
    pub name: &'static str,
    /// When it started failing, and the last error with its causes; `None` if it works.
    pub failing: Option<(Timestamp, String)>,
    /// How often it was restarted after an error or a panic.
    pub restarts: u64,
    /// How many items it has skipped after an error; each belongs to one app.
    pub skips: u64,
}

/// Tasks whose failures are shown, and do not make a host unready: calls do not need them.
const ADVISORY: [&str; 1] = ["heartbeats"];

/// The readiness of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the store accepts writes.
    pub store: Result<(), StoreFailure>,
    /// The background tasks, in the order of their names. Empty if no dispatcher runs.
    pub tasks: Vec<TaskHealth>,
}

impl Readiness {
    /// Whether the store accepts writes, and all tasks work without which requests suffer.
    pub fn is_ready(&self) -> bool {
        let is_fine = |task: &TaskHealth| task.failing.is_none() || ADVISORY.contains(&task.name);
        self.store.is_ok() && self.tasks.iter().all(is_fine)
    }
}

impl Health {
    /// Creates the health of a host without tasks.
    pub fn new(store: Arc<dyn Store>, metrics: Metrics, limits: HealthLimits) -> Health {
        Health {
            store,
            metrics,
            limits,
            delays: Mutex::default(),
            tasks: Mutex::default(),
            probe: Mutex::default(),
            probe_log: LogLimit::new(LOG_INTERVAL),
            stopping: AtomicBool::new(false),
        }
    }

    /// Records that the host is about to stop. From now on it is not ready, so that load
    /// balancers send requests elsewhere.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether [`begin_stop`](Health::begin_stop) was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Returns the readiness of this host, within 2 seconds. At most one probe of the store runs
    /// at a time, and its result is reused for a second, so callers may poll freely.
    pub async fn check(self: &Arc<Self>) -> Readiness {
        Readiness {
            store: self.probe().await,
            tasks: self.tasks(),
        }
    }

    /// Returns the background tasks, in the order of their names.
    pub fn tasks(&self) -> Vec<TaskHealth> {
        let delays = *self.delays.lock();
        let tasks = self.tasks.lock();
        let tasks = tasks.iter().map(|(name, state)| TaskHealth {
            name,
            failing: state
                .failing
                .clone()
                .or_else(|| self.limits.exceeded(name, state, delays)),
            restarts: state.restarts,
            skips: state.skips,
        });
        tasks.collect()
    }

    async fn probe(self: &Arc<Self>) -> Result<(), StoreFailure> {
        let (started, mut result) = self.current_probe();
        let probed = timeout_at(started + PROBE_TIMEOUT, result.wait_for(Option::is_some)).await;
        match probed {
            Ok(Ok(probed)) => match &*probed {
                Some(probed) => probed.result.clone(),
                None => Err(broken_probe()),
            },
            // It panicked.
            Ok(Err(_)) => Err(broken_probe()),
            Err(_) => Err(StoreFailure {
                summary: "the store did not answer in time",
                cause: format!("the write did not complete within {PROBE_TIMEOUT:?}"),
            }),
        }
    }

    /// Returns the current probe, if it is running or recent, or starts one.
    fn current_probe(self: &Arc<Self>) -> (Instant, watch::Receiver<Option<Probed>>) {
        let mut current = self.probe.lock();
        if let Some(probe) = current.as_ref().filter(|probe| probe.is_current()) {
            return (probe.started, probe.result.clone());
        }
        let (report, result) = watch::channel(None);
        let started = Instant::now();
        *current = Some(Probe {
            started,
            result: result.clone(),
        });
        let health = Arc::clone(self);
        tokio::spawn(async move {
            let result = health.store.ping().await.map_err(store_failure);
            health.metrics.store_writable(result.is_ok());
            if let Err(failure) = &result
                && let Some(unlogged) = health.probe_log.admit()
            {
                let StoreFailure { summary, cause } = failure;
                tracing::warn!(cause, unlogged, "not ready: {summary}");
            }
            let at = Instant::now();
            report.send_replace(Some(Probed { at, result }));
        });
        (started, result)
    }

    /// Records how long the oldest due delivery has been waiting.
    pub fn report_overdue(&self, overdue: Duration) {
        self.delays.lock().overdue = overdue;
    }

    /// Records by how much the latest schedule is late.
    pub fn report_late(&self, late: Duration) {
        self.metrics.schedules_late(late);
        self.delays.lock().late = late;
    }

    /// Removes a task that has ended normally.
    pub fn remove_task(&self, name: &'static str) {
        self.metrics.task_failing(name, false);
        self.tasks.lock().remove(name);
    }

    /// Registers a task, which counts as working until it reports otherwise. Replaces an earlier
    /// one of that name.
    pub fn task(self: &Arc<Self>, name: &'static str) -> TaskHandle {
        self.tasks.lock().insert(name, HealthState::default());
        self.metrics.task_failing(name, false);
        TaskHandle {
            health: Arc::clone(self),
            name,
            log: Arc::new(LogLimit::new(LOG_INTERVAL)),
        }
    }
}

impl Probe {
    /// Whether it is still running, or recent enough to reuse.
    fn is_current(&self) -> bool {
        let runs = self.result.has_changed().is_ok();
        match &*self.result.borrow() {
            Some(probed) => probed.at.elapsed() < PROBE_AGE_MAX,
            None => runs || self.started.elapsed() < PROBE_AGE_MAX,
        }
    }
}

fn broken_probe() -> StoreFailure {
    StoreFailure {
        summary: "the store failed",
        cause: "the probe panicked; the panic is in the log".to_owned(),
    }
}

fn store_failure(error: StoreError) -> StoreFailure {
    StoreFailure {
        summary: match &error {
            StoreError::Unavailable(_) => "the store is unavailable",
            StoreError::Full(_) => "the store is full",
            _ => "the store failed",
        },
        cause: error_chain(&error),
    }
}

/// Formats an error and its causes in one line.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The handle of a background task. Clones report for the same task.
#[derive(Clone)]
pub struct TaskHandle {
    health: Arc<Health>,
    name: &'static str,
    log: Arc<LogLimit>,
}

impl TaskHandle {
    fn update(&self, change: impl FnOnce(&mut HealthState)) {
        // Absent if the task was removed.
        if let Some(state) = self.health.tasks.lock().get_mut(self.name) {
            change(state);
        }
    }

    /// Reports that the task has completed a round.
    pub fn report_ok(&self) {
        self.health.metrics.task_failing(self.name, false);
        self.health.metrics.task_completed(self.name);
        self.update(|state| {
            state.failing = None;
            state.completed = Instant::now();
        });
    }

    /// Marks the task as working on an item until the result is dropped. If that takes longer than
    /// [`HealthLimits::stalled`] without [`progress`](TaskHandle::progress), the host is not ready.
    #[must_use]
    pub fn working(&self) -> Working {
        self.update(|state| state.working_since = Some(Instant::now()));
        Working(self.clone())
    }

    /// Reports that the task has begun with another item.
    pub fn progress(&self) {
        self.update(|state| {
            if let Some(since) = &mut state.working_since {
                *since = Instant::now();
            }
        });
    }

    /// Reports a failure, which lasts until the task completes a round.
    pub fn report_failure(&self, cause: String) {
        if let Some(unlogged) = self.log.admit() {
            tracing::warn!(task = self.name, cause, unlogged, "background task failing");
        }
        self.health.metrics.task_failing(self.name, true);
        self.update(|state| {
            let since = state.failing.take().map(|(since, _)| since);
            state.failing = Some((since.unwrap_or_else(Timestamp::now), cause));
        });
    }

    /// Reports that the task was restarted after a failure.
    pub fn restarted(&self) {
        self.health.metrics.task_restart(self.name);
        self.update(|state| state.restarts += 1);
    }

    /// Reports that the task has skipped an item of one app, such as a schedule, and continues.
    /// `what` and `cause` are logged at most once in ten seconds.
    pub fn report_skip(&self, what: &dyn std::fmt::Display, cause: &str) {
        if let Some(unlogged) = self.log.admit() {
            let task = self.name;
            tracing::warn!(task, %what, cause, unlogged, "skipped; will retry later");
        }
        self.health.metrics.task_skip(self.name);
        self.update(|state| state.skips += 1);
    }
}

/// A task that is working on an item, rather than waiting for one.
pub struct Working(TaskHandle);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.update(|state| state.working_since = None);
    }
}

/// Lets one log line through per interval, and counts the suppressed ones.
struct LogLimit {
    interval: Duration,
    last: Mutex<(Option<Instant>, u64)>,
}

impl LogLimit {
    fn new(interval: Duration) -> LogLimit {
        LogLimit {
            interval,
            last: Mutex::default(),
        }
    }

    /// Returns the number of lines suppressed since the last one, or `None` if this one is to be
    /// suppressed.
    fn admit(&self) -> Option<u64> {
        let mut last = self.last.lock();
        let (at, unlogged) = &mut *last;
        if at.is_some_and(|at| at.elapsed() < self.interval) {
            *unlogged += 1;
            return None;
        }
        *at = Some(Instant::now());
        Some(std::mem::take(unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_store_memory::MemoryStore;

    fn health() -> Arc<Health> {
        let store = Arc::new(MemoryStore::new());
        Arc::new(Health::new(
            store,
            Metrics::default(),
            HealthLimits::default(),
        ))
    }

    #[tokio::test]
    async fn failing_task_makes_host_unready_until_it_recovers() {
        let health = health();
        assert!(health.check().await.is_ready());
        let task = health.task("upkeep");
        assert!(health.check().await.is_ready());
        task.report_failure("one".to_owned());
        let since = health.tasks().remove(0).failing.unwrap().0;
        task.restarted();
        task.report_failure("two".to_owned());
        let readiness = health.check().await;
        assert!(!readiness.is_ready());
        let [state] = readiness.tasks.try_into().unwrap();
        assert_eq!(state.failing, Some((since, "two".to_owned())));
        assert_eq!(state.restarts, 1);
        task.report_ok();
        assert!(health.check().await.is_ready());
        task.report_failure("three".to_owned());
        let health = &health;
        health.task("upkeep");
        assert!(health.check().await.is_ready(), "a new task replaced it");
        let advisory = health.task("heartbeats");
        advisory.report_failure("four".to_owned());
        assert!(health.check().await.is_ready(), "calls do not need it");
        health.remove_task("heartbeats");
        health.remove_task("upkeep");
        assert_eq!(health.tasks(), []);
    }

    #[tokio::test]
    async fn health_probe_is_shared_and_cached_for_a_second() {
        let health = health();
        // There is no await in between, so the probe has not run yet.
        let first = health.current_probe().0;
        assert_eq!(health.current_probe().0, first);
        let ended = |ago| {
            let at = Instant::now().checked_sub(ago).unwrap();
            let result = Ok(());
            let (_, result) = watch::channel(Some(Probed { at, result }));
            Probe {
                started: at,
                result,
            }
        };
        assert!(ended(Duration::ZERO).is_current());
        assert!(!ended(PROBE_AGE_MAX).is_current());
    }

    #[test]
    fn health_log_lines_are_limited_and_counted() {
        let limit = LogLimit::new(Duration::from_secs(3_600));
        assert_eq!(limit.admit(), Some(0));
        assert_eq!((limit.admit(), limit.admit()), (None, None));
        limit.last.lock().0 = None;
        assert_eq!(limit.admit(), Some(2));
    }
}
