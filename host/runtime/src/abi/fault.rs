//! Failures of host functions.

use kvasm_abi::{OptionsError, Status};
use kvasm_core::Invalid;
use kvasm_service::ServiceError;
use thiserror::Error;

/// A pointer range outside the guest's memory: a bug in the guest, so it traps.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{function} was given {argument} at address {ptr:#x} with {len} bytes, \
     which is outside the guest's memory of {memory} bytes"
)]
pub struct BadPointer {
    /// The host function.
    pub function: &'static str,
    /// Its argument.
    pub argument: &'static str,
    /// The address.
    pub ptr: u32,
    /// The length, in bytes.
    pub len: u32,
    /// The size of the memory, in bytes.
    pub memory: usize,
}

/// A host function was called by a module that exports no memory. This can only happen while
/// such a module's start function runs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the module does not export a memory named \"memory\"")]
pub struct NoMemory;

/// A status or a trap.
#[derive(Debug)]
pub(super) enum Fault {
    /// Returned to the guest, which continues.
    Status(Status, String),
    /// The status is returned to the guest; the cause goes to the host's log.
    Host(Status, ServiceError),
    /// Ends the invocation.
    Trap(wasmtime::Error),
}

impl From<Invalid> for Fault {
    fn from(invalid: Invalid) -> Fault {
        Fault::Status(invalid_status(&invalid), invalid.to_string())
    }
}

fn invalid_status(invalid: &Invalid) -> Status {
    match invalid {
        Invalid::TooLarge { .. }
        | Invalid::OverTogether { .. }
        | Invalid::TooMany { .. }
        | Invalid::Deliveries { .. } => Status::TooLarge,
        Invalid::Empty(_)
        | Invalid::NotUtf8 { .. }
        | Invalid::Nul(_)
        | Invalid::Json(_)
        | Invalid::Character { .. }
        | Invalid::OutOfRange { .. }
        | Invalid::Malformed { .. }
        | Invalid::ConfigType { .. }
        | Invalid::Schedule { .. }
        | Invalid::Origin { .. }
        | Invalid::Url { .. }
        | Invalid::ForeignCursor => Status::Invalid,
    }
}

impl From<ServiceError> for Fault {
    fn from(error: ServiceError) -> Fault {
        let status = match &error {
            ServiceError::Invalid(invalid) => invalid_status(invalid),
            ServiceError::Denied(_) | ServiceError::NotPermitted(_) | ServiceError::AppNotFound => {
                Status::Denied
            }
            ServiceError::Conflict { .. } => Status::Conflict,
            ServiceError::NotInteger(_) => Status::Type,
            ServiceError::Overflow(_) => Status::Invalid,
            ServiceError::Quota { .. } => Status::Quota,
            ServiceError::Unavailable(_) | ServiceError::Full(_) => Status::Unavailable,
            // Key-value operations return no others.
            ServiceError::Internal(_)
            | ServiceError::AppExists(_)
            | ServiceError::PluginNotFound(_)
            | ServiceError::NoActivePlugin
            | ServiceError::LeaseLost
            | ServiceError::AlreadyAnswered
            | ServiceError::KeyReused
            | ServiceError::KeyInUse
            | ServiceError::OutputNotKept { .. }
            | ServiceError::LimitsChanged
            | ServiceError::TriggerNotFound
            | ServiceError::TriggerHasDeliveries { .. }
            | ServiceError::DeadLetterNotFound
            | ServiceError::PluginActive(_)
            | ServiceError::NothingToRollBackTo
            | ServiceError::NeedsUnmet(_)
            | ServiceError::GrantNotFound
            | ServiceError::TokenNotFound
            | ServiceError::ScopeExceeded(_)
            | ServiceError::LifetimeExceeded(_)
            | ServiceError::LastAdmin
            | ServiceError::SettingNotFound(_)
            | ServiceError::SigningKey { .. }
            | ServiceError::Secrets(_) => Status::Internal,
        };
        match status {
            Status::Internal | Status::Unavailable => Fault::Host(status, error),
            _ => Fault::Status(status, error.to_string()),
        }
    }
}

impl From<OptionsError> for Fault {
    fn from(error: OptionsError) -> Fault {
        match error {
            OptionsError::Size { size, needs } => Fault::Status(
                Status::Invalid,
                format!("the options' size is {size} bytes; their mask needs {needs} bytes"),
            ),
            OptionsError::UnknownBits(bits) => Fault::Status(
                Status::Unsupported,
                format!("unknown bits in the options' mask: {bits:#x}"),
            ),
            OptionsError::NotBool(found) => Fault::Status(
                Status::Invalid,
                format!("a boolean option must be 0 or 1, not {found}"),
            ),
        }
    }
}

impl From<wasmtime::Error> for Fault {
    fn from(error: wasmtime::Error) -> Fault {
        Fault::Trap(error)
    }
}

impl From<BadPointer> for Fault {
    fn from(error: BadPointer) -> Fault {
        Fault::Trap(error.into())
    }
}
