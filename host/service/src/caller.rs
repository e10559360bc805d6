//! The caller of an operation.

use super::kv::LockSetId;
use super::{Actor, ServiceError, SpanRecorder};
use kvasm_core::{
    App, AppId, Capability, CursorKey, Event, Principal, TRIGGERED_DELIVERIES_MAX, TraceContext,
};
use std::sync::Arc;

/// The caller of an operation. The host builds it before a guest runs; nothing that a guest does
/// changes it.
#[derive(Debug, Clone)]
pub struct Caller {
    app: AppId,
    cursor_key: CursorKey,
    principal: Option<Principal>,
    /// The actor and app for audit rows, and the action of a batch, if its writes are audited.
    audited: Option<Arc<(Actor, App, &'static str)>>,
    /// The depth of the event being handled; 0 outside a handler.
    depth: u32,
    /// Remaining number of deliveries that may follow from it.
    delivery_budget: u32,
    /// The lock set whose locks its commits do not wait for.
    lane: Option<LockSetId>,
    /// Its span, which causes what it does.
    trace: Option<TraceContext>,
    /// Records what it does, if its trace is sampled.
    recorder: Option<SpanRecorder>,
}

impl Caller {
    /// Creates the caller of a call for `app` by `principal`, or of a public call if there is
    /// none.
    pub fn new(app: &App, principal: Option<Principal>) -> Caller {
        Caller {
            app: app.id,
            cursor_key: app.cursor_key.clone(),
            principal,
            audited: None,
            depth: 0,
            delivery_budget: TRIGGERED_DELIVERIES_MAX,
            lane: None,
            trace: None,
            recorder: None,
        }
    }

    /// Creates the caller of an administrator's own operation. Each write adds an audit row.
    pub fn administrator(app: &App, actor: &Actor) -> Caller {
        Caller::audited_as(app, actor, "kv.commit")
    }

    /// Creates the caller of an administrator's import.
    pub fn importer(app: &App, actor: &Actor) -> Caller {
        Caller::audited_as(app, actor, "kv.import")
    }

    fn audited_as(app: &App, actor: &Actor, action: &'static str) -> Caller {
        Caller {
            audited: Some(Arc::new((actor.clone(), app.clone(), action))),
            trace: actor.trace().cloned(),
            recorder: actor.recorder().cloned(),
            ..Caller::new(app, Some(actor.principal().clone()))
        }
    }

    /// Creates the caller of an event handler. Access control is up to the plugin, as for a
    /// public call.
    pub fn handler(app: &App, event: &Event) -> Caller {
        Caller {
            depth: event.depth,
            delivery_budget: event.followers,
            ..Caller::new(app, None)
        }
    }

    /// Sets its trace context. Without one, it belongs to no trace.
    #[must_use]
    pub fn with_trace(self, trace: TraceContext) -> Caller {
        Caller {
            trace: Some(trace),
            ..self
        }
    }

    /// Sets the recorder of its spans. Without one, none are recorded.
    #[must_use]
    pub fn with_recorder(self, recorder: Option<SpanRecorder>) -> Caller {
        Caller { recorder, ..self }
    }

    /// Returns the recorder of its spans, if its trace is sampled.
    pub fn recorder(&self) -> Option<&SpanRecorder> {
        self.recorder.as_ref()
    }

    /// Returns its trace context: the span of the call, which causes what it does.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// Returns a caller without access checks, for reads that a permitted operation implies.
    pub(super) fn without_access_checks(&self) -> Caller {
        Caller {
            principal: None,
            audited: None,
            ..self.clone()
        }
    }

    /// Returns the same caller as the holder of a lock set.
    pub(super) fn in_lane(&self, lane: LockSetId) -> Caller {
        Caller {
            lane: Some(lane),
            ..self.clone()
        }
    }

    /// Returns the lock set that it holds.
    pub(super) fn lane(&self) -> Option<LockSetId> {
        self.lane
    }

    /// Returns the app whose entries the call may access.
    pub fn app(&self) -> AppId {
        self.app
    }

    /// Returns the principal; `None` for a public call.
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// Checks access. With a principal, each operation requires its capability. Without one,
    /// access control is up to the plugin, which chose to do this for the public. Isolation
    /// between apps does not depend on it.
    pub(super) fn check_access(&self, capability: Capability) -> Result<(), ServiceError> {
        match &self.principal {
            None => Ok(()),
            Some(principal) if principal.holds(capability) => Ok(()),
            Some(_) => Err(ServiceError::Denied(capability)),
        }
    }

    /// Returns the key that signs the app's list cursors.
    pub(super) fn cursor_key(&self) -> &CursorKey {
        &self.cursor_key
    }

    /// Returns the actor and app for audit rows, and the action of a batch.
    pub(super) fn audited(&self) -> Option<&(Actor, App, &'static str)> {
        self.audited.as_deref()
    }

    /// The depth of the event being handled; 0 outside a handler.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// Returns how many deliveries may follow from the event being handled, or from each change
    /// of a call.
    pub(super) fn followers(&self) -> u32 {
        self.delivery_budget
    }
}
