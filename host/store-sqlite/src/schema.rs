//! The schema of a SQLite file.

use super::{SqliteOptions, SqliteStore, error};
use kvasm_core::store::StoreError;
use kvasm_core::store::{Migrate, Schema, SchemaState};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use sqlx::ConnectOptions;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous,
};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/sqlite");

impl SqliteStore {
    /// Returns the schema of a file, and the required one. Changes nothing, and creates no file.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the file exists but cannot be read, or is not a database.
    pub async fn schema(options: &SqliteOptions) -> Result<Schema, StoreError> {
        let path = options.path.clone();
        let found = tokio::task::spawn_blocking(move || found(&path)).await;
        let found = found.map_err(error::host)?;
        Ok(Schema::new(
            found.map_err(error::store)?,
            MIGRATOR.iter().map(|migration| migration.version),
        ))
    }

    /// Advances the versions of entries beyond all that were assigned after a backup was made, so
    /// that none is reused. For a restored file. Returns the last skipped version.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if another process locks the file, [`StoreError::Failed`] if it
    /// cannot be opened or has no schema.
    pub async fn skip_versions(options: SqliteOptions) -> Result<i64, StoreError> {
        let skipped = tokio::task::spawn_blocking(move || skip(&options)).await;
        skipped.map_err(error::host)?.map_err(error::store)
    }
}

/// More than the number of writes between a backup and its restore, and small enough to allow
/// thousands of restores.
const SKIPPED_VERSIONS: i64 = 1 << 40;

fn skip(options: &SqliteOptions) -> rusqlite::Result<i64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&options.path, flags)?;
    connection.busy_timeout(options.busy_timeout)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let skip = "UPDATE kv_version SET last = last + ?1 WHERE id = 1 RETURNING last";
    connection.query_row(skip, [SKIPPED_VERSIONS], |row| row.get(0))
}

/// Returns the last migration of the file.
fn found(path: &std::path::Path) -> rusqlite::Result<Option<i64>> {
    if !path.exists() {
        return Ok(None);
    }
    // Not read-only: a file in WAL mode has to be recovered if its last process was killed.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    let table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'";
    let exists = connection.query_row(table, [], |_| Ok(())).optional()?;
    match exists {
        None => Ok(None),
        Some(()) => {
            let last = "SELECT max(version) FROM _sqlx_migrations WHERE success";
            connection.query_row(last, [], |row| row.get(0))
        }
    }
}

/// Migrates the schema, if allowed.
pub(super) async fn migrate(options: &SqliteOptions) -> Result<(), StoreError> {
    let schema = SqliteStore::schema(options).await?;
    schema.check()?;
    let alone = options.migrate == Migrate::Alone && schema.state() == SchemaState::Older;
    let connect = SqliteConnectOptions::new()
        .filename(&options.path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // A new file can return free space.
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .busy_timeout(options.busy_timeout)
        // The lock of a file in WAL mode is granted only while no other process has it open.
        .locking_mode(match alone {
            true => SqliteLockingMode::Exclusive,
            false => SqliteLockingMode::Normal,
        });
    let refused = |error| match error {
        StoreError::Unavailable(_) if alone => schema.refused(),
        error => error,
    };
    let mut connection = connect
        .connect()
        .await
        .map_err(|e| refused(error::open(e)))?;
    let migrated = MIGRATOR.run(&mut connection).await;
    migrated.map_err(|e| refused(error::migrate(e)))?;
    let closed = sqlx::Connection::close(connection).await;
    closed.map_err(error::open)
}
