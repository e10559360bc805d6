//! On whose behalf a call is made.

use super::key_locks::LaneId;
use super::{Actor, ServiceError};
use kvasm_core::{App, AppId, Capability, CursorKey, Event, FOLLOWERS_MAX, Principal};
use std::sync::Arc;

/// On whose behalf a call is made. The host builds it before a guest runs;
/// nothing that a guest says changes it.
#[derive(Debug, Clone)]
pub struct Caller {
    app: AppId,
    cursor_key: CursorKey,
    principal: Option<Principal>,
    /// Whose writes are written down, and the app's name with them.
    audited: Option<Arc<(Actor, App)>>,
    /// The depth of the event that is being handled; 0 outside a handler.
    depth: u32,
    /// How many deliveries may follow from it.
    followers: u32,
    /// The lane whose locks its commits do not wait for.
    lane: Option<LaneId>,
}

impl Caller {
    /// A call for `app` by `principal`, or a public call if there is none.
    pub fn new(app: &App, principal: Option<Principal>) -> Caller {
        Caller {
            app: app.id,
            cursor_key: app.cursor_key.clone(),
            principal,
            audited: None,
            depth: 0,
            followers: FOLLOWERS_MAX,
            lane: None,
        }
    }

    /// An administrator's own call. Each write leaves an audit row.
    pub fn administrator(app: &App, actor: &Actor) -> Caller {
        Caller {
            audited: Some(Arc::new((actor.clone(), app.clone()))),
            ..Caller::new(app, Some(actor.principal().clone()))
        }
    }

    /// A handler's call, which nobody makes but this event. The plugin itself is
    /// the gate, as for a public call.
    pub fn handler(app: &App, event: &Event) -> Caller {
        Caller {
            depth: event.depth,
            followers: event.followers,
            ..Caller::new(app, None)
        }
    }

    /// The same call as the host itself makes it, for what a granted call has to
    /// look at.
    pub(super) fn ungated(&self) -> Caller {
        Caller {
            principal: None,
            audited: None,
            ..self.clone()
        }
    }

    /// The same call, by who holds a lane.
    pub(super) fn in_lane(&self, lane: LaneId) -> Caller {
        Caller {
            lane: Some(lane),
            ..self.clone()
        }
    }

    /// The lane that it holds.
    pub(super) fn lane(&self) -> Option<LaneId> {
        self.lane
    }

    /// The app whose rows the call touches.
    pub fn app(&self) -> AppId {
        self.app
    }

    /// The principal; none for a public call.
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// The script gate. With a principal, each call needs its capability.
    /// Without one, the plugin itself is the gate: it chose to do this for the
    /// public. Isolation between apps does not depend on it.
    pub(super) fn gate(&self, capability: Capability) -> Result<(), ServiceError> {
        match &self.principal {
            None => Ok(()),
            Some(principal) if principal.holds(capability) => Ok(()),
            Some(_) => Err(ServiceError::Denied(capability)),
        }
    }

    /// What the app's list cursors are signed with.
    pub(super) fn cursor_key(&self) -> &CursorKey {
        &self.cursor_key
    }

    /// Whose writes are written down.
    pub(super) fn audited(&self) -> Option<&(Actor, App)> {
        self.audited.as_deref()
    }

    /// The depth of the event that is being handled; 0 outside a handler.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// How many deliveries may follow from the event that is being handled, or from
    /// each change of a call.
    pub(super) fn followers(&self) -> u32 {
        self.followers
    }
}
