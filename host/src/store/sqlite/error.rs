//! SQLite's errors as a store's.

use crate::store::StoreError;
use crate::store::error::BoxError;
use rusqlite::ffi::ErrorCode;

/// An error that no caller caused and no retry mends.
pub(super) fn host(error: impl Into<BoxError>) -> StoreError {
    StoreError::Failed(error.into())
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
