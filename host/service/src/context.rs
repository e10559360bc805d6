//! The context of a call.

use super::{Caller, Deadline};
use kvasm_core::{TraceContext, TraceId};
use uuid::Uuid;

/// The context of a call from its entry point to its commit. The host creates it when a request
/// or a delivery arrives; nothing that a guest does changes it.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The caller, which also determines the app.
    pub caller: Caller,
    /// The request's id, which is also in the log.
    pub request_id: Uuid,
    /// The deadline of the call, and the time spent in each stage.
    pub deadline: Deadline,
}

impl CallContext {
    /// Returns the id of the call's trace, unless it is the request id, which is logged anyway.
    pub fn trace_id_to_log(&self) -> Option<TraceId> {
        let id = self.caller.trace().map(TraceContext::trace_id);
        id.filter(|id| id.uuid() != self.request_id)
    }
}
