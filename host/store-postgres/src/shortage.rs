//! Connection shortage: its cause, and how many connections are available.

use super::PostgresOptions;
use super::classify::{no_room, store_error};
use super::sql;
use kvasm_core::store::StoreError;
use parking_lot::Mutex;
use sqlx::postgres::PgRow;
use sqlx::{Error, PgConnection, Row};
use std::fmt;
use std::time::{Duration, Instant};

/// The minimum interval between two log lines about it.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// No connection was available in time.
#[derive(Debug)]
pub(super) struct NoConnection {
    /// The last error of an attempt to open a connection.
    pub(super) refusal: Option<Error>,
    /// Connections of this host that were in use or being opened.
    pub(super) in_use: usize,
    /// The maximum number of connections of this host.
    pub(super) connections: usize,
    pub(super) waited: Duration,
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoConnection {
            refusal,
            in_use,
            connections,
            waited,
        } = self;
        write!(f, "no connection to Postgres in {waited:?}: ")?;
        match refusal {
            Some(error) if no_room(error) => {
                let why = error.as_database_error().map_or("", |e| e.message());
                write!(
                    f,
                    "the server refused another one ({why}); this host may open {connections} \
                     (postgres.connections) and has {in_use} in use or being opened. Raise \
                     max_connections of the server, or lower postgres.connections of its hosts"
                )
            }
            Some(error) => write!(f, "the server cannot be reached ({error})"),
            None if in_use >= connections => write!(
                f,
                "all {connections} of this host (postgres.connections) were in use; raise \
                 postgres.connections, or postgres.acquire_timeout to wait longer"
            ),
            None => write!(
                f,
                "the server, or the pooler in front of it, did not answer; {in_use} of \
                 {connections} connections of this host (postgres.connections) were in use or being \
                 opened"
            ),
        }
    }
}

impl std::error::Error for NoConnection {}

impl From<NoConnection> for Error {
    fn from(none: NoConnection) -> Error {
        Error::Configuration(Box::new(none))
    }
}

/// Logs a lack of connections, at most once per [`REPORT_INTERVAL`].
#[derive(Default)]
pub(super) struct Report {
    last: Mutex<Option<Instant>>,
}

impl Report {
    pub(super) fn line(&self, none: &NoConnection) {
        let mut last = self.last.lock();
        if last.is_none_or(|last| last.elapsed() >= REPORT_INTERVAL) {
            *last = Some(Instant::now());
            drop(last);
            tracing::warn!("{none}");
        }
    }
}

/// A limit of connections, and how many there are now.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    setting: &'static str,
    limit: i64,
    /// Reserved for superusers and others.
    reserved: i64,
    in_use: i64,
}

impl Bound {
    fn free(&self) -> i64 {
        (self.limit - self.reserved - self.in_use).max(0)
    }
}

/// Warns if the server does not allow as many connections as the host may open.
pub(super) async fn check(
    connection: &mut PgConnection,
    options: &PostgresOptions,
) -> Result<(), StoreError> {
    let row = sqlx::query(sql::server_sql::ROOM)
        .fetch_one(connection)
        .await;
    let bounds = row.and_then(|row| bounds(&row)).map_err(store_error)?;
    if let Some(warning) = warning(&bounds, options.max_connections) {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// Decodes the row of `ROOM`.
fn bounds(row: &PgRow) -> Result<Vec<Bound>, Error> {
    let number = |column: usize| row.try_get::<i64, _>(column);
    let mut bounds = vec![Bound {
        setting: "max_connections",
        limit: number(0)?,
        reserved: number(1)?,
        in_use: number(2)?,
    }];
    for (setting, first) in [
        ("the CONNECTION LIMIT of the role", 3),
        ("the CONNECTION LIMIT of the database", 5),
    ] {
        let limit = number(first)?;
        // -1 means no limit.
        if limit >= 0 {
            bounds.push(Bound {
                setting,
                limit,
                reserved: 0,
                in_use: number(first + 1)?,
            });
        }
    }
    Ok(bounds)
}

/// Returns a warning about the tightest limit, if it is too low.
fn warning(bounds: &[Bound], wanted: u32) -> Option<String> {
    let tightest = bounds.iter().min_by_key(|bound| bound.free())?;
    if tightest.free() >= i64::from(wanted) {
        return None;
    }
    let Bound {
        setting,
        limit,
        reserved,
        in_use,
    } = tightest;
    Some(format!(
        "this host may open {wanted} connections (postgres.connections), but Postgres allows only \
         {}: {setting} is {limit}, with {reserved} reserved and {in_use} in use. Calls \
         will fail with 503 under load. Raise {setting}, or lower postgres.connections, so that \
         all hosts together fit",
        tightest.free()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(setting: &'static str, limit: i64, reserved: i64, in_use: i64) -> Bound {
        Bound {
            setting,
            limit,
            reserved,
            in_use,
        }
    }

    #[test]
    fn warning_names_the_tightest_connection_limit() {
        let server = || bound("max_connections", 20, 3, 4);
        assert_eq!(warning(&[server()], 13), None);
        let text = warning(&[server()], 14).unwrap();
        for part in [
            "open 14",
            "allows only 13",
            "max_connections is 20",
            "3 reserved",
            "4 in use",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let text = warning(&[server(), bound("the role's", 8, 0, 9)], 4).unwrap();
        assert!(text.contains("allows only 0: the role's is 8"), "{text}");
    }

    #[test]
    fn no_connection_error_names_the_cause() {
        let none = |refusal, in_use| NoConnection {
            refusal,
            in_use,
            connections: 16,
            waited: Duration::from_secs(3),
        };
        let text = none(None, 16).to_string();
        assert!(
            text.contains("all 16") && text.contains("postgres.connections"),
            "{text}"
        );
        let text = none(None, 2).to_string();
        assert!(text.contains("2 of 16"), "{text}");
        let text = none(Some(Error::PoolClosed), 2).to_string();
        assert!(text.contains("cannot be reached"), "{text}");
    }
}
