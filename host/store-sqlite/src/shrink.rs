//! Files of earlier versions, which cannot shrink.

use super::{SqliteOptions, SqliteStore, error, upkeep};
use kvasm_core::store::StoreError;
use rusqlite::ffi::ErrorCode;
use rusqlite::{Connection, OpenFlags};

/// Whether a SQLite file returns freed space to the file system, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncrementalVacuum {
    /// It already did.
    WasOn,
    /// The file was rewritten, and does so from now on.
    TurnedOn,
    /// Not enabled: another process has the file open. Nothing was changed.
    InUse,
}

impl SqliteStore {
    /// Rewrites a file that was created without incremental vacuum, so that it returns freed space.
    /// That takes time, and space for two more copies of its contents: one next to it, and one in
    /// the folder for temporary files. The schema does not change.
    ///
    /// # Errors
    /// [`StoreError::Full`] without that space; [`StoreError::Failed`] if the file cannot be opened
    /// or rewritten. The file is unchanged in both cases.
    pub async fn turn_on_incremental_vacuum(
        options: SqliteOptions,
    ) -> Result<IncrementalVacuum, StoreError> {
        tokio::task::spawn_blocking(move || turn_on(&options))
            .await
            .map_err(error::host)?
    }
}

fn turn_on(options: &SqliteOptions) -> Result<IncrementalVacuum, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&options.path, flags).map_err(error::store)?;
    let busy = connection.busy_timeout(options.busy_timeout);
    busy.map_err(error::store)?;
    if upkeep::is_incremental(&connection).map_err(error::store)? {
        return Ok(IncrementalVacuum::WasOn);
    }
    if let Err(error) = take(&connection) {
        return match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Ok(IncrementalVacuum::InUse)
            }
            _ => Err(error::store(error)),
        };
    }
    let rewritten = connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM");
    // If this fails, the next start does it.
    let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()));
    rewritten.and(mode).map_err(error::store)?;
    Ok(IncrementalVacuum::TurnedOn)
}

/// Locks the file exclusively for this connection: only then can it leave WAL mode.
fn take(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
    connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    // If the file was not in WAL mode, the previous statement has locked nothing.
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")
}
