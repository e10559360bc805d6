//! What machines ask of the server.

use super::Shared;
use super::auth::Known;
use super::problem::{Kind, Problem};
use crate::model::Capability;
use crate::service::ServiceError;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use std::time::Duration;
use tokio::time::timeout;

/// How long the store may take to answer.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Says that the process runs.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether the store can be reached.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = String), (status = 503)))]
pub(super) async fn readyz(State(shared): State<Shared>) -> Result<&'static str, Problem> {
    match timeout(READY_TIMEOUT, shared.host.store().ping()).await {
        Ok(Ok(())) => Ok("ready\n"),
        Ok(Err(error)) => Err(ServiceError::from(error).into()),
        Err(_) => Err(Problem::new(
            Kind::StoreUnavailable,
            format!(
                "the store did not answer within {} s",
                READY_TIMEOUT.as_secs()
            ),
        )),
    }
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
