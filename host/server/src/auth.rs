//! Authentication of requests.

use super::access_log::note_actor;
use super::document::{self, TokenNeed};
use super::problem::{Kind, Problem};
use super::request_ids::RequestIds;
use super::{Authority, SharedServer};
use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use kvasm_service::{Actor, SeenGeneration};
use uuid::Uuid;

/// The authenticated caller, and the store state that confirmed it, which lookups of the request's
/// app may reuse. Without a valid token the request is rejected.
pub(super) struct Authenticated(pub(super) Actor, pub(super) SeenGeneration);

/// Like [`Known`], but the caller is `None` without a token. An invalid token is rejected; it never
/// counts as none.
pub(super) struct OptionalAuth(pub(super) Option<Actor>, pub(super) SeenGeneration);

impl FromRequestParts<SharedServer> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &SharedServer,
    ) -> Result<Authenticated, Problem> {
        match OptionalAuth::from_request_parts(parts, shared).await? {
            OptionalAuth(Some(actor), seen) => Ok(Authenticated(actor, seen)),
            OptionalAuth(None, _) => Err(token_required()),
        }
    }
}

impl FromRequestParts<SharedServer> for OptionalAuth {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &SharedServer,
    ) -> Result<OptionalAuth, Problem> {
        let mut seen = SeenGeneration::default();
        let ids = RequestIds::of(parts);
        let actor = authenticate(shared, &mut seen, &parts.headers, ids.request).await?;
        let actor = actor.map(|actor| actor.with_trace(ids.trace).with_recorder(ids.recorder));
        if let Some(actor) = &actor {
            note_actor(actor);
        }
        Ok(OptionalAuth(actor, seen))
    }
}

/// Authenticates the sender of these headers against the current store state.
pub(super) async fn authenticate(
    shared: &SharedServer,
    seen: &mut SeenGeneration,
    headers: &HeaderMap,
    id: Uuid,
) -> Result<Option<Actor>, Problem> {
    if let Authority::Operator(name) = &shared.trust {
        return Ok(Some(Actor::operator(&**name, id)));
    }
    match bearer(headers)? {
        Some(token) => {
            let admin = shared.host.admin();
            Ok(Some(admin.authenticate(seen, token, id).await?))
        }
        None => Ok(None),
    }
}

/// Checks the token of a request that is invalid in another way, so that a caller without a
/// required token learns only that.
///
/// # Errors
/// The problem of a missing or invalid token.
pub(super) async fn check_token_before_refusal(
    shared: &SharedServer,
    (route, method): (&str, &str),
    headers: &HeaderMap,
    id: Uuid,
) -> Result<(), Problem> {
    let token = document::token(route, method);
    let is_open = shared.open && route == "/metrics";
    if token == TokenNeed::No || is_open {
        return Ok(());
    }
    match authenticate(shared, &mut SeenGeneration::default(), headers, id).await? {
        Some(actor) => note_actor(&actor),
        None if token == TokenNeed::Required => return Err(token_required()),
        None => {}
    }
    Ok(())
}

pub(super) fn token_required() -> Problem {
    Problem::new(
        Kind::TokenRequired,
        "a token is required: send `Authorization: Bearer kvasm_...`",
    )
}

/// Whether an Authorization header is meant for the host, or is empty. All tokens of the host
/// contain this prefix; other headers belong to the plugin, if the request is for one.
pub(super) fn is_for_host(authorization: &HeaderValue) -> bool {
    const TOKEN: &[u8] = b"kvasm_";
    let bytes = authorization.as_bytes().trim_ascii();
    let has_token = bytes
        .windows(TOKEN.len())
        .any(|part| part.eq_ignore_ascii_case(TOKEN));
    // From a client's unset variable.
    let is_empty = bytes.is_empty() || bytes.eq_ignore_ascii_case(b"bearer");
    has_token || is_empty
}

/// Authenticates a request to a plugin's HTTP handler, which may use Authorization itself. A header
/// that is meant for the host is checked, and never passed to the plugin.
pub(super) async fn authenticate_plugin_request(
    shared: &SharedServer,
    seen: &mut SeenGeneration,
    headers: &HeaderMap,
    id: Uuid,
) -> Result<Option<Actor>, Problem> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    match sent.any(is_for_host) || matches!(shared.trust, Authority::Operator(_)) {
        true => authenticate(shared, seen, headers, id).await,
        false => Ok(None),
    }
}

/// Returns the bearer token, if one was sent.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let invalid = |why| Problem::new(Kind::TokenInvalid, why);
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = sent.next() else {
        return Ok(None);
    };
    if sent.next().is_some() {
        return Err(invalid("more than one Authorization header"));
    }
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(invalid(
            "the Authorization header must be `Bearer kvasm_...`",
        )),
    }
}
