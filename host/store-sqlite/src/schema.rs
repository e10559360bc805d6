//! The schema of a file.

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
    /// Returns the schema that a file has, and the one that is needed. Changes nothing,
    /// and makes no file.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the file is there and cannot be read, or is no
    /// database.
    pub async fn schema(options: &SqliteOptions) -> Result<Schema, StoreError> {
        let path = options.path.clone();
        let found = tokio::task::spawn_blocking(move || found(&path)).await;
        let found = found.map_err(error::host)?;
        Ok(Schema::new(
            found.map_err(error::store)?,
            MIGRATOR.iter().map(|migration| migration.version),
        ))
    }

    /// Raises the versions of entries past all that were given after a backup was made,
    /// so that none of them comes back. For a file that was restored. Returns the last
    /// version that is skipped.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when another process holds the file,
    /// [`StoreError::Failed`] when it cannot be opened or has no schema.
    pub async fn skip_versions(options: SqliteOptions) -> Result<i64, StoreError> {
        let skipped = tokio::task::spawn_blocking(move || skip(&options)).await;
        skipped.map_err(error::host)?.map_err(error::store)
    }
}

/// More writes than come between a backup and its restore, and few enough that
/// thousands of restores leave versions to be had.
const SKIPPED_VERSIONS: i64 = 1 << 40;

fn skip(options: &SqliteOptions) -> rusqlite::Result<i64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&options.path, flags)?;
    connection.busy_timeout(options.busy_timeout)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let skip = "UPDATE kv_version SET last = last + ?1 WHERE id = 1 RETURNING last";
    connection.query_row(skip, [SKIPPED_VERSIONS], |row| row.get(0))
}

/// The last migration of the file.
fn found(path: &std::path::Path) -> rusqlite::Result<Option<i64>> {
    if !path.exists() {
        return Ok(None);
    }
    // Not read-only: a file in WAL mode has to be recovered if its last process was
    // killed.
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

/// Brings the schema up to date, if it may be.
pub(super) async fn migrate(options: &SqliteOptions) -> Result<(), StoreError> {
    let schema = SqliteStore::schema(options).await?;
    schema.check()?;
    let alone = options.migrate == Migrate::Alone && schema.state() == SchemaState::Older;
    let connect = SqliteConnectOptions::new()
        .filename(&options.path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // Of a new file: it can give space back.
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .busy_timeout(options.busy_timeout)
        // The lock of a file in WAL mode is given only while no other process has it open.
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
