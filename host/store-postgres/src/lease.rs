//! A connection on loan for one statement or one transaction.

use super::classify::{ends_connection, foreign_session};
use super::pool::{Held, Statement};
use super::sessions::SharedSession;
use sqlx::postgres::PgRow;
use sqlx::{Connection, Error, PgConnection};
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// A connection on loan. Dropped at any moment, even in the middle of a
/// statement, it gives the pool back a connection that is fit for use, or none.
pub(super) struct Lease {
    /// `None` only while it is dropped.
    held: Option<Held>,
    patience: Duration,
    /// A statement has been sent and not been answered to its end.
    busy: bool,
    in_transaction: bool,
    lost: bool,
}

impl Lease {
    pub(super) fn new(held: Held, patience: Duration) -> Lease {
        Lease {
            held: Some(held),
            patience,
            busy: false,
            in_transaction: false,
            lost: false,
        }
    }

    /// The slot that its writes count in.
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
            held.give_back();
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // The caller has gone, and the server may still be at work for it.
            // The place in the pool stays taken until it has finished: closed
            // connections would leave it working for nobody, and let ever more
            // such work in.
            runtime.spawn(clear(held, self.in_transaction, self.patience));
        }
    }
}

/// Ends what a connection was doing and gives it back; closes it if that does
/// not work.
async fn clear(mut held: Held, in_transaction: bool, patience: Duration) {
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
        held.give_back();
    }
}
