//! A connection leased for one statement or one transaction.

use super::classify::{ends_connection, foreign_session};
use super::pool::{PooledConnection, Statement};
use super::sessions::SharedSession;
use sqlx::postgres::PgRow;
use sqlx::{Connection, Error, PgConnection};
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// A leased connection. If it is dropped at any moment, even during a statement, the pool gets back
/// either a usable connection or none.
pub(super) struct Lease {
    /// `None` only while it is dropped.
    held: Option<PooledConnection>,
    patience: Duration,
    /// A statement was sent and its result was not read to the end.
    busy: bool,
    in_transaction: bool,
    lost: bool,
}

impl Lease {
    pub(super) fn new(held: PooledConnection, patience: Duration) -> Lease {
        Lease {
            held: Some(held),
            patience,
            busy: false,
            in_transaction: false,
            lost: false,
        }
    }

    /// Returns the slot in which its writes count.
    pub(super) fn slot(&self) -> i16 {
        self.held.as_ref().map_or(0, |held| held.open.slot)
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

    /// Rolls the transaction back. A failure makes no difference to the caller: a connection that
    /// fails to roll back is closed, which ends its transaction.
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
        let held = self.held.as_mut().ok_or(Error::PoolClosed)?;
        Ok(&mut held.open.connection)
    }

    fn settle<T>(&mut self, outcome: Result<Result<T, Error>, Elapsed>) -> Result<T, Error> {
        self.busy = false;
        let result = outcome.unwrap_or_else(|_| {
            let timed_out = std::io::ErrorKind::TimedOut;
            Err(Error::Io(std::io::Error::from(timed_out)))
        });
        if result.as_ref().is_err_and(foreign_session) {
            self.lost = true;
            return Err(SharedSession.into());
        }
        if let (true, Some(held)) = (result.as_ref().is_err_and(ends_connection), &self.held) {
            self.lost = true;
            held.note_loss();
        }
        result
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        if self.lost {
            drop(held);
        } else if !self.busy && !self.in_transaction {
            held.put_back();
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // The caller was cancelled, and the server may still run its statement. The permit is
            // held until that has ended: closing the connection would leave the server working for
            // nobody, and admit more and more such work.
            runtime.spawn(clear(held, self.in_transaction, self.patience));
        }
    }
}

/// Ends what a connection was doing and returns it to the pool, or closes it if that fails.
async fn clear(mut held: PooledConnection, in_transaction: bool, patience: Duration) {
    let connection = &mut held.open.connection;
    let cleared = if in_transaction {
        let roll_back = sqlx::raw_sql("ROLLBACK").execute(connection);
        timeout(patience, roll_back)
            .await
            .map(|result| result.map(drop))
    } else {
        timeout(patience, connection.ping()).await
    };
    if matches!(cleared, Ok(Ok(()))) {
        held.put_back();
    }
}
