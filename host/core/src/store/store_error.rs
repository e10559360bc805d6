//! Errors of a store.

use crate::{KeyId, PluginVersion, Resource, Unmet};
use thiserror::Error;

/// Why a store refused or failed an operation.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The name is already used by another app.
    #[error("an app with this name already exists")]
    AppExists,
    /// The app does not exist, or was deleted.
    #[error("the app does not exist")]
    AppNotFound,
    /// Checks of a batch failed; nothing was written.
    #[error("{} of the batch's checks failed", failed.len())]
    Conflict {
        /// The positions in [`Batch::checks`](crate::Batch::checks).
        failed: Vec<usize>,
    },
    /// An increment of a value that is not an integer; nothing was written.
    #[error("operation {at} of the batch increments a value that is not an integer")]
    NotInteger {
        /// Its position in [`Batch::ops`](crate::Batch::ops).
        at: usize,
    },
    /// An increment beyond the range of 64 bits; nothing was written.
    #[error("operation {at} of the batch exceeds the range of a 64-bit integer")]
    Overflow {
        /// Its position in [`Batch::ops`](crate::Batch::ops).
        at: usize,
    },
    /// The delivery that a batch acknowledges has been claimed again since, or is done; nothing was
    /// written.
    #[error("the lease of the delivery has expired")]
    LeaseLost,
    /// An answer with the identity of that which the batch keeps has been kept already; nothing was
    /// written.
    #[error("the call has already been answered")]
    AlreadyAnswered,
    /// The requested values are too large in total.
    #[error("the values exceed {limit} bytes in total")]
    AnswerTooLarge {
        /// The maximum, in bytes.
        limit: usize,
    },
    /// The batch would create too many deliveries; nothing was written.
    #[error("the batch creates more than {limit} deliveries")]
    Deliveries {
        /// The maximum number of deliveries.
        limit: u32,
    },
    /// The app would exceed [`TRIGGERS_MAX`](crate::TRIGGERS_MAX); nothing was changed.
    #[error("the app would have {found} triggers")]
    TooManyTriggers {
        /// The number of triggers that it would have.
        found: u64,
    },
    /// The app's limits are not those that the change expects; nothing was changed.
    #[error("the app's limits do not match the expected ones")]
    LimitsChanged,
    /// The token is the last valid one that administers the instance; it was not revoked.
    #[error("the token is the last valid token with instance:admin")]
    LastAdmin,
    /// The app's quota does not allow the batch; nothing was written.
    #[error("the app's quota of {limit} {resource} is exhausted")]
    Quota {
        /// The exhausted resource.
        resource: Resource,
        /// The quota.
        limit: u64,
    },
    /// The secret was not sealed with the store's current key; nothing was changed.
    #[error("the store's secrets are sealed with key {current}, not with key {given}")]
    OtherSecretsKey {
        /// The key of the refused secret.
        given: KeyId,
        /// The current key.
        current: KeyId,
    },
    /// The app has no plugin version with this number.
    #[error("the app has no plugin version {0}")]
    PluginNotFound(PluginVersion),
    /// The plugin version is active and cannot be deleted.
    #[error("plugin version {0} is active")]
    PluginActive(PluginVersion),
    /// The app does not meet needs of the version, which was not activated; nothing was changed.
    #[error("the app does not meet {} needs of the plugin version", .0.len())]
    NeedsUnmet(Vec<Unmet>),
    /// There is no plugin version to roll back to.
    #[error("there is no plugin version to roll back to")]
    NothingToRollBackTo,
    /// The database has no space left; reads still work.
    #[error("the store is full")]
    Full(#[source] BoxError),
    /// The database cannot be reached or is overloaded; the call may be retried.
    #[error("the store is unavailable")]
    Unavailable(#[source] BoxError),
    /// Another error of the database, such as a damaged file or a bug.
    #[error("the store failed")]
    Failed(#[source] BoxError),
}

impl StoreError {
    /// Returns the class of the error, without data: one of few names.
    pub fn class(&self) -> &'static str {
        match self {
            StoreError::Conflict { .. } => "conflict",
            StoreError::LeaseLost => "lease_lost",
            StoreError::AlreadyAnswered => "already_answered",
            StoreError::Quota { .. } => "quota",
            StoreError::Full(_) => "full",
            StoreError::Unavailable(_) => "unavailable",
            StoreError::Failed(_) => "failed",
            _ => "refused",
        }
    }
}

/// The cause, for the host's log only. It may contain SQL and paths.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
