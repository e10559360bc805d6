//! Timers.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::params::{Params, Segments};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use kvasm_api::{TimerDone, TimerPage, TimerRequest, TimerView};
use kvasm_core::{Capability, EventKind, TimerName};
use kvasm_service::DELIVERIES_MAX;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TimerParams {
    /// Only those after this name.
    after: Option<String>,
    /// Maximum number of timers, 1 to 100; 100 by default.
    limit: Option<u32>,
}

/// Lists the timers that are set, by name, with their payloads.
#[utoipa::path(get, path = "/v1/apps/{app}/timers", tag = "triggers",
    params(("app" = String, Path), TimerParams), responses((status = 200, body = TimerPage)),
    security(("token" = ["script:read"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<TimerParams>,
) -> Result<JsonBody<TimerPage>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvRead).await?;
    let after = params.after.map(TimerName::parse).transpose()?;
    let limit = params.limit.unwrap_or(DELIVERIES_MAX);
    let admin = shared.host.admin();
    let page = admin.timers(&actor, &app, after.as_ref(), limit).await?;
    let last = page.rows.last().filter(|_| page.more);
    let next = last.and_then(|timer| match &timer.event.kind {
        EventKind::Timer { name, .. } => Some(name.to_string()),
        _ => None,
    });
    Ok(JsonBody(TimerPage {
        timers: page.rows.iter().filter_map(TimerView::new).collect(),
        more: page.more,
        next,
    }))
}

/// Cancels a timer. If its handler is running, it cannot commit.
#[utoipa::path(post, path = "/v1/apps/{app}/timers/cancel", tag = "triggers",
    params(("app" = String, Path)), request_body = TimerRequest,
    responses((status = 200, body = TimerDone)), security(("token" = ["script:write"])))]
pub(super) async fn cancel(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<TimerDone>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvWrite).await?;
    let request: TimerRequest = body::json(&shared, &headers, body).await?;
    let timer = TimerName::parse(request.timer)?;
    let done = shared
        .host
        .admin()
        .cancel_timer(&actor, &app, &timer)
        .await?;
    Ok(JsonBody(TimerDone { done }))
}

/// Makes a timer due now, unless its handler is running.
#[utoipa::path(post, path = "/v1/apps/{app}/timers/run", tag = "triggers",
    params(("app" = String, Path)), request_body = TimerRequest,
    responses((status = 200, body = TimerDone)), security(("token" = ["script:write"])))]
pub(super) async fn run(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<TimerDone>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvWrite).await?;
    let request: TimerRequest = body::json(&shared, &headers, body).await?;
    let timer = TimerName::parse(request.timer)?;
    let done = shared.host.admin().run_timer(&actor, &app, &timer).await?;
    shared.host.notifier().wake();
    Ok(JsonBody(TimerDone { done }))
}
