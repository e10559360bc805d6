//! Connections: lent for one statement or one transaction, watched for loss.

use super::PostgresOptions;
use super::classify::{lost_connection, lost_race, store_error};
use crate::store::StoreError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{ConnectOptions, Connection, Error, PgConnection, PgPool, Postgres};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// A connection that was used within this time is lent without a ping.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How long a ping may take before the connection counts as lost.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a statement or transaction that lost a race is run.
pub(super) const ATTEMPTS: u32 = 10;
/// The server ends a statement at its timeout. The host waits this much longer,
/// and then takes the server for gone.
const GRACE: Duration = Duration::from_secs(1);

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// The pool of one store.
pub(super) struct Pool {
    pool: PgPool,
    losses: Arc<Losses>,
    /// The longest that a statement is waited for.
    patience: Duration,
}

impl Pool {
    /// Opens no connection yet.
    pub(super) fn new(options: &PostgresOptions, connect: PgConnectOptions) -> Pool {
        let losses = Arc::new(Losses::new());
        let watched = Arc::clone(&losses);
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            // A ping before each use would double the round trips.
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| {
                let trusted = meta.idle_for <= TRUSTED_IDLE && !watched.within(meta.idle_for);
                Box::pin(async move {
                    Ok(trusted
                        || matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(()))))
                })
            })
            .connect_lazy_with(session(options, connect));
        Pool {
            pool,
            losses,
            patience: options.statement_timeout.saturating_add(GRACE),
        }
    }

    /// Lends a connection.
    pub(super) async fn lease(&self) -> Result<Lease, Error> {
        let connection = self.pool.acquire().await?;
        Ok(Lease {
            connection: Some(connection),
            losses: Arc::clone(&self.losses),
            patience: self.patience,
            busy: false,
            in_transaction: false,
            lost: false,
        })
    }

    /// Runs a statement that changes nothing. A connection that turns out to be
    /// dead costs one more try, on one that is known to be alive.
    pub(super) async fn read<'q>(
        &self,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<Vec<PgRow>, StoreError> {
        match self.run(statement()).await {
            Err(error) if lost_connection(&error) => self.run(statement()).await,
            other => other,
        }
        .map_err(store_error)
    }

    /// Runs a statement that is a whole write. After a lost connection nobody
    /// knows whether it took effect, so it is not run again.
    pub(super) async fn write<'q>(
        &self,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<Vec<PgRow>, Error> {
        for _ in 1..ATTEMPTS {
            match self.run(statement()).await {
                Err(error) if lost_race(&error) => {}
                other => return other,
            }
        }
        self.run(statement()).await
    }

    async fn run(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, Error> {
        self.lease().await?.run(statement).await
    }
}

/// What the server is told about every session.
fn session(options: &PostgresOptions, connect: PgConnectOptions) -> PgConnectOptions {
    let timeout_ms = options.statement_timeout.as_millis().to_string();
    connect.disable_statement_logging().options([
        ("statement_timeout", timeout_ms.as_str()),
        // A host that vanishes in the middle of a batch holds its locks no longer.
        ("idle_in_transaction_session_timeout", timeout_ms.as_str()),
        // What the statements in `sql` rely on, whatever the database's default is.
        ("default_transaction_isolation", "read committed"),
    ])
}

/// A connection on loan. Dropped at any moment, even in the middle of a
/// statement, it leaves the pool a connection that is fit for use, or none.
pub(super) struct Lease {
    /// `None` only while it is dropped.
    connection: Option<PoolConnection<Postgres>>,
    losses: Arc<Losses>,
    patience: Duration,
    /// A statement has been sent and not been answered to its end.
    busy: bool,
    in_transaction: bool,
    lost: bool,
}

impl Lease {
    /// Waits for statements this long instead of the pool's patience.
    pub(super) fn wait_for(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Runs one statement and reads all its rows.
    pub(super) async fn run(&mut self, statement: Statement<'_>) -> Result<Vec<PgRow>, Error> {
        let patience = self.patience;
        let connection = self.start()?;
        let outcome = timeout(patience, statement.fetch_all(connection)).await;
        self.settle(outcome)
    }

    /// Begins a transaction. A lease that is dropped before `commit` rolls back.
    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        self.in_transaction = true;
        self.command("BEGIN").await
    }

    /// Commits the transaction.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        self.command("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Rolls the transaction back now. Whether that works changes nothing for the
    /// caller: a connection that does not roll back is closed, and so is its
    /// transaction.
    pub(super) async fn roll_back(mut self) {
        if !self.lost && self.command("ROLLBACK").await.is_ok() {
            self.in_transaction = false;
        }
    }

    async fn command(&mut self, sql: &'static str) -> Result<(), Error> {
        let patience = self.patience;
        let connection = self.start()?;
        let outcome = timeout(patience, sqlx::raw_sql(sql).execute(connection)).await;
        self.settle(outcome).map(drop)
    }

    fn start(&mut self) -> Result<&mut PgConnection, Error> {
        self.busy = true;
        self.connection.as_deref_mut().ok_or(Error::PoolClosed)
    }

    fn settle<T>(&mut self, outcome: Result<Result<T, Error>, Elapsed>) -> Result<T, Error> {
        self.busy = false;
        let result = outcome.unwrap_or_else(|_| {
            Err(Error::Io(std::io::Error::from(
                std::io::ErrorKind::TimedOut,
            )))
        });
        if result.as_ref().is_err_and(lost_connection) {
            self.lost = true;
            self.losses.note();
        }
        result
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if self.lost {
            connection.close_on_drop();
        } else if self.busy || self.in_transaction {
            // The caller has gone, and the server may still be at work for it.
            // The place in the pool stays taken until it has finished: closed
            // connections would leave it working for nobody, and let ever more
            // such work in.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(clear(connection, self.in_transaction, self.patience));
            } else {
                drop(connection.detach());
            }
        }
    }
}

/// Ends what a connection was doing; closes it if that does not work.
async fn clear(mut connection: PoolConnection<Postgres>, in_transaction: bool, patience: Duration) {
    let cleared = if in_transaction {
        let roll_back = sqlx::raw_sql("ROLLBACK").execute(&mut *connection);
        timeout(patience, roll_back)
            .await
            .is_ok_and(|result| result.is_ok())
    } else {
        timeout(patience, connection.ping())
            .await
            .is_ok_and(|result| result.is_ok())
    };
    if !cleared {
        connection.close_on_drop();
    }
}

/// When a connection was last lost. Connections that have been idle since before
/// are probably lost too, and are pinged before use.
struct Losses {
    start: Instant,
    /// Microseconds after `start`; 0 for never.
    last_us: AtomicU64,
}

impl Losses {
    fn new() -> Losses {
        Losses {
            start: Instant::now(),
            last_us: AtomicU64::new(0),
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn note(&self) {
        self.last_us.fetch_max(self.now_us(), Ordering::Relaxed);
    }

    /// Whether a connection was lost within this time.
    fn within(&self, time: Duration) -> bool {
        let last_us = self.last_us.load(Ordering::Relaxed);
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        last_us != 0 && self.now_us().saturating_sub(last_us) <= time_us
    }
}
