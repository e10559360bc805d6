//! Deliveries, from the store to their handlers.
//!
//! Any number of hosts may dispatch from one store. What is due is in the store
//! alone: a wake-up after a commit makes it quick, and looking again and again
//! makes it sure. A look goes through the queues that have something due, one
//! after another and round again, and takes a few deliveries of each, so that no
//! app's backlog stands before another app's event.

mod clock;
mod cron;
mod housekeeping;
mod retry;
mod upkeep;
mod worker;

use crate::Host;
use crate::model::{AppId, Claim, Queue};
use crate::store::StoreError;
use clock::Clock;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use uuid::Uuid;

pub use retry::{BACKOFF_MAX, DETERMINISTIC_ATTEMPTS_MAX, backoff, verdict};

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
    /// How long handlers that run may go on after the dispatcher was told to stop.
    /// Default 10 s.
    pub drain: Duration,
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
            drain: Duration::from_secs(10),
        }
    }
}

/// Queues that one look at the store asks for.
const QUEUES: u32 = 64;
/// The most deliveries that are taken of a queue before the next has its turn.
const OF_A_QUEUE: usize = 8;
/// What has become free is waited for this long, so that a claim takes more than
/// one delivery when there are many.
const GATHER: Duration = Duration::from_millis(1);
/// A look over very many queues takes longer than this. After it there is a rest
/// of three times as long, so that looking does not fill the day.
const LONG_LOOK: Duration = Duration::from_millis(5);
/// The least that [`DispatchOptions::lease_min`] can be: a third of it passes
/// between two renewals.
const LEASE_MIN: Duration = Duration::from_millis(30);

/// Carries out deliveries, makes the runs of schedules, and removes what has
/// expired. Made over a [`Host`]; see [`run`](Dispatcher::run).
pub struct Dispatcher {
    shared: Arc<Shared>,
    /// Where the last look has ended.
    after: Option<Queue>,
}

/// What the dispatcher shares with the handlers that it runs.
struct Shared {
    host: Host,
    options: DispatchOptions,
    clock: Clock,
    places: Arc<Semaphore>,
    running: Mutex<HashMap<AppId, usize>>,
    /// A place has become free, or something has become due.
    changed: Notify,
}

impl Dispatcher {
    /// A dispatcher that does nothing yet.
    pub fn new(host: Host, options: DispatchOptions) -> Dispatcher {
        let places = Arc::new(Semaphore::new(options.handlers.max(1)));
        Dispatcher {
            shared: Arc::new(Shared {
                host,
                options,
                clock: Clock::default(),
                places,
                running: Mutex::default(),
                changed: Notify::new(),
            }),
            after: None,
        }
    }

    /// Dispatches until `stop` ends, then waits for the handlers that run. Those
    /// that take too long are cut off; their deliveries are tried again, here or
    /// elsewhere, when their leases have run out.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut handlers = JoinSet::new();
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&self.shared)));
        loop {
            let Look { took, full } = self.look(&mut handlers).await;
            while handlers.try_join_next().is_some() {}
            let rest = if took > LONG_LOOK {
                took * 3
            } else {
                Duration::ZERO
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = self.wait(rest, full) => {}
            }
        }
        upkeep.abort();
        let drain = async { while handlers.join_next().await.is_some() {} };
        if tokio::time::timeout(self.shared.options.drain, drain)
            .await
            .is_err()
        {
            tracing::warn!("handlers that still ran were cut off; they will be run again");
        }
    }

    /// Waits until there may be something to do, and for `rest` at least. There is,
    /// if a claim was `full`.
    async fn wait(&self, rest: Duration, full: bool) {
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        if full {
            return tokio::task::yield_now().await;
        }
        tokio::select! {
            () = self.shared.host.wakes().wait() => {}
            () = self.shared.changed.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(self.shared.options.poll) => {}
        }
    }

    /// Goes once through the queues that have something due.
    async fn look(&mut self, handlers: &mut JoinSet<()>) -> Look {
        let mut look = Look::default();
        let result = async {
            cron::plan(&self.shared).await?;
            self.claim_round(handlers, &mut look).await
        };
        if let Err(error) = result.await {
            let cause = &error as &dyn std::error::Error;
            tracing::warn!(
                error = cause,
                "deliveries cannot be looked for; trying again"
            );
        }
        look
    }

    async fn claim_round(
        &mut self,
        handlers: &mut JoinSet<()>,
        look: &mut Look,
    ) -> Result<(), StoreError> {
        // From where the last look has ended to the end, then from the beginning.
        let mut wrapped = self.after.is_none();
        loop {
            if self.shared.places.available_permits() == 0 {
                return Ok(());
            }
            let now = self.shared.clock.now();
            let store = self.shared.host.store();
            let start = Instant::now();
            let queues = store.due(self.after.as_ref(), now, QUEUES).await?;
            look.took += start.elapsed();
            if queues.is_empty() {
                self.after = None;
                if wrapped {
                    return Ok(());
                }
                wrapped = true;
                continue;
            }
            for queue in queues {
                let places = self.places_for(queue.app);
                if places.as_ref().is_some_and(Vec::is_empty) {
                    // It is the first one of the next look.
                    return Ok(());
                }
                // Before the claim: if its app has all that it may have, or the claim
                // fails, the look goes on behind it all the same.
                self.after = Some(queue.clone());
                if let Some(places) = places {
                    look.full |= self.claim(&queue, places, handlers).await?;
                }
            }
        }
    }

    /// Places for deliveries of an app: none if it has all that it may have, an
    /// empty list if there are none at all.
    fn places_for(&self, app: AppId) -> Option<Vec<OwnedSemaphorePermit>> {
        let running = self.shared.running.lock().get(&app).copied();
        let left = self
            .shared
            .options
            .handlers_of_app
            .saturating_sub(running.unwrap_or(0));
        if left == 0 {
            return None;
        }
        let places =
            std::iter::from_fn(|| Arc::clone(&self.shared.places).try_acquire_owned().ok());
        Some(places.take(left.min(OF_A_QUEUE)).collect())
    }

    /// Claims deliveries for these places and starts their handlers. Whether all
    /// places were taken, so that there may be more.
    async fn claim(
        &self,
        queue: &Queue,
        places: Vec<OwnedSemaphorePermit>,
        handlers: &mut JoinSet<()>,
    ) -> Result<bool, StoreError> {
        let now = self.shared.clock.now();
        let claim = Claim {
            queue: queue.clone(),
            now,
            until: now.plus_ms(millis(self.shared.lease())),
            lease: Uuid::new_v4(),
            limit: u32::try_from(places.len()).unwrap_or(u32::MAX),
        };
        let claimed = self.shared.host.store().claim(&claim).await?;
        if claimed.is_empty() {
            // What was due has to wait for its key, and what is behind it may not.
            self.shared.changed.notify_one();
        }
        let full = claimed.len() == places.len();
        for (delivery, place) in claimed.into_iter().zip(places) {
            let held = Held::new(&self.shared, queue.app, place);
            let shared = Arc::clone(&self.shared);
            let (app, lease) = (queue.app, claim.lease);
            handlers.spawn(async move {
                worker::work(&shared, app, delivery, lease).await;
                drop(held);
            });
        }
        Ok(full)
    }
}

/// What a look has found.
#[derive(Default)]
struct Look {
    /// The time that it has looked for queues.
    took: Duration,
    /// Whether a claim got as many deliveries as it asked for.
    full: bool,
}

impl Shared {
    /// How long a delivery is lent.
    fn lease(&self) -> Duration {
        let least = self.options.lease_min.max(LEASE_MIN);
        least.max(self.host.limits().wall_time + least / 3)
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
