//! What a store answers when it cannot do what it was asked.

use crate::{PluginVersion, Resource};
use thiserror::Error;

/// A store's refusal or failure.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The app's name is taken.
    #[error("an app of this name exists already")]
    AppExists,
    /// The app is not there, or no longer.
    #[error("the app does not exist")]
    AppNotFound,
    /// Checks of a batch failed; nothing was written.
    #[error("{} of the batch's checks failed", failed.len())]
    Conflict {
        /// The positions in [`WriteBatch::checks`](crate::WriteBatch::checks).
        failed: Vec<usize>,
    },
    /// An increment of what is no integer; nothing was written.
    #[error("operation {at} of the batch adds to a value that is no integer")]
    NotInteger {
        /// Its position in [`WriteBatch::ops`](crate::WriteBatch::ops).
        at: usize,
    },
    /// An increment beyond 64 bits; nothing was written.
    #[error("operation {at} of the batch takes an integer out of the range of 64 bits")]
    Overflow {
        /// Its position in [`WriteBatch::ops`](crate::WriteBatch::ops).
        at: usize,
    },
    /// The delivery that a batch acknowledges was claimed by somebody else since,
    /// or is done; nothing was written.
    #[error("the lease of the delivery has run out")]
    LeaseLost,
    /// The values that were asked for are too large together.
    #[error("the values are over {limit} bytes together")]
    AnswerTooLarge {
        /// The most bytes.
        limit: usize,
    },
    /// The batch would make more deliveries than it may; nothing was written.
    #[error("the batch makes more than {limit} deliveries")]
    Deliveries {
        /// The most deliveries.
        limit: u32,
    },
    /// The app would have more than
    /// [`TRIGGERS_MAX`](crate::TRIGGERS_MAX) triggers; nothing was changed.
    #[error("the app would have {found} triggers")]
    TooManyTriggers {
        /// How many it would have.
        found: u64,
    },
    /// The app's limits are not those that the change expects; nothing was changed.
    #[error("the app's limits are not those that the change expects")]
    LimitsChanged,
    /// The token is the last good one that administers the instance; it was not revoked.
    #[error("the token is the last good one with instance:admin")]
    LastAdmin,
    /// The app's quota does not have room for the batch; nothing was written.
    #[error("the app's quota of {limit} {resource} is used up")]
    Quota {
        /// What there is not enough of.
        resource: Resource,
        /// How much the app may have.
        limit: u64,
    },
    /// The app has no plugin version of this number.
    #[error("the app has no plugin version {0}")]
    PluginNotFound(PluginVersion),
    /// The active plugin version cannot be removed.
    #[error("plugin version {0} is active")]
    PluginActive(PluginVersion),
    /// There is no plugin version to go back to.
    #[error("there is no plugin version to roll back to")]
    NothingToRollBackTo,
    /// The database has no room left; reads go on.
    #[error("the store is full")]
    Full(#[source] BoxError),
    /// The database cannot be reached or is too busy; the call may be tried again.
    #[error("the store is unavailable")]
    Unavailable(#[source] BoxError),
    /// The database answered with something else: a damaged file, a bug.
    #[error("the store failed")]
    Failed(#[source] BoxError),
}

/// The cause, for the host's log only. It can hold SQL and paths.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
