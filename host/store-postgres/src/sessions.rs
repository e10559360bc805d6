//! Checks whether a connection has a session of its own.
//!
//! A pooler in transaction mode gives a server session to another client between two transactions.
//! Kvasm's settings would then apply to others, and its prepared statements would be missing.

use super::connector::Connector;
use super::sql;
use sqlx::{Connection, Error, PgConnection, Row};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

/// The number of checks: others can take a session in between.
const ROUNDS: u32 = 3;
/// If each connection has a session of its own, the second may have to wait for one.
const SECOND_TIMEOUT: Duration = Duration::from_secs(2);

/// The database is reached through a pooler that shares sessions.
#[derive(Debug)]
pub(super) struct SharedSession;

impl fmt::Display for SharedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the pooler in front of this database shares sessions between clients (transaction or \
             statement mode); Kvasm needs a session for each connection. Set pool_mode = session \
             for this database in the pooler, or use the address of Postgres itself",
        )
    }
}

impl std::error::Error for SharedSession {}

impl From<SharedSession> for Error {
    fn from(shared: SharedSession) -> Error {
        Error::Configuration(Box::new(shared))
    }
}

/// Checks whether sessions are shared, with a second connection, which takes the session of the
/// first one while that is idle, or moves it to another.
///
/// # Errors
/// [`SharedSession`], and those of the first connection.
pub(super) async fn check(connector: &Connector, first: &mut PgConnection) -> Result<(), Error> {
    let Ok(Ok(mut second)) = timeout(SECOND_TIMEOUT, connector.bare()).await else {
        // The server is at its connection limit.
        return Ok(());
    };
    for _ in 0..ROUNDS {
        let before = session(first).await?;
        let second_session = timeout(SECOND_TIMEOUT, begin(&mut second)).await;
        let Ok(second_session) = second_session else {
            // It waits for a session, so it does not share that of the first.
            return Ok(());
        };
        let Ok(second_session) = second_session else {
            // Poolers in statement mode accept no transactions; Postgres always does.
            return Err(SharedSession.into());
        };
        // In this order: if both share one session, the first waits for it.
        if before == second_session || before != session(first).await? {
            return Err(SharedSession.into());
        }
        if end(&mut second).await.is_err() {
            return Ok(());
        }
    }
    // It is no longer needed, so an error does not matter.
    let _ = second.close().await;
    Ok(())
}

/// Returns the current session of the connection. Not prepared: that requires a session of its own.
async fn session(connection: &mut PgConnection) -> Result<i32, Error> {
    let row = sqlx::raw_sql(sql::server_sql::SESSION)
        .fetch_one(connection)
        .await?;
    row.try_get(0)
}

async fn begin(connection: &mut PgConnection) -> Result<i32, Error> {
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    session(connection).await
}

async fn end(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::raw_sql("ROLLBACK").execute(connection).await?;
    Ok(())
}
