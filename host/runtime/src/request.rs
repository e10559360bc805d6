//! What an invocation is given, and what it returns.

use super::error::CallError;
use super::invocation::unknown_function;
use super::module::CompiledPlugin;
use crate::abi::{DeliveryContext, GuestLog};
use kvasm_core::{Cost, Exports, Pieces};
use kvasm_service::{CallContext, FairPermit, Services, SettingsSnapshot, Transaction};
use std::sync::Arc;
use tokio::sync::Notify;
use uuid::Uuid;

/// A call of a plugin.
pub struct InvocationRequest {
    /// The caller and the deadline.
    pub context: CallContext,
    /// The app's name, for the guest and the log.
    pub app_name: Arc<str>,
    /// The function.
    pub target: InvocationTarget,
    /// Its input.
    pub input: Pieces,
    /// The services behind the host functions.
    pub services: Services,
    /// The app's settings, which stay the same during the run.
    pub settings: SettingsSnapshot,
    /// The delivery being handled, if any.
    pub delivery: Option<Arc<DeliveryContext>>,
    /// The transaction that the run is, if it is one; also the key-value service in `services`.
    pub transaction: Option<Arc<Transaction>>,
    /// Ends the run as [`CallError::Conflict`], shortly after it is notified.
    pub gives_way: Option<Arc<Notify>>,
    /// The slot of its instance, if it already has one.
    pub slot: Option<Arc<FairPermit>>,
}

/// The function to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvocationTarget {
    /// The function of this name.
    Function(Arc<str>),
    /// The HTTP handler. Input and output are framed as in `kvasm_abi::http`.
    Http,
    /// The handler of this name, or the function of this name, for a delivery. The input is
    /// framed as in `kvasm_abi::http`.
    Handler(Arc<str>),
}

impl InvocationTarget {
    /// Checks that a plugin exports the target.
    pub fn require(&self, exports: &Exports) -> Result<(), CallError> {
        match self {
            InvocationTarget::Http if exports.http.is_none() => Err(CallError::NoHttpHandler),
            InvocationTarget::Function(name)
                if !exports.functions.iter().any(|f| **f == **name) =>
            {
                Err(unknown_function(
                    name,
                    exports.functions.iter().map(String::as_str),
                ))
            }
            // The run itself checks that a handler exists.
            InvocationTarget::Http
            | InvocationTarget::Function(_)
            | InvocationTarget::Handler(_) => Ok(()),
        }
    }

    /// Returns the name of the export to call, or "" if there is none.
    pub fn name<'t>(&'t self, plugin: &'t CompiledPlugin) -> &'t str {
        match self {
            InvocationTarget::Function(name) | InvocationTarget::Handler(name) => name,
            InvocationTarget::Http => plugin.http.as_ref().map_or("", |(name, _)| name),
        }
    }
}

/// The result of a successful call.
#[derive(Debug)]
pub struct Response {
    /// The function's output.
    pub output: Vec<u8>,
    /// The request id, which is also in the host's log.
    pub request_id: Uuid,
    /// What it used, discarded runs included.
    pub cost: Cost,
    /// The guest's log.
    pub log: GuestLog,
    /// The logs of discarded runs before this one.
    pub discarded: Vec<GuestLog>,
    /// Whether it is the kept answer of another call with the same idempotency key.
    pub replayed: bool,
}
