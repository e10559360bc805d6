//! Deliveries, from the store to their handlers.
//!
//! Any number of hosts may dispatch from one store. What is due is in the store
//! alone: a wake-up after a commit makes it quick, and looking again and again
//! makes it sure. A look goes through the queues that have something due, one
//! after another and round again, and takes a few deliveries of each, so that no
//! app's backlog stands before another app's event.
//!
//! Claiming (`claims`), schedules (`cron`), samples (`gauges`), `upkeep` of the apps,
//! `housekeeping`, the `reaper` of deleted apps, the comparison of the `clock` and the
//! `rescue` from what a wrong one has left are tasks of their own, which `supervisor`
//! starts again after a failure. None of them waits for another, and in
//! none does an error with one app end the work for the others: it is counted, logged
//! at most every ten seconds, and skipped until the next round.
#![deny(missing_docs)]

mod claims;
mod clock;
mod cron;
mod gauges;
mod housekeeping;
mod lent;
mod pauses;
mod reaper;
mod rescue;
mod retry;
mod supervisor;
mod trust;
mod upkeep;
mod worker;

use clock::Clock;
pub use clock::TimeSource;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, AppName, PROBE_AFTER, Queue};
use kvasm_host::Host;
use kvasm_service::Task;
use lent::Lent;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use supervisor::{Stop, rounds, supervise};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

pub use retry::{BACKOFF_MAX, DETERMINISTIC_ATTEMPTS_MAX, Failure, backoff, verdict};

/// How a host dispatches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DispatchOptions {
    /// Handlers that run at once. Default 32.
    pub handlers: usize,
    /// Handlers of one app that run at once. Default 16.
    pub handlers_of_app: usize,
    /// How long nothing is looked for when nothing happens. Retries and schedules
    /// are late by that much at the most. Default 500 ms.
    pub poll: Duration,
    /// The shortest time for which a delivery is lent to a host, and at least
    /// 30 ms. The lease is the longest run of a handler and a third of this, if
    /// that is longer. It is renewed while the handler runs; of a host that has
    /// died, another takes the deliveries after that time. Default 30 s.
    pub lease_min: Duration,
    /// How often expired entries and old dead letters are removed. Default 60 s.
    pub upkeep: Duration,
    /// How long a dead letter is kept. Default 14 days.
    pub letter_age: Duration,
    /// The most dead letters of an app; of more, the oldest go. Default 10,000.
    pub letters_of_app: u32,
    /// How long a row of the audit log is kept. Default 1 year
    /// (365.25 days).
    pub audit_age: Duration,
    /// The most rows of the audit log about one app; of more, the oldest go. Default
    /// 100,000.
    pub audit_of_app: u32,
    /// How often the store is asked for the gauges of the metrics. Less often if that
    /// takes more than a 20th of the time. Default 15 s.
    pub sample: Duration,
    /// How long handlers that run may go on after the dispatcher was told to stop.
    /// Default 10 s.
    pub drain: Duration,
    /// How long after failures have paused a trigger a probe is let through. Default
    /// [`PROBE_AFTER`].
    pub probe_after: Duration,
    /// Where the time comes from. Default: the system's clock.
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
            letter_age: Duration::from_secs(14 * 24 * 60 * 60),
            letters_of_app: 10_000,
            audit_age: Duration::from_secs(31_557_600),
            audit_of_app: 100_000,
            sample: Duration::from_secs(15),
            drain: Duration::from_secs(10),
            probe_after: PROBE_AFTER,
            time: TimeSource::default(),
        }
    }
}

/// The least that [`DispatchOptions::lease_min`] can be: a third of it passes
/// between two renewals.
const LEASE_MIN: Duration = Duration::from_millis(30);

/// Carries out deliveries, makes the runs of schedules, and removes what has
/// expired. Made over a [`Host`]; see [`run`](Dispatcher::run).
pub struct Dispatcher {
    shared: Arc<Shared>,
}

/// What the dispatcher's tasks and the handlers that they run share.
struct Shared {
    host: Host,
    options: DispatchOptions,
    clock: Clock,
    places: Arc<Semaphore>,
    running: Mutex<HashMap<AppId, usize>>,
    /// The handlers that run. Here, so that they outlive a failure of the task that
    /// starts them.
    handlers: Mutex<JoinSet<()>>,
    /// The deliveries that these handlers run.
    lent: Lent,
    /// Where failures of single deliveries are counted.
    deliveries: Task,
    /// A place has become free, or something has become due.
    changed: Notify,
    /// The clock has stepped, or is trusted again.
    stepped: Notify,
    /// Where the last look at the queues has ended. Here, so that a look after a
    /// failure begins behind the apps that have failed.
    looked_until: Mutex<Option<Queue>>,
    /// The app at which the last round of upkeep was given up, for the same reason.
    kept_until: Mutex<Option<AppName>>,
    /// As `kept_until`, of the reaper.
    reaped_until: Mutex<Option<AppId>>,
}

impl Dispatcher {
    /// A dispatcher that does nothing yet.
    pub fn new(host: Host, options: DispatchOptions) -> Dispatcher {
        let places = Arc::new(Semaphore::new(
            options.handlers.clamp(1, Semaphore::MAX_PERMITS),
        ));
        Dispatcher {
            shared: Arc::new(Shared {
                deliveries: host.health().task("deliveries"),
                host,
                clock: Clock::new(options.time),
                options,
                places,
                running: Mutex::default(),
                handlers: Mutex::default(),
                lent: Lent::default(),
                changed: Notify::new(),
                stepped: Notify::new(),
                looked_until: Mutex::default(),
                kept_until: Mutex::default(),
                reaped_until: Mutex::default(),
            }),
        }
    }

    /// Dispatches until `stop` ends, then waits for the handlers that run. Those that
    /// take longer than [`DispatchOptions::drain`] are cut off, and their deliveries are
    /// given back: they are due at once, and the attempt does not count.
    ///
    /// Claiming, schedules, samples, upkeep, housekeeping, the removal of deleted apps and
    /// the comparison of the clock are tasks of their own. One that fails or panics is
    /// started again and shows in the host's [`Health`](kvasm_service::Health).
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
        self.start(&mut loops, &told, "rescue", rescue::run);
        self.start(&mut loops, &told, "claims", claims::run);
        self.start(&mut loops, &told, "schedules", cron::run);
        self.start(&mut loops, &told, "samples", gauges::run);
        self.start_rounds(&mut loops, &told, "upkeep", upkeep::round);
        self.start_rounds(&mut loops, &told, "housekeeping", housekeeping::round);
        self.start_rounds(&mut loops, &told, "reaper", reaper::round);
        let mut stop = std::pin::pin!(stop);
        tokio::select! {
            () = &mut stop => {}
            // Supervised loops end only when they are told to.
            _ = loops.join_next() => {
                guard.task.fails("a background task has ended".to_owned());
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
            shared.lent.cut_off(shared, handlers).await;
        }
        guard.is_done = true;
    }

    /// Starts a loop under supervision.
    fn start<F>(
        &self,
        loops: &mut JoinSet<()>,
        stop: &Stop,
        name: &'static str,
        run: impl Fn(Arc<Shared>, Task, Stop) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let run = move |shared, task, stop, _| run(shared, task, stop);
        self.start_counted(loops, stop, name, run);
    }

    /// Starts a loop that goes through all apps, or all of the store, every
    /// [`DispatchOptions::upkeep`]. After a failure it begins at once.
    fn start_rounds<F>(
        &self,
        loops: &mut JoinSet<()>,
        stop: &Stop,
        name: &'static str,
        round: fn(Arc<Shared>, Task) -> F,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let run = move |shared: Arc<Shared>, task: Task, stop, starts| async move {
            let next = || round(Arc::clone(&shared), task.clone());
            rounds(shared.options.upkeep, starts, &task, stop, next).await
        };
        self.start_counted(loops, stop, name, run);
    }

    /// Starts a loop under supervision. `run` is given how often it was started before.
    fn start_counted<F>(
        &self,
        loops: &mut JoinSet<()>,
        stop: &Stop,
        name: &'static str,
        run: impl Fn(Arc<Shared>, Task, Stop, u64) -> F + Send + 'static,
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

/// The tasks that the health shows while a dispatcher runs.
const TASKS: [&str; 10] = [
    "claims",
    "clock",
    "deliveries",
    "dispatcher",
    "housekeeping",
    "reaper",
    "rescue",
    "samples",
    "schedules",
    "upkeep",
];

/// Lives as long as the dispatcher runs.
struct Guard {
    shared: Arc<Shared>,
    task: Task,
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
            // Dropped or panicked before it was told to stop.
            self.task.fails("the dispatcher has ended".to_owned());
        }
    }
}

impl Shared {
    /// How long a delivery is lent.
    fn lease(&self) -> Duration {
        let least = self.options.lease_min.max(LEASE_MIN);
        least.max(self.host.limits().wall_time + least / 3)
    }

    /// Forgets the handlers that have ended.
    fn reap(&self) {
        let mut handlers = self.handlers.lock();
        while let Some(ended) = handlers.try_join_next() {
            if let Err(error) = ended {
                // Its lease runs out, and it is tried again.
                self.deliveries.skips(&"a delivery", &error.to_string());
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A place that a handler holds, of all and of its app's.
struct Held {
    shared: Arc<Shared>,
    app: AppId,
    _place: OwnedSemaphorePermit,
}

impl Held {
    fn new(shared: &Arc<Shared>, app: AppId, place: OwnedSemaphorePermit) -> Held {
        *shared.running.lock().entry(app).or_default() += 1;
        Held {
            shared: Arc::clone(shared),
            app,
            _place: place,
        }
    }
}

impl Drop for Held {
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
