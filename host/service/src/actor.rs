//! Actors of administrative requests, and their audit rows.

use super::{ServiceError, SpanRecorder};
use kvasm_core::{
    App, Audit, Capability, Principal, Scope, Timestamp, Token, TokenId, TraceContext,
};
use serde_json::Value;
use std::borrow::Cow;
use uuid::Uuid;

/// The actor of one administrative request.
#[derive(Debug, Clone)]
pub struct Actor {
    principal: Principal,
    token: Option<TokenId>,
    expires_at: Option<Timestamp>,
    name: String,
    request_id: Uuid,
    trace: Option<TraceContext>,
    recorder: Option<SpanRecorder>,
}

impl Actor {
    /// The holder of a token.
    pub fn of_token(token: &Token, request_id: Uuid) -> Actor {
        Actor {
            principal: token.principal(),
            token: Some(token.id),
            expires_at: token.expires_at,
            name: token.name.clone(),
            request_id,
            trace: None,
            recorder: None,
        }
    }

    /// An actor with direct access to the store and all permissions: the command line on the
    /// host itself, or an embedder. `name` appears in the audit log.
    pub fn operator(name: impl Into<String>, request_id: Uuid) -> Actor {
        Actor {
            principal: Principal::for_all_apps(Scope::ALL),
            token: None,
            expires_at: None,
            name: name.into(),
            request_id,
            trace: None,
            recorder: None,
        }
    }

    /// Sets the trace context of its request. Without one, what the request changes belongs to no
    /// trace.
    #[must_use]
    pub fn with_trace(self, trace: TraceContext) -> Actor {
        Actor {
            trace: Some(trace),
            ..self
        }
    }

    /// Sets the recorder of its request's spans. Without one, none are recorded.
    #[must_use]
    pub fn with_recorder(self, recorder: Option<SpanRecorder>) -> Actor {
        Actor { recorder, ..self }
    }

    /// Returns the recorder of its request's spans, if its trace is sampled.
    pub fn recorder(&self) -> Option<&SpanRecorder> {
        self.recorder.as_ref()
    }

    /// Returns the trace context of its request.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// Returns its permissions.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Returns the name of its token, or the operator's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the id of its token; `None` for an operator.
    pub fn token(&self) -> Option<TokenId> {
        self.token
    }

    /// Returns when its token expires, if it does.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// Returns the id of its request.
    pub fn request_id(&self) -> Uuid {
        self.request_id
    }

    /// Returns an error unless the actor holds a capability.
    ///
    /// # Errors
    /// [`ServiceError::Denied`].
    pub fn require(&self, capability: Capability) -> Result<(), ServiceError> {
        match self.principal.holds(capability) {
            true => Ok(()),
            false => Err(ServiceError::Denied(capability)),
        }
    }

    /// Builds the audit row of an operation. A detail that is too long is truncated.
    pub fn audit(
        &self,
        action: &'static str,
        app: Option<&App>,
        at: Timestamp,
        detail: Value,
    ) -> Audit {
        Audit {
            id: Uuid::now_v7(),
            at,
            token: self.token,
            actor: self.name.clone(),
            action: Cow::Borrowed(action),
            app: app.map(|app| (app.id, app.name.clone())),
            detail: Audit::bounded(detail),
            request_id: self.request_id,
        }
    }
}
