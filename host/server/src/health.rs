//! Health checks and metrics.

use super::SharedServer;
use super::auth::{Authenticated, OptionalAuth};
use super::problem::{Kind, Problem};
use axum::extract::{FromRequestParts, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use kvasm_core::Capability;
use kvasm_service::Readiness;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// Timeout for authenticating the token of a `/readyz` request.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Reports that the process is running.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Reports whether this server is ready: the store accepts writes, and background tasks run.
///
/// With a token of `instance:admin`, or at an open administration address, a refusal lists what
/// fails and why.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = String), (status = 503)))]
pub(super) async fn readyz(
    State(shared): State<SharedServer>,
    mut parts: Parts,
) -> Result<&'static str, Problem> {
    let health = shared.host.health();
    if health.is_stopping() {
        return Err(Problem::new(Kind::NotReady, "the server is stopping"));
    }
    let readiness = health.check().await;
    if readiness.is_ready() {
        return Ok("ready\n");
    }
    let problem = match &readiness.store {
        Err(failure) => Problem::new(Kind::StoreUnavailable, failure.summary),
        Ok(()) => Problem::new(Kind::NotReady, "background work is failing"),
    };
    let may_see = shared.open || is_administrator(&shared, &mut parts).await;
    Err(match may_see {
        true => problem.with_failing_components(failing_components(&readiness)),
        false => problem,
    })
}

async fn is_administrator(shared: &SharedServer, parts: &mut Parts) -> bool {
    // Authenticated only when needed, and with a short timeout, since the token is in the store.
    // Any token other than an administrator's counts as none.
    let actor = OptionalAuth::from_request_parts(parts, shared);
    match timeout(TOKEN_TIMEOUT, actor).await {
        Ok(Ok(OptionalAuth(Some(actor), _))) => actor.require(Capability::InstanceAdmin).is_ok(),
        _ => false,
    }
}

/// The failing components, with the cause and since when.
fn failing_components(readiness: &Readiness) -> Value {
    let store = readiness.store.as_ref().err();
    let store = store.map(|failure| json!({ "name": "store", "cause": failure.cause }));
    let tasks = readiness.tasks.iter().filter_map(|task| {
        let (since, cause) = task.failing.as_ref()?;
        Some(json!({
            "name": task.name,
            "cause": cause,
            "since": since,
            "restarts": task.restarts,
        }))
    });
    store.into_iter().chain(tasks).collect()
}

/// Returns metrics for Prometheus.
///
/// They name apps, so a token is required, except at an open administration address.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")),
    security(("token" = ["instance:admin"])))]
pub(super) async fn metrics(
    State(shared): State<SharedServer>,
    mut parts: Parts,
) -> Result<Response, Problem> {
    if !shared.open {
        let Authenticated(actor, _) =
            Authenticated::from_request_parts(&mut parts, &shared).await?;
        actor.require(Capability::InstanceAdmin)?;
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    // On another thread: there can be thousands of lines, and some values come from the system.
    let metrics = shared.host.metrics().clone();
    let text = tokio::task::spawn_blocking(move || metrics.encode()).await;
    let text = text.map_err(|e| Problem::internal(&e))?;
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}
