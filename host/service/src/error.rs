//! Refusals and failures, sorted by blame.

use kvasm_core::store::StoreError;
use kvasm_core::{
    AppName, Capability, Invalid, NoSum, PluginVersion, Resource, Scope, Subject, TRIGGERS_MAX,
    Timestamp,
};
use thiserror::Error;

/// Why a service did not do what it was asked. The text of every variant but
/// the sources is fit for the caller.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The caller's fault: an argument that is refused.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller's fault: its principal lacks a capability.
    #[error(
        "this call needs the scope {} for {}, which the caller does not have",
        .0.scope(), extent(*.0)
    )]
    Denied(Capability),
    /// The entry was not as the write expected; nothing was written.
    #[error("the entry does not have the version that the write expects; nothing was written")]
    Conflict {
        /// The positions of the checks that failed.
        failed: Vec<usize>,
    },
    /// The app's limits are not those that the change expects.
    #[error(
        "the app's limits are not those that the change expects; nothing was changed, \
         read them again"
    )]
    LimitsChanged,
    /// An increment of what is no integer; nothing was written.
    #[error("the entry holds no JSON integer to add to; nothing was written")]
    NotInteger,
    /// An increment beyond 64 bits; nothing was written.
    #[error("the sum is out of the range of 64 bits; nothing was written")]
    Overflow,
    /// The delivery was claimed by somebody else since; nothing was written.
    #[error("the delivery's lease has run out; nothing was written")]
    LeaseLost,
    /// The app has no trigger of this name.
    #[error("the app has no such trigger")]
    TriggerNotFound,
    /// The trigger has outstanding deliveries, and nothing says what becomes of them.
    #[error(
        "the trigger has {} outstanding deliveries; say whether they are to be kept, which \
         are delivered then, or discarded", at_least(*count)
    )]
    TriggerHasDeliveries {
        /// How many, counted up to a thousand.
        count: u64,
    },
    /// The app has no such dead letter.
    #[error("the app has no such dead letter; it was replayed or discarded, or has grown too old")]
    DeadLetterNotFound,
    /// The app's quota is used up; nothing was written.
    #[error("this write would exceed the app's quota of {limit} {resource}; {}", advice(*resource))]
    Quota {
        /// What there is not enough of.
        resource: Resource,
        /// How much the app may have.
        limit: u64,
    },
    /// There is no such app, or it was deleted.
    #[error("the app does not exist")]
    AppNotFound,
    /// The app's name is taken.
    #[error("there is an app {0} already")]
    AppExists(AppName),
    /// The app has no plugin version of this number.
    #[error("the app has no plugin version {0}")]
    PluginNotFound(PluginVersion),
    /// No plugin version is active.
    #[error("the app has no active plugin; deploy one")]
    NoActivePlugin,
    /// The active plugin version cannot be deleted.
    #[error("plugin version {0} is active; activate another one first")]
    PluginActive(PluginVersion),
    /// There is nothing before the active plugin version.
    #[error(
        "the active plugin version replaced none that is still there; activate one by its number"
    )]
    NothingToRollBackTo,
    /// There is no such token, or it is revoked already.
    #[error("there is no such token, or it is revoked already")]
    TokenNotFound,
    /// A token would grant what its maker does not have.
    #[error("a token cannot grant {0}, which you do not have yourself")]
    ScopeExceeded(Scope),
    /// A token would be good for longer than its maker's.
    #[error(
        "a token cannot outlast that of its maker, which expires at {} (milliseconds since \
         1970), unless that has instance:admin", .0.0
    )]
    LifetimeExceeded(Timestamp),
    /// The last good token that administers the instance cannot be revoked.
    #[error(
        "this is the last good token with instance:admin; make another one first \
         (kvasm token create NAME --scope instance:admin)"
    )]
    LastAdmin,
    /// The store cannot be reached; the call may be tried again.
    #[error("the store cannot be reached; try again later")]
    Unavailable(#[source] StoreError),
    /// The database has no room left; nothing was written, and reads go on.
    #[error("the host's store is full; nothing was written")]
    Full(#[source] StoreError),
    /// The host's fault.
    #[error("the host failed; the operator finds the cause in its log under this request's id")]
    Internal(#[source] StoreError),
}

/// For what a capability's scope must be granted.
fn extent(capability: Capability) -> &'static str {
    match capability.app() {
        Some(_) => "this app",
        None => "every app",
    }
}

/// A number of rows that were counted up to a thousand.
fn at_least(count: u64) -> String {
    match count {
        1_000.. => format!("{count} or more"),
        _ => count.to_string(),
    }
}

/// What helps against a quota that is used up.
fn advice(resource: Resource) -> &'static str {
    match resource {
        Resource::Entries => "delete entries, or ask the operator to raise it",
        Resource::Bytes => "delete entries or dead letters, or ask the operator to raise it",
        Resource::Deliveries => "let handlers catch up, or resume or delete paused triggers",
        Resource::Versions | Resource::ModuleBytes => "delete old plugin versions",
        Resource::Tokens => "revoke tokens that are not used",
    }
}

impl From<NoSum> for ServiceError {
    fn from(why: NoSum) -> ServiceError {
        match why {
            NoSum::NotInteger => ServiceError::NotInteger,
            NoSum::Overflow => ServiceError::Overflow,
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> ServiceError {
        match error {
            StoreError::AppNotFound => ServiceError::AppNotFound,
            StoreError::Conflict { failed } => ServiceError::Conflict { failed },
            StoreError::NotInteger { .. } => ServiceError::NotInteger,
            StoreError::Overflow { .. } => ServiceError::Overflow,
            StoreError::LeaseLost => ServiceError::LeaseLost,
            StoreError::TooManyTriggers { found } => ServiceError::Invalid(Invalid::TooMany {
                subject: Subject::Triggers,
                found,
                limit: TRIGGERS_MAX as u64,
            }),
            StoreError::LimitsChanged => ServiceError::LimitsChanged,
            StoreError::LastAdmin => ServiceError::LastAdmin,
            StoreError::AnswerTooLarge { limit } => ServiceError::Invalid(Invalid::OverTogether {
                subject: Subject::Answer,
                limit: limit as u64,
            }),
            StoreError::Deliveries { limit } => {
                ServiceError::Invalid(Invalid::Deliveries { limit })
            }
            StoreError::Quota { resource, limit } => ServiceError::Quota { resource, limit },
            StoreError::Unavailable(_) => ServiceError::Unavailable(error),
            StoreError::Full(_) => ServiceError::Full(error),
            StoreError::PluginNotFound(version) => ServiceError::PluginNotFound(version),
            StoreError::PluginActive(version) => ServiceError::PluginActive(version),
            StoreError::NothingToRollBackTo => ServiceError::NothingToRollBackTo,
            // The creation of an app, which names it, answers for a taken name.
            StoreError::AppExists | StoreError::Failed(_) => ServiceError::Internal(error),
        }
    }
}
