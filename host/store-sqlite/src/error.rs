//! Mapping of SQLite errors to store errors.

use kvasm_core::store::StoreError;
use kvasm_core::store::backend::BoxError;
use rusqlite::ffi::{
    ErrorCode, SQLITE_BUSY, SQLITE_FULL, SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE, SQLITE_LOCKED,
};
use sqlx::migrate::MigrateError;

/// Wraps an error that no caller caused and no retry fixes.
pub(super) fn host(error: impl Into<BoxError>) -> StoreError {
    StoreError::Failed(error.into())
}

/// Classifies an error of the connection that opens and migrates the file.
pub(super) fn open(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code());
    let code = code.and_then(|code| code.parse::<i32>().ok());
    if let Some(SQLITE_FULL | SQLITE_IOERR_SHMSIZE | SQLITE_IOERR_WRITE) = code {
        return StoreError::Full(error.into());
    }
    // The low byte is the primary code, the others are details.
    match code.map(|code| code & 0xff) {
        Some(SQLITE_BUSY | SQLITE_LOCKED) => StoreError::Unavailable(error.into()),
        _ => host(error),
    }
}

/// As [`open`], for a migration.
pub(super) fn migrate(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => open(cause),
        other => host(other),
    }
}

/// Returns whether the disk may be full. Some file systems report that with other codes than
/// `SQLITE_FULL`.
pub(super) fn is_no_room(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(cause, _) = error else {
        return false;
    };
    cause.code == ErrorCode::DiskFull
        || matches!(
            cause.extended_code,
            SQLITE_IOERR_WRITE | SQLITE_IOERR_SHMSIZE
        )
}

/// As [`is_no_room`], for an error of the store.
pub(super) fn may_be_full(error: &StoreError) -> bool {
    match error {
        StoreError::Full(_) => true,
        StoreError::Failed(cause) => cause.downcast_ref().is_some_and(is_no_room),
        _ => false,
    }
}

/// Classifies an error of SQLite as temporary or permanent.
pub(super) fn store(error: rusqlite::Error) -> StoreError {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_FOREIGNKEY, SQLITE_CONSTRAINT_UNIQUE};
    match &error {
        rusqlite::Error::SqliteFailure(cause, _) => match (cause.code, cause.extended_code) {
            (ErrorCode::ConstraintViolation, SQLITE_CONSTRAINT_FOREIGNKEY) => {
                StoreError::AppNotFound
            }
            // `apps.name` is the schema's only UNIQUE constraint.
            (ErrorCode::ConstraintViolation, SQLITE_CONSTRAINT_UNIQUE) => StoreError::AppExists,
            (ErrorCode::DiskFull, _) => StoreError::Full(error.into()),
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => {
                StoreError::Unavailable(error.into())
            }
            _ => StoreError::Failed(error.into()),
        },
        _ => StoreError::Failed(error.into()),
    }
}
