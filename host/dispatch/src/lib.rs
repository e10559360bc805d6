//! Runs deliveries: from the store to their handlers.
//!
//! Any number of hosts may dispatch from one store. The due deliveries are in the store: a
//! notification after a commit only reduces latency, and polling finds everything. A pass goes
//! round-robin through the queues with due deliveries, and claims a few of each, so that no
//! app's backlog delays another app's events.
//!
//! Claiming (`claims`), schedules (`cron`), the wake-up for `timers`, samples (`gauges`),
//! `heartbeats` of this host, writing the `logs` of apps to the store, `upkeep` of the apps,
//! `housekeeping`, the `reaper` of deleted apps, the comparison of the `clock` and `clock_repair`
//! of what a wrong one has postponed are separate tasks, which `supervisor` restarts after a
//! failure. None of them waits for another. An error with one app does not stop a task for the
//! others: it is counted, logged at most every ten seconds, and the app is skipped until the
//! next round.
#![deny(missing_docs)]

mod claims;
mod clock;
mod clock_repair;
mod cron;
mod gauges;
mod heartbeats;
mod housekeeping;
mod leases;
mod logs;
mod pauses;
mod reaper;
mod retry;
mod steps;
mod supervisor;
mod timers;
mod trust;
mod upkeep;
mod worker;

use clock::Clock;
pub use clock::TimeSource;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, AppName, PROBE_AFTER, Queue};
use kvasm_host::Host;
use kvasm_service::{HistoryRetention, LogRetention, TaskHandle};
use leases::Leases;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use steps::AttemptObserver;
use supervisor::{Stop, run_rounds, supervise};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

pub use retry::{BACKOFF_MAX, DETERMINISTIC_ATTEMPTS_MAX, FailureKind, backoff, verdict};
pub use steps::{AttemptEvent, StepDispatcher, StepError};

/// Options of a dispatcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DispatchOptions {
    /// Maximum number of concurrent handlers. Default 32.
    pub handlers: usize,
    /// Maximum number of concurrent handlers of one app. Default 16.
    pub handlers_of_app: usize,
    /// Poll interval when there are no notifications. Retries, schedules, and timers that another
    /// host sets for less than this ahead, are delayed by at most this. Default 500 ms.
    pub poll: Duration,
    /// Minimum lease time of a delivery, at least 30 ms. The lease is the longest run time of a
    /// handler plus a third of this, if that is longer. It is renewed while the handler runs.
    /// When a host dies, others take over its deliveries after this time. Default 30 s.
    pub lease_min: Duration,
    /// Interval at which expired entries and old dead letters are removed. Default 60 s.
    pub upkeep: Duration,
    /// Retention time of dead letters. Default 14 days.
    pub dead_letter_retention: Duration,
    /// Maximum number of dead letters of an app; the oldest are removed. Default 10,000.
    pub dead_letters_per_app: u32,
    /// Retention time of audit rows. Default 1 year (365.25 days).
    pub audit_age: Duration,
    /// Maximum number of audit rows about one app; the oldest are removed. Default 100,000.
    pub audit_of_app: u32,
    /// How long and how much of the logs of apps is kept. Default 14 days, and 16 MiB of an app.
    pub logs: LogRetention,
    /// How long and how many records of the calls of apps are kept. Default 14 days, and 16 MiB of an
    /// app. With 0 bytes no calls are recorded.
    pub calls: LogRetention,
    /// How long and how much of the history of hosts is kept. Default 8 days, and 100,000 rows: one
    /// for each host and minute.
    pub history: HistoryRetention,
    /// The name of this host in the overview of hosts. Default: that of the machine.
    pub host_name: Option<String>,
    /// Interval at which the store is sampled for gauges and the overview. Longer if sampling would
    /// take more than a 20th of the time. Default 15 s.
    pub sample: Duration,
    /// How long running handlers may continue after the dispatcher was asked to stop. Default 10
    /// s.
    pub drain: Duration,
    /// How long after failures have paused a trigger a probe is run. Default [`PROBE_AFTER`].
    pub probe_after: Duration,
    /// The time source. Default: the system's clock.
    pub time: TimeSource,
}

impl Default for DispatchOptions {
    fn default() -> DispatchOptions {
        DispatchOptions {
            handlers: 32,
            handlers_of_app: 16,
            poll: Duration::from_millis(500),
            lease_min: Duration::from_secs(30),
            upkeep: Duration::from_secs(60),
            dead_letter_retention: Duration::from_secs(14 * 24 * 60 * 60),
            dead_letters_per_app: 10_000,
            audit_age: Duration::from_secs(31_557_600),
            audit_of_app: 100_000,
            logs: LogRetention {
                age: Duration::from_secs(14 * 24 * 60 * 60),
                bytes_of_app: 16 * 1024 * 1024,
            },
            calls: LogRetention {
                age: Duration::from_secs(14 * 24 * 60 * 60),
                bytes_of_app: 16 * 1024 * 1024,
            },
            history: HistoryRetention {
                age: Duration::from_secs(8 * 24 * 60 * 60),
                rows: 100_000,
            },
            host_name: None,
            sample: Duration::from_secs(15),
            drain: Duration::from_secs(10),
            probe_after: PROBE_AFTER,
            time: TimeSource::default(),
        }
    }
}

impl DispatchOptions {
    /// Returns the name of this host in the overview of hosts.
    pub fn shown_host_name(&self) -> String {
        match &self.host_name {
            Some(name) => name.clone(),
            None => heartbeats::system_name(),
        }
    }
}

/// The minimum of [`DispatchOptions::lease_min`]: a third of it is the interval between two
/// renewals.
const LEASE_MIN: Duration = Duration::from_millis(30);

/// Runs deliveries, creates the runs of schedules, and removes expired data. See
/// [`run`](Dispatcher::run).
pub struct Dispatcher {
    shared: Arc<DispatchContext>,
}

/// State shared by the dispatcher's tasks and handlers.
struct DispatchContext {
    host: Host,
    options: DispatchOptions,
    clock: Clock,
    permits: Arc<Semaphore>,
    running: Mutex<HashMap<AppId, usize>>,
    /// The running handlers. They are here so that they outlive a failure of the task that
    /// starts them.
    handlers: Mutex<JoinSet<()>>,
    /// The deliveries of these handlers.
    lent: Leases,
    /// Counts failures of single deliveries.
    deliveries: TaskHandle,
    /// Notified when a permit was released, or something has become due.
    changed: Notify,
    /// Notified when the clock has stepped, or is trusted again.
    stepped: Notify,
    /// Where the last pass over the queues ended. It is here so that a pass after a failure
    /// starts behind the apps that failed.
    claims_position: Mutex<Option<Queue>>,
    /// The app at which the last round of upkeep was aborted, for the same reason.
    upkeep_position: Mutex<Option<AppName>>,
    /// Like `kept_until`, for the reaper.
    reaper_position: Mutex<Option<AppId>>,
    /// Who is notified of attempts, if handlers run step by step.
    observer: Option<AttemptObserver>,
}

impl Dispatcher {
    /// Creates a dispatcher, which does nothing until `run`.
    pub fn new(host: Host, options: DispatchOptions) -> Dispatcher {
        Dispatcher {
            shared: Arc::new(DispatchContext::new(host, options, None)),
        }
    }

    /// Dispatches until `stop` completes, then waits for the running handlers. Those that take
    /// longer than [`DispatchOptions::drain`] are aborted, and their deliveries released: they
    /// are due immediately, and the attempt does not count.
    ///
    /// Claiming, schedules, samples, heartbeats, logs, upkeep, housekeeping, the removal of deleted
    /// apps and the comparison of the clock are separate tasks. One that fails or panics is
    /// restarted, and shows in the host's [`Health`](kvasm_service::Health).
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let shared = &self.shared;
        let mut guard = Guard {
            shared: Arc::clone(shared),
            task: shared.host.health().task("dispatcher"),
            is_done: false,
        };
        let (tell, told) = Stop::new();
        let mut loops = JoinSet::new();
        self.start(&mut loops, &told, "clock", clock::run);
        self.start(&mut loops, &told, "rescue", clock_repair::run);
        self.start(&mut loops, &told, "claims", claims::run);
        self.start(&mut loops, &told, "schedules", cron::run);
        self.start(&mut loops, &told, "timers", timers::run);
        self.start(&mut loops, &told, "samples", gauges::run);
        self.start(&mut loops, &told, "logs", logs::run);
        self.start(&mut loops, &told, "heartbeats", heartbeats::run);
        self.start_rounds(&mut loops, &told, "upkeep", upkeep::round);
        self.start_rounds(&mut loops, &told, "housekeeping", housekeeping::round);
        self.start_rounds(&mut loops, &told, "reaper", reaper::round);
        let mut stop = std::pin::pin!(stop);
        tokio::select! {
            () = &mut stop => {}
            // Supervised loops end only when asked to.
            _ = loops.join_next() => {
                guard.task.report_failure("a background task ended unexpectedly".to_owned());
                stop.await;
            }
        }
        tell.send_replace(true);
        while loops.join_next().await.is_some() {}
        let mut handlers = std::mem::take(&mut *shared.handlers.lock());
        let drain = async { while handlers.join_next().await.is_some() {} };
        if tokio::time::timeout(shared.options.drain, drain)
            .await
            .is_err()
        {
            shared.lent.abort_and_release(shared, handlers).await;
        }
        guard.is_done = true;
    }

    /// Starts a loop under supervision.
    fn start<F>(
        &self,
        loops: &mut JoinSet<()>,
        stop: &Stop,
        name: &'static str,
        run: impl Fn(Arc<DispatchContext>, TaskHandle, Stop) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let run = move |shared, task, stop, _| run(shared, task, stop);
        self.start_counted(loops, stop, name, run);
    }

    /// Starts a loop over all apps, or all of the store, that runs every
    /// [`DispatchOptions::upkeep`]. After a failure it runs immediately.
    fn start_rounds<F>(
        &self,
        loops: &mut JoinSet<()>,
        stop: &Stop,
        name: &'static str,
        round: fn(Arc<DispatchContext>, TaskHandle) -> F,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let run = move |shared: Arc<DispatchContext>, task: TaskHandle, stop, starts| async move {
            let next = || round(Arc::clone(&shared), task.clone());
            run_rounds(shared.options.upkeep, starts, &task, stop, next).await
        };
        self.start_counted(loops, stop, name, run);
    }

    /// Starts a loop under supervision. `run` gets the number of earlier starts.
    fn start_counted<F>(
        &self,
        loops: &mut JoinSet<()>,
        stop: &Stop,
        name: &'static str,
        run: impl Fn(Arc<DispatchContext>, TaskHandle, Stop, u64) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let (task, stop) = (shared.host.health().task(name), stop.clone());
        let run = {
            let (task, stop) = (task.clone(), stop.clone());
            move |starts| run(Arc::clone(&shared), task.clone(), stop.clone(), starts)
        };
        loops.spawn(supervise(task, stop, run));
    }
}

/// The tasks in the host's health while a dispatcher runs.
const TASKS: [&str; 13] = [
    "claims",
    "clock",
    "deliveries",
    "dispatcher",
    "heartbeats",
    "housekeeping",
    "logs",
    "reaper",
    "rescue",
    "samples",
    "schedules",
    "timers",
    "upkeep",
];

/// Lives as long as the dispatcher runs.
struct Guard {
    shared: Arc<DispatchContext>,
    task: TaskHandle,
    is_done: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.handlers.lock().abort_all();
        if self.is_done {
            let health = self.shared.host.health();
            for name in TASKS {
                health.remove_task(name);
            }
        } else {
            // Dropped or panicked before it was asked to stop.
            self.task
                .report_failure("the dispatcher ended unexpectedly".to_owned());
        }
    }
}

impl DispatchContext {
    fn new(
        host: Host,
        options: DispatchOptions,
        observer: Option<AttemptObserver>,
    ) -> DispatchContext {
        let places = Arc::new(Semaphore::new(
            options.handlers.clamp(1, Semaphore::MAX_PERMITS),
        ));
        DispatchContext {
            deliveries: host.health().task("deliveries"),
            host,
            clock: match observer {
                None => Clock::new(options.time),
                Some(_) => Clock::exact(options.time),
            },
            options,
            permits: places,
            running: Mutex::default(),
            handlers: Mutex::default(),
            lent: Leases::default(),
            changed: Notify::new(),
            stepped: Notify::new(),
            claims_position: Mutex::default(),
            upkeep_position: Mutex::default(),
            reaper_position: Mutex::default(),
            observer,
        }
    }

    fn observe(&self, event: AttemptEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }

    /// Returns a random number from 0 to 1 for the next wait; 0.5, which changes no wait, if handlers
    /// run step by step.
    fn jitter(&self) -> f64 {
        match self.observer {
            None => worker::jitter(),
            Some(_) => 0.5,
        }
    }

    /// Returns the lease time of a delivery.
    fn lease(&self) -> Duration {
        let least = self.options.lease_min.max(LEASE_MIN);
        least.max(self.host.limits().wall_time + least / 3)
    }

    /// Removes the handlers that have ended.
    fn reap(&self) {
        let mut handlers = self.handlers.lock();
        while let Some(ended) = handlers.try_join_next() {
            if let Err(error) = ended {
                // The delivery is retried when its lease expires.
                self.deliveries
                    .report_skip(&"a delivery", &error.to_string());
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The permit of a running handler, also counted for its app.
struct HandlerPermit {
    shared: Arc<DispatchContext>,
    app: AppId,
    _place: OwnedSemaphorePermit,
}

impl HandlerPermit {
    fn new(
        shared: &Arc<DispatchContext>,
        app: AppId,
        place: OwnedSemaphorePermit,
    ) -> HandlerPermit {
        *shared.running.lock().entry(app).or_default() += 1;
        HandlerPermit {
            shared: Arc::clone(shared),
            app,
            _place: place,
        }
    }
}

impl Drop for HandlerPermit {
    fn drop(&mut self) {
        let mut running = self.shared.running.lock();
        if let Some(count) = running.get_mut(&self.app) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.app);
            }
        }
        drop(running);
        self.shared.changed.notify_one();
    }
}
