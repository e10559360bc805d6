//! Connections to the server: opened when needed, kept, watched for loss.
//!
//! This is not sqlx's pool, because that one pings each connection when it comes
//! back, in a task of its own, and the next caller meanwhile opens or waits for
//! another: measured on two cores, 16 readers got 8,000 entries a second through
//! it and get 21,000 through this one.

use super::PostgresOptions;
use super::classify::{lost_connection, lost_race, starting_up, store_error};
use super::connector::Connector;
use super::lease::Lease;
use super::scarce::{NoConnection, Report};
use super::usage::SLOTS;
use kvasm_core::store::StoreError;
use parking_lot::Mutex;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, Error, PgConnection, Postgres};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A connection that was used within this time is lent without a ping.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How long a ping may take before the connection counts as lost.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that nobody needed for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// A connection is not kept for longer, so that a server's memory for it and the
/// balance over several servers come right again.
const AGE_MAX: Duration = Duration::from_secs(1800);
/// The pauses between attempts to reach a server that does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(300);
/// How often a statement or transaction that lost a race is run.
pub(super) const ATTEMPTS: u32 = 10;
/// The server ends a statement at its timeout. The host waits this much longer,
/// and then takes the server for gone.
const GRACE: Duration = Duration::from_secs(1);

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// The connections of one store.
pub(super) struct Pool {
    connector: Connector,
    kept: Arc<Kept>,
    /// One for each connection that may be in use.
    permits: Arc<Semaphore>,
    /// The number of them.
    connections: usize,
    acquire_timeout: Duration,
    report: Report,
    /// The longest that a statement is waited for.
    patience: Duration,
    opened: AtomicUsize,
}

impl Pool {
    /// Opens no connection yet.
    pub(super) fn new(options: &PostgresOptions, connector: Connector) -> Pool {
        let connections = usize::try_from(options.max_connections.max(1)).unwrap_or(usize::MAX);
        let connections = connections.min(Semaphore::MAX_PERMITS);
        Pool {
            connector,
            kept: Arc::default(),
            permits: Arc::new(Semaphore::new(connections)),
            connections,
            acquire_timeout: options.acquire_timeout,
            report: Report::default(),
            patience: options.statement_timeout.saturating_add(GRACE),
            // Hosts begin anywhere, so that they do not all count in the same slot.
            opened: AtomicUsize::new(RandomState::new().hash_one(0) as usize),
        }
    }

    /// Lends a connection, the last that was used if there is one.
    ///
    /// # Errors
    /// A [`NoConnection`] when there is none within the time, which the log says too.
    pub(super) async fn lease(&self) -> Result<Lease, Error> {
        // What the server answered last to one who asked for a connection.
        let mut refusal = None;
        let waited = timeout(self.acquire_timeout, async {
            let permit = Arc::clone(&self.permits).acquire_owned().await;
            let permit = permit.map_err(|_| Error::PoolClosed)?;
            let held = Held {
                open: self.take_or_open(&mut refusal).await?,
                _permit: permit,
                kept: Arc::clone(&self.kept),
            };
            Ok(Lease::new(held, self.patience))
        });
        if let Ok(result) = waited.await {
            return result;
        }
        let in_use = self.connections - self.permits.available_permits();
        let none = NoConnection {
            refusal,
            in_use,
            connections: self.connections,
            waited: self.acquire_timeout,
        };
        self.report.line(&none);
        Err(none.into())
    }

    fn next_slot(&self) -> i16 {
        let opened = self.opened.fetch_add(1, Ordering::Relaxed);
        i16::try_from(opened % usize::from(SLOTS.unsigned_abs())).unwrap_or(0)
    }

    /// A connection that was kept, or a new one. A server that is starting or has no
    /// room is waited for, and so is a connection that another caller gives back; the
    /// caller says how long.
    async fn take_or_open(&self, refusal: &mut Option<Error>) -> Result<Open, Error> {
        let mut pause = PAUSE_MIN;
        loop {
            if let Some(open) = self.kept.take().await {
                return Ok(open);
            }
            match self.connector.open().await {
                Ok(connection) => {
                    return Ok(Open {
                        connection,
                        opened: Instant::now(),
                        slot: self.next_slot(),
                    });
                }
                Err(error) if starting_up(&error) => *refusal = Some(error),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// Runs a statement that changes nothing, or that may take effect twice. A connection
    /// that turns out to be dead costs one more try, on one that is known to be alive.
    pub(super) async fn read<'q>(
        &self,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let result = match self.run(statement()).await {
            Err(error) if lost_connection(&error) => self.run(statement()).await,
            other => other,
        };
        result.map_err(store_error)
    }

    /// Runs a statement that is a whole write and counts in the slot that it is
    /// made for. After a lost connection nobody knows whether it took effect, so
    /// it is not run again.
    pub(super) async fn write<'q>(
        &self,
        statement: impl Fn(i16) -> Statement<'q>,
    ) -> Result<Vec<PgRow>, Error> {
        let mut attempts = 1;
        loop {
            let mut lease = self.lease().await?;
            let statement = statement(lease.slot());
            match lease.run(statement).await {
                Err(error) if lost_race(&error) && attempts < ATTEMPTS => attempts += 1,
                other => return other,
            }
        }
    }

    async fn run(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, Error> {
        self.lease().await?.run(statement).await
    }
}

/// An open connection.
pub(super) struct Open {
    pub(super) connection: PgConnection,
    opened: Instant,
    /// Where the writes that go through it count. A connection does one thing at
    /// a time, so the writers of a host wait for each other's count only when
    /// there are more of them than slots; and one lonely writer, who always gets
    /// the same connection, always uses up the same grant.
    pub(super) slot: i16,
}

/// A connection in use, and its place in the pool. Dropped, it is closed.
pub(super) struct Held {
    pub(super) open: Open,
    /// Freed when the connection is back or gone.
    _permit: OwnedSemaphorePermit,
    kept: Arc<Kept>,
}

impl Held {
    /// Gives the connection back. It must be at rest.
    pub(super) fn give_back(self) {
        self.kept.put(self.open);
    }

    /// The connection was found dead. Those that have been idle since before are
    /// probably dead too.
    pub(super) fn note_loss(&self) {
        self.kept.idle.lock().lost = Some(Instant::now());
    }
}

/// The connections that nobody uses.
#[derive(Default)]
struct Kept {
    idle: Mutex<IdleList>,
}

#[derive(Default)]
struct IdleList {
    /// The last that was used comes last, and is taken first.
    connections: VecDeque<Idle>,
    /// When a connection was last found dead.
    lost: Option<Instant>,
}

struct Idle {
    open: Open,
    since: Instant,
}

impl Kept {
    /// A connection that works.
    async fn take(&self) -> Option<Open> {
        loop {
            // The lock is held for this statement only.
            let (mut idle, lost) = {
                let mut list = self.idle.lock();
                (list.connections.pop_back()?, list.lost)
            };
            let in_doubt = lost.is_some_and(|lost| lost >= idle.since);
            let works = (idle.since.elapsed() <= TRUSTED_IDLE && !in_doubt)
                || matches!(
                    timeout(PING_TIMEOUT, idle.open.connection.ping()).await,
                    Ok(Ok(()))
                );
            if works {
                return Some(idle.open);
            }
        }
    }

    fn put(&self, open: Open) {
        let since = Instant::now();
        let mut list = self.idle.lock();
        // What is closed is dropped after the lock.
        let mut closed = None;
        if list
            .connections
            .front()
            .is_some_and(|idle| idle.since.elapsed() > IDLE_MAX)
        {
            closed = list.connections.pop_front();
        }
        if open.opened.elapsed() <= AGE_MAX {
            list.connections.push_back(Idle { open, since });
        }
        drop(list);
        drop(closed);
    }
}
