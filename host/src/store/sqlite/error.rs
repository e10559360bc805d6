//! SQLite's errors as a store's.

use crate::store::StoreError;
use crate::store::error::BoxError;
use rusqlite::ffi::{ErrorCode, SQLITE_BUSY, SQLITE_LOCKED};
use sqlx::migrate::MigrateError;

/// An error that no caller caused and no retry mends.
pub(super) fn host(error: impl Into<BoxError>) -> StoreError {
    StoreError::Failed(error.into())
}

/// Sorts an error of the connection that opens and migrates the file.
pub(super) fn open(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code());
    let code = code.and_then(|code| code.parse::<i32>().ok());
    // The low byte is the primary code, the rest says more.
    match code.map(|code| code & 0xff) {
        Some(SQLITE_BUSY | SQLITE_LOCKED) => StoreError::Unavailable(error.into()),
        _ => host(error),
    }
}

/// As [`open`], of a migration.
pub(super) fn migrate(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => open(cause),
        other => host(other),
    }
}

/// Sorts an error of SQLite: what can pass, and what cannot.
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
