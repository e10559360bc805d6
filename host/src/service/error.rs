//! Refusals and failures, sorted by blame.

use crate::model::{Capability, Invalid};
use crate::store::StoreError;
use thiserror::Error;

/// Why a service did not do what it was asked. The text of every variant but
/// the sources is fit for the caller.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The caller's fault: an argument that is refused.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller's fault: its principal lacks a capability.
    #[error("this call needs the scope {} for this app, which the caller does not have", .0.scope())]
    Denied(Capability),
    /// The entry was not as the write expected; nothing was written.
    #[error("the entry does not have the version that the write expects; nothing was written")]
    Conflict,
    /// The app was deleted.
    #[error("the app does not exist any more")]
    AppNotFound,
    /// The store cannot be reached; the call may be tried again.
    #[error("the store cannot be reached; try again later")]
    Unavailable(#[source] StoreError),
    /// The host's fault.
    #[error("the host failed; the operator finds the cause in its log under this request's id")]
    Internal(#[source] StoreError),
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> ServiceError {
        match error {
            StoreError::AppNotFound => ServiceError::AppNotFound,
            StoreError::Conflict { .. } => ServiceError::Conflict,
            StoreError::Unavailable(_) => ServiceError::Unavailable(error),
            StoreError::AppExists | StoreError::Failed(_) => ServiceError::Internal(error),
        }
    }
}
