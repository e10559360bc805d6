//! The headers of idempotent calls.

use super::params::refused;
use super::problem::Problem;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use kvasm_core::{AnswerScope, IdempotencyKey, Invalid, Principal, Subject};
use kvasm_host::Call;
use kvasm_service::Actor;

/// The key of a call, of the IETF draft `httpapi-idempotency-key-header`.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks the kept answer of another call.
pub(super) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Returns the idempotency key of a request, if it has one.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(refused("the request has several Idempotency-Key headers"));
    }
    let value = std::str::from_utf8(value.as_bytes()).map_err(|error| Invalid::NotUtf8 {
        subject: Subject::IdempotencyKey,
        at: error.valid_up_to(),
    })?;
    Ok(Some(IdempotencyKey::parse(value)?))
}

/// Returns the idempotency key of a request to a plugin's handler. Methods that should have no
/// effect have none.
pub(super) fn key_of_handled(
    method: &Method,
    headers: &HeaderMap,
) -> Result<Option<IdempotencyKey>, Problem> {
    match *method {
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE => key_of(headers),
        _ => Ok(None),
    }
}

/// Adds the caller of a request to a call, and the idempotency key, which is the caller's own.
pub(super) fn identify(
    call: Call,
    actor: Option<&Actor>,
    principal: Option<Principal>,
    key: Option<IdempotencyKey>,
) -> Call {
    let call = match principal {
        Some(principal) => call.principal(principal),
        None => call,
    };
    let Some(key) = key else {
        return call;
    };
    let scope = match actor {
        None => AnswerScope::Public,
        Some(actor) => match actor.token() {
            Some(token) => AnswerScope::Token(token),
            None => AnswerScope::Named(actor.name().into()),
        },
    };
    call.idempotency_key(key).answer_scope(scope)
}

/// Marks the response of a repeat.
pub(super) fn mark(headers: &mut HeaderMap, replayed: bool) {
    if replayed {
        // A plugin's own header of this name is not sent.
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
}
