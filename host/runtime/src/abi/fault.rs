//! How a host function ends when it does not succeed.

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

/// A host function was called by a module that exports no memory; it can happen
/// only while such a module's start function runs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the module does not export a memory named \"memory\"")]
pub struct NoMemory;

/// A status or a trap.
#[derive(Debug)]
pub(super) enum Fault {
    /// The guest reads it and goes on.
    Status(Status, String),
    /// The guest reads the status; the cause is for the host's log.
    Host(Status, ServiceError),
    /// The invocation ends.
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
        | Invalid::Schedule { .. }
        | Invalid::ForeignCursor => Status::Invalid,
    }
}

impl From<ServiceError> for Fault {
    fn from(error: ServiceError) -> Fault {
        let status = match &error {
            ServiceError::Invalid(invalid) => invalid_status(invalid),
            ServiceError::Denied(_) | ServiceError::AppNotFound => Status::Denied,
            ServiceError::Conflict { .. } => Status::Conflict,
            ServiceError::NotInteger => Status::Type,
            ServiceError::Overflow => Status::Invalid,
            ServiceError::Quota { .. } => Status::Quota,
            ServiceError::Unavailable(_) | ServiceError::Full(_) => Status::Unavailable,
            // No key-value call ends in the others.
            ServiceError::Internal(_)
            | ServiceError::AppExists(_)
            | ServiceError::PluginNotFound(_)
            | ServiceError::NoActivePlugin
            | ServiceError::LeaseLost
            | ServiceError::LimitsChanged
            | ServiceError::TriggerNotFound
            | ServiceError::TriggerHasDeliveries { .. }
            | ServiceError::DeadLetterNotFound
            | ServiceError::PluginActive(_)
            | ServiceError::NothingToRollBackTo
            | ServiceError::TokenNotFound
            | ServiceError::ScopeExceeded(_)
            | ServiceError::LifetimeExceeded(_)
            | ServiceError::LastAdmin => Status::Internal,
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
                format!("the options' mask has bits that this host does not know: {bits:#x}"),
            ),
            OptionsError::NotBool(found) => Fault::Status(
                Status::Invalid,
                format!("an option that is 0 or 1 holds {found}"),
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
