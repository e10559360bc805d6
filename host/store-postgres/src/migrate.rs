//! Startup: checks of the server, and migration of its schema.

use super::classify::{lock_timed_out, migrate_error, no_room, store_error};
use super::connector::Connector;
use super::shortage::{self, NoConnection};
use super::{PostgresOptions, sessions, sql};
use kvasm_core::store::{Migrate, Schema, SchemaState, StoreError};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection, Error, PgConnection, Row};
use std::time::Duration;
use tokio::time::timeout;

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/postgres");

/// More than the number of versions drawn between a backup and its restore (see `kv_version` in the
/// schema), and small enough to allow hundreds of restores.
const SKIPPED_VERSIONS: i64 = 1 << 45;

/// The delay between two attempts to connect to a server at its connection limit.
const PAUSE: Duration = Duration::from_millis(200);
/// A wait for a lock is logged after this time.
const QUIET_WAIT: Duration = Duration::from_secs(5);
/// The maximum number of sessions that a message about a lock names.
const NAMED_MAX: usize = 5;

/// Checks the server and migrates the schema, as
/// [`PostgresStore::migrate`](super::PostgresStore::migrate).
pub(super) async fn prepare(
    connector: &Connector,
    options: &PostgresOptions,
) -> Result<(), StoreError> {
    // A separate connection: a migration may take longer than a statement.
    let mut connection = first_connection(connector, options).await?;
    let looks = timeout(
        options
            .acquire_timeout
            .saturating_add(options.statement_timeout),
        look(connector, options, &mut connection),
    );
    let up_to_date = looks
        .await
        .map_err(|elapsed| StoreError::Unavailable(Box::new(elapsed)))??;
    if !up_to_date {
        migrate(&mut connection, options).await?;
    }
    connection.close().await.map_err(store_error)
}

async fn first_connection(
    connector: &Connector,
    options: &PostgresOptions,
) -> Result<PgConnection, StoreError> {
    let mut refusal = None;
    let connection = timeout(options.acquire_timeout, async {
        loop {
            match connector.bare().await {
                Err(error) if no_room(&error) => refusal = Some(error),
                other => return other,
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    if let Ok(connection) = connection.await {
        return connection.map_err(store_error);
    }
    let none = NoConnection {
        refusal,
        in_use: 0,
        connections: usize::try_from(options.max_connections).unwrap_or(usize::MAX),
        waited: options.acquire_timeout,
    };
    Err(StoreError::Unavailable(Box::new(none)))
}

/// Checks the server, and returns whether the schema is current.
async fn look(
    connector: &Connector,
    options: &PostgresOptions,
    connection: &mut PgConnection,
) -> Result<bool, StoreError> {
    // First: later queries are prepared statements.
    let sessions = sessions::check(connector, connection).await;
    sessions.map_err(store_error)?;
    check_encoding(connection).await?;
    shortage::check(connection, options).await?;
    let applied = applied(connection).await.map_err(store_error)?;
    let schema = schema_of(&applied);
    schema.check()?;
    if options.migrate == Migrate::Alone && schema.state() == SchemaState::Older {
        return Err(schema.refused());
    }
    let known = MIGRATOR.iter().map(|m| (m.version, m.checksum.to_vec()));
    Ok(known.eq(applied))
}

/// Returns the schema of the database, and the required one.
pub(super) async fn schema(
    connector: &Connector,
    options: &PostgresOptions,
) -> Result<Schema, StoreError> {
    let mut connection = first_connection(connector, options).await?;
    let looks = timeout(options.statement_timeout, applied(&mut connection));
    let applied = looks
        .await
        .map_err(|elapsed| StoreError::Unavailable(Box::new(elapsed)))?;
    let schema = schema_of(&applied.map_err(store_error)?);
    connection.close().await.map_err(store_error)?;
    Ok(schema)
}

/// Advances the versions of entries beyond those that were drawn. Returns the last skipped version.
pub(super) async fn skip_versions(
    connector: &Connector,
    options: &PostgresOptions,
) -> Result<i64, StoreError> {
    let mut connection = first_connection(connector, options).await?;
    let skip = sqlx::query(sql::server_sql::SKIP_VERSIONS).bind(SKIPPED_VERSIONS);
    let row = skip.fetch_one(&mut connection).await.map_err(store_error)?;
    let last = row.try_get(0).map_err(store_error)?;
    connection.close().await.map_err(store_error)?;
    Ok(last)
}

async fn check_encoding(connection: &mut PgConnection) -> Result<(), StoreError> {
    let row = sqlx::query(sql::server_sql::ENCODING)
        .fetch_one(connection)
        .await
        .map_err(store_error)?;
    let encoding: String = row.try_get(0).map_err(store_error)?;
    if encoding == "UTF8" {
        return Ok(());
    }
    let why = format!("the database has the encoding {encoding}; it must be UTF8");
    Err(StoreError::Failed(why.into()))
}

/// An applied migration: its number, and the checksum of its text.
type Applied = (i64, Vec<u8>);

/// Returns the applied migrations, in order. Takes no lock, and needs no privilege to change the
/// schema.
async fn applied(connection: &mut PgConnection) -> Result<Vec<Applied>, Error> {
    let row = sqlx::query(sql::server_sql::HAS_MIGRATIONS).fetch_one(&mut *connection);
    if !row.await?.try_get::<bool, _>(0)? {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(sql::server_sql::MIGRATIONS)
        .fetch_all(connection)
        .await?;
    let applied = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    applied.collect()
}

fn schema_of(applied: &[Applied]) -> Schema {
    let last = applied.last().map(|(version, _)| *version);
    Schema::new(last, MIGRATOR.iter().map(|migration| migration.version))
}

/// Applies the missing migrations. If several hosts do so at once, one does it while the others
/// wait, with a timeout.
async fn migrate(
    connection: &mut PgConnection,
    options: &PostgresOptions,
) -> Result<(), StoreError> {
    let rest = options.lock_timeout.saturating_sub(QUIET_WAIT);
    let quiet = options.lock_timeout.min(QUIET_WAIT);
    match attempt(connection, quiet).await {
        Err(error) if waited_for_lock(&error) => {
            let holders = lock_holders(connection).await?;
            if rest.is_zero() {
                return Err(locked(options, &holders));
            }
            tracing::warn!(
                "the schema cannot be migrated yet: another session holds a lock; \
                 waiting up to {rest:?} more. {holders}"
            );
        }
        other => return other.map_err(migrate_error),
    }
    match attempt(connection, rest).await {
        Err(error) if waited_for_lock(&error) => {
            let holders = lock_holders(connection).await?;
            Err(locked(options, &holders))
        }
        other => other.map_err(migrate_error),
    }
}

async fn attempt(connection: &mut PgConnection, wait: Duration) -> Result<(), MigrateError> {
    let ms = wait.as_millis().max(1);
    let bound = AssertSqlSafe(format!("SET lock_timeout = {ms}"));
    sqlx::raw_sql(bound).execute(&mut *connection).await?;
    // Not `run`: its bound on `Acquire` holds for one lifetime only, so this future could not be
    // spawned.
    let result = MIGRATOR.run_direct(None, &mut *connection, false).await;
    if result.is_err() {
        // A pooler may keep the session, and with it the lock.
        let unlock = sqlx::raw_sql(sql::server_sql::UNLOCK)
            .execute(connection)
            .await;
        drop(unlock);
    }
    result
}

fn waited_for_lock(error: &MigrateError) -> bool {
    matches!(
        error,
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)
            if lock_timed_out(cause)
    )
}

/// Describes the sessions that may hold the lock.
async fn lock_holders(connection: &mut PgConnection) -> Result<String, StoreError> {
    let rows = sqlx::query(sql::server_sql::LOCK_HOLDERS)
        .fetch_all(connection)
        .await;
    let rows = rows.map_err(store_error)?;
    let named: Result<Vec<String>, Error> = rows.iter().take(NAMED_MAX).map(holder).collect();
    let named = named.map_err(store_error)?;
    if named.is_empty() {
        return Ok("Its holder has ended meanwhile".to_owned());
    }
    Ok(format!("Sessions that hold locks: {}", named.join("; ")))
}

fn holder(row: &sqlx::postgres::PgRow) -> Result<String, Error> {
    let pid: i32 = row.try_get(0)?;
    let name: String = row.try_get(1)?;
    let state: String = row.try_get(2)?;
    let seconds: i64 = row.try_get(3)?;
    Ok(format!("pid {pid} ({name:?}, {state} for {seconds} s)"))
}

fn locked(options: &PostgresOptions, holders: &str) -> StoreError {
    let why = format!(
        "the schema cannot be migrated: no lock within {:?}. {holders}. If one of them is not \
         a host that is migrating, end it with pg_terminate_backend, then restart",
        options.lock_timeout
    );
    StoreError::Unavailable(why.into())
}
