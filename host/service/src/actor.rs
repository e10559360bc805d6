//! Who asks, and what is written down of it.

use super::ServiceError;
use kvasm_core::{App, Audit, Capability, Principal, Scope, Timestamp, Token, TokenId};
use serde_json::Value;
use std::borrow::Cow;
use uuid::Uuid;

/// Someone who administers, for the length of one request.
#[derive(Debug, Clone)]
pub struct Actor {
    principal: Principal,
    token: Option<TokenId>,
    expires_at: Option<Timestamp>,
    name: String,
    request_id: Uuid,
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
        }
    }

    /// Someone with direct access to the store, who may do everything: the
    /// command line on the host itself, or an embedder. `name` goes to the audit
    /// log.
    pub fn operator(name: impl Into<String>, request_id: Uuid) -> Actor {
        Actor {
            principal: Principal::for_all_apps(Scope::ALL),
            token: None,
            expires_at: None,
            name: name.into(),
            request_id,
        }
    }

    /// What it may do.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The name of its token, or the operator's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The identity of its token; `None` of an operator.
    pub fn token(&self) -> Option<TokenId> {
        self.token
    }

    /// When its token expires, if it does.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// The id of the request that it makes.
    pub fn request_id(&self) -> Uuid {
        self.request_id
    }

    /// Refuses unless this actor holds a capability.
    ///
    /// # Errors
    /// [`ServiceError::Denied`].
    pub fn require(&self, capability: Capability) -> Result<(), ServiceError> {
        match self.principal.holds(capability) {
            true => Ok(()),
            false => Err(ServiceError::Denied(capability)),
        }
    }

    /// The record of something that it does now. A detail that is too long is cut.
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
