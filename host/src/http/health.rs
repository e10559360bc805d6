//! What machines ask of the server.

use super::Shared;
use super::auth::{Known, MaybeKnown};
use super::problem::{Kind, Problem};
use crate::model::Capability;
use crate::service::Readiness;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Says that the process runs.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether this server can work: the store takes writes, and background tasks
/// run. With a token of `instance:admin` a refusal says what fails, and why.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = String), (status = 503)))]
pub(super) async fn readyz(
    State(shared): State<Shared>,
    MaybeKnown(actor): MaybeKnown,
) -> Result<&'static str, Problem> {
    let readiness = shared.host.health().check().await;
    if readiness.is_ready() {
        return Ok("ready\n");
    }
    let problem = match &readiness.store {
        Err(failure) => Problem::new(Kind::StoreUnavailable, failure.summary),
        Ok(()) => Problem::new(Kind::NotReady, "background work is failing"),
    };
    let may_see = actor.is_some_and(|actor| actor.require(Capability::InstanceAdmin).is_ok());
    Err(match may_see {
        true => problem.with("failing", failing(&readiness)),
        false => problem,
    })
}

/// What fails, since when and why.
fn failing(readiness: &Readiness) -> Value {
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

/// What Prometheus scrapes. It names apps, so it needs a token.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")),
    security(("token" = ["instance:admin"])))]
pub(super) async fn metrics(
    State(shared): State<Shared>,
    Known(actor): Known,
) -> Result<Response, Problem> {
    actor.require(Capability::InstanceAdmin)?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = shared.host.metrics().encode();
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}
