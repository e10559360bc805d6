//! A connection pool: connections are opened on demand, kept, and checked for loss.
//!
//! This is not sqlx's pool, because that one pings each returned connection in a separate task,
//! while the next caller opens or waits for another: measured on two cores, 16 readers got 8,000
//! entries a second through it and get 21,000 through this one.

use super::PostgresOptions;
use super::classify::{lost_connection, lost_race, starting_up, store_error};
use super::connector::Connector;
use super::lease::Lease;
use super::shortage::{NoConnection, Report};
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
/// A connection that was idle for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// The maximum age of a connection, so that the server's memory for it is freed and the balance
/// over several servers is restored.
const AGE_MAX: Duration = Duration::from_secs(1800);
/// The delays between attempts to reach a server that does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(300);
/// How often a statement or transaction that lost a race is run.
pub(super) const ATTEMPTS: u32 = 10;
/// The server ends a statement at its timeout. The host waits this much longer before it considers
/// the server lost.
const GRACE: Duration = Duration::from_secs(1);

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// The connections of one store.
pub(super) struct Pool {
    connector: Connector,
    kept: Arc<IdleConnections>,
    /// One for each connection that may be in use.
    permits: Arc<Semaphore>,
    /// The number of permits.
    connections: usize,
    acquire_timeout: Duration,
    report: Report,
    /// How long to wait for a statement.
    patience: Duration,
    opened: AtomicUsize,
}

impl Pool {
    /// Creates a pool without connections.
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
            // Hosts start at a random slot, so that they do not all count in the same one.
            opened: AtomicUsize::new(RandomState::new().hash_one(0) as usize),
        }
    }

    /// Leases a connection, the most recently used one if any is idle.
    ///
    /// # Errors
    /// A [`NoConnection`] after the timeout, which is also logged.
    pub(super) async fn lease(&self) -> Result<Lease, Error> {
        // The last error of an attempt to open a connection.
        let mut refusal = None;
        let waited = timeout(self.acquire_timeout, async {
            let permit = Arc::clone(&self.permits).acquire_owned().await;
            let permit = permit.map_err(|_| Error::PoolClosed)?;
            let held = PooledConnection {
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

    /// Takes an idle connection or opens a new one. Waits, until cancelled, for a server that is
    /// starting or at its connection limit, and for a connection that another caller returns.
    async fn take_or_open(&self, refusal: &mut Option<Error>) -> Result<OpenConnection, Error> {
        let mut pause = PAUSE_MIN;
        loop {
            if let Some(open) = self.kept.take().await {
                return Ok(open);
            }
            match self.connector.open().await {
                Ok(connection) => {
                    return Ok(OpenConnection {
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

    /// Runs a statement that is read-only or idempotent. If the connection turns out to be dead, it
    /// is retried once, on a connection that is known to be alive.
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

    /// Runs a statement that is a whole write, with the slot for which it was created. After a lost
    /// connection it is unknown whether it took effect, so it is not retried.
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
pub(super) struct OpenConnection {
    pub(super) connection: PgConnection,
    opened: Instant,
    /// The slot in which writes through this connection count. A connection does one thing at a
    /// time, so the writers of a host wait for each other's slots only if there are more writers
    /// than slots; and a lone writer, which always gets the same connection, always uses the same
    /// grant.
    pub(super) slot: i16,
}

/// A connection in use, with its permit. It is closed when dropped.
pub(super) struct PooledConnection {
    pub(super) open: OpenConnection,
    /// Released when the connection is returned or closed.
    _permit: OwnedSemaphorePermit,
    kept: Arc<IdleConnections>,
}

impl PooledConnection {
    /// Returns the connection to the pool. It must be idle.
    pub(super) fn put_back(self) {
        self.kept.put(self.open);
    }

    /// Records that the connection was found dead. Those that have been idle since before are
    /// probably dead too.
    pub(super) fn note_loss(&self) {
        self.kept.idle.lock().lost = Some(Instant::now());
    }
}

/// The idle connections.
#[derive(Default)]
struct IdleConnections {
    idle: Mutex<IdleList>,
}

#[derive(Default)]
struct IdleList {
    /// Ordered by last use; the most recent is taken first.
    connections: VecDeque<Idle>,
    /// When a connection was last found dead.
    lost: Option<Instant>,
}

struct Idle {
    open: OpenConnection,
    since: Instant,
}

impl IdleConnections {
    /// Takes a connection that works.
    async fn take(&self) -> Option<OpenConnection> {
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

    fn put(&self, open: OpenConnection) {
        let since = Instant::now();
        let mut list = self.idle.lock();
        // Dropped, and so closed, after the lock is released.
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
