//! Errors of services, classified by blame.

use super::{Address, SecretsError, SigningKeyError};
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppName, Capability, IncrementError, Invalid, NotPermitted, PluginVersion, Resource, Scope,
    SettingKind, SettingName, Subject, TRIGGERS_MAX, Timestamp, Unmet,
};
use std::fmt;
use thiserror::Error;

/// An error of a service. The text of every variant is safe for a caller that may read what it has
/// asked for, and [without names](ServiceError::without_names) for those whom a plugin serves; that of
/// the sources is not.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The caller's fault: an invalid argument.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller's fault: a missing capability.
    #[error(
        "this call needs the scope {} for {}, which the caller does not have",
        .0.scope(), extent(*.0)
    )]
    Denied(Capability),
    /// The plugin's fault or its app's: a use that the plugin does not declare or the app does not
    /// grant.
    #[error(transparent)]
    NotPermitted(#[from] NotPermitted),
    /// The precondition of a write does not hold; nothing was written.
    #[error("version conflict: the entry is not as the write expects; nothing was written")]
    Conflict {
        /// The indexes of the failed checks.
        failed: Vec<usize>,
    },
    /// The app's limits are not the expected ones.
    #[error(
        "the app's limits have changed in the meantime; nothing was changed, \
         read them again"
    )]
    LimitsChanged,
    /// An increment of a value that is not an integer; nothing was written.
    #[error("cannot increment{0}: the value is not a JSON integer; nothing was written")]
    NotInteger(IncrementTarget),
    /// An increment beyond 64 bits; nothing was written.
    #[error("cannot increment{0}: the sum exceeds 64 bits; nothing was written")]
    Overflow(IncrementTarget),
    /// The lease has expired and the delivery may have been claimed again; nothing was written.
    #[error("the delivery's lease has expired; nothing was written")]
    LeaseLost,
    /// The call has already been answered, by a commit that was faster; nothing was written.
    #[error("another run has answered this call; nothing was written")]
    AlreadyAnswered,
    /// The caller's fault: the idempotency key was used for another request.
    #[error(
        "this idempotency key was used for another request; repeat that request as it was, or use \
         a new key"
    )]
    KeyReused,
    /// Another call with the idempotency key did not end in time.
    #[error("a call with this idempotency key is still running; repeat the request later")]
    KeyInUse,
    /// The call has taken effect, but its output was too large to keep.
    #[error(
        "the call with this idempotency key has taken effect, but its output exceeded {limit} \
         bytes and was not kept"
    )]
    OutputNotKept {
        /// The maximum size of an output that is kept, in bytes.
        limit: usize,
    },
    /// The app has no trigger of this name.
    #[error("the app has no such trigger")]
    TriggerNotFound,
    /// The trigger has outstanding deliveries, and the request does not say what to do with
    /// them.
    #[error(
        "the trigger has {} outstanding deliveries; choose whether to keep them, so \
         that they are still delivered, or to discard them", at_least(*count)
    )]
    TriggerHasDeliveries {
        /// How many, counted up to a thousand.
        count: u64,
    },
    /// The app has no such dead letter.
    #[error("the app has no such dead letter; it was replayed or discarded, or has expired")]
    DeadLetterNotFound,
    /// The write would exceed the app's quota; nothing was written.
    #[error("this write would exceed the app's quota of {limit} {resource}; {}", advice(*resource))]
    Quota {
        /// The resource that is exhausted.
        resource: Resource,
        /// The app's quota of it.
        limit: u64,
    },
    /// The app does not exist, or was deleted.
    #[error("the app does not exist")]
    AppNotFound,
    /// The app's name is taken.
    #[error("an app named {0} already exists")]
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
    /// The app does not meet needs of the version, which was not activated.
    #[error("this plugin version needs what the app lacks: {}", listed(.0))]
    NeedsUnmet(Vec<Unmet>),
    /// The app has not granted what is to be revoked.
    #[error("the app has no such grant")]
    GrantNotFound,
    /// There is no previous plugin version.
    #[error("there is no previous plugin version to roll back to; activate one by its number")]
    NothingToRollBackTo,
    /// There is no such token, or it is already revoked.
    #[error("there is no such token, or it is already revoked")]
    TokenNotFound,
    /// A token would grant a scope that its creator does not have.
    #[error("a token cannot grant {0}, which you do not have yourself")]
    ScopeExceeded(Scope),
    /// A token would outlive its creator's.
    #[error(
        "a token cannot outlive its creator's, which expires at {} (milliseconds since \
         1970), unless the creator has instance:admin", .0.0
    )]
    LifetimeExceeded(Timestamp),
    /// The last valid token with `instance:admin` for all apps cannot be revoked.
    #[error(
        "this is the last valid token with instance:admin; create another one first \
         (kvasm token create NAME --scope instance:admin)"
    )]
    LastAdmin,
    /// The app has no configuration value, or no secret, of this name.
    #[error("the app has no such {}", kind_of(*.0))]
    SettingNotFound(SettingKind),
    /// The caller's fault: the secret that a webhook names is not set, or is no signing key.
    #[error(
        "the secret {name} cannot sign a webhook: {error}; a signing key is whsec_ and 24 to 64 \
         bytes in base64 (kvasm secret set APP {name})"
    )]
    SigningKey {
        /// The name of the secret.
        name: SettingName,
        /// What is wrong with it.
        error: SigningKeyError,
    },
    /// A secret cannot be sealed or opened.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The store cannot be reached; the call may be retried.
    #[error("the store cannot be reached; try again later")]
    Unavailable(#[source] StoreError),
    /// The database is full; nothing was written, and reads still work.
    #[error("the host's store is full; nothing was written")]
    Full(#[source] StoreError),
    /// An internal error of the host.
    #[error("internal error: the operator can find the cause in the host's log by request id")]
    Internal(#[source] StoreError),
}

/// Describes where a capability's scope must be granted.
fn extent(capability: Capability) -> &'static str {
    match capability.app() {
        Some(_) => "this app",
        None => "every app",
    }
}

/// Formats a number of rows that were counted up to a thousand.
fn at_least(count: u64) -> String {
    match count {
        1_000.. => format!("{count} or more"),
        _ => count.to_string(),
    }
}

/// Lists the first of the unmet needs.
fn listed(unmet: &[Unmet]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<_> = unmet.iter().take(SHOWN).map(Unmet::to_string).collect();
    let more = match unmet.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("{}{more}", shown.join("; "))
}

fn kind_of(kind: SettingKind) -> &'static str {
    match kind {
        SettingKind::Config => "configuration value",
        SettingKind::Secret => "secret",
    }
}

/// Suggests how to get below a quota.
fn advice(resource: Resource) -> &'static str {
    match resource {
        Resource::Entries => "delete entries, or ask the operator to raise the quota",
        Resource::Bytes => "delete entries or dead letters, or ask the operator to raise the quota",
        Resource::Deliveries => "let handlers catch up, or resume or delete paused triggers",
        Resource::Answers => "wait until some expire, or use fewer idempotency keys",
        Resource::Versions | Resource::ModuleBytes => "delete old plugin versions",
        Resource::Tokens => "revoke unused tokens",
        Resource::Settings | Resource::SettingBytes => {
            "unset configuration values or secrets that are no longer needed"
        }
        Resource::Grants => "revoke grants that are no longer needed",
    }
}

/// The entry of an increment that failed, if it is known. Displayed with a space before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IncrementTarget(Option<Box<Address>>);

impl IncrementTarget {
    /// Names an entry.
    pub fn of(entry: &Address) -> IncrementTarget {
        IncrementTarget(Some(Box::new(entry.clone())))
    }
}

impl fmt::Display for IncrementTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_deref() {
            Some((collection, key)) => {
                let (collection, key) = (collection.as_str(), key.as_str());
                write!(f, " the entry {key:?} of {collection:?}")
            }
            None => Ok(()),
        }
    }
}

impl ServiceError {
    /// The error of an increment of an entry.
    pub(crate) fn of_increment(why: IncrementError, entry: &Address) -> ServiceError {
        let target = IncrementTarget::of(entry);
        match why {
            IncrementError::NotInteger => ServiceError::NotInteger(target),
            IncrementError::Overflow => ServiceError::Overflow(target),
        }
    }

    /// Returns it without the names of entries, for those who may not read them.
    #[must_use]
    pub fn without_names(self) -> ServiceError {
        match self {
            ServiceError::NotInteger(_) => ServiceError::NotInteger(IncrementTarget::default()),
            ServiceError::Overflow(_) => ServiceError::Overflow(IncrementTarget::default()),
            other => other,
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> ServiceError {
        match error {
            StoreError::AppNotFound => ServiceError::AppNotFound,
            StoreError::Conflict { failed } => ServiceError::Conflict { failed },
            StoreError::NotInteger { .. } => ServiceError::NotInteger(IncrementTarget::default()),
            StoreError::Overflow { .. } => ServiceError::Overflow(IncrementTarget::default()),
            StoreError::LeaseLost => ServiceError::LeaseLost,
            StoreError::AlreadyAnswered => ServiceError::AlreadyAnswered,
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
            StoreError::OtherSecretsKey { given, current } => {
                ServiceError::Secrets(SecretsError::OtherKey { given, current })
            }
            StoreError::Unavailable(_) => ServiceError::Unavailable(error),
            StoreError::Full(_) => ServiceError::Full(error),
            StoreError::PluginNotFound(version) => ServiceError::PluginNotFound(version),
            StoreError::NeedsUnmet(unmet) => ServiceError::NeedsUnmet(unmet),
            StoreError::PluginActive(version) => ServiceError::PluginActive(version),
            StoreError::NothingToRollBackTo => ServiceError::NothingToRollBackTo,
            // `create_app` handles a taken name, as it knows the name.
            StoreError::AppExists | StoreError::Failed(_) => ServiceError::Internal(error),
        }
    }
}
