//! The overview of all hosts and apps.

use super::SharedServer;
use super::auth::Authenticated;
use super::body;
use super::params::{Params, refused};
use super::problem::Problem;
use axum::extract::State;
use axum::response::Response;
use kvasm_api::OverviewView;
use kvasm_core::AppId;
use kvasm_service::OverviewWindow;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct OverviewParams {
    /// How far back the series goes: `1h`, by minutes, or `1d`, by quarters of an hour; `1h` by
    /// default.
    window: Option<String>,
}

/// Returns the hosts, what they did, and what needs a person. Requires a token that is not bound to
/// an app.
#[utoipa::path(get, path = "/v1/overview", tag = "health", params(OverviewParams),
    responses((status = 200, body = OverviewView)), security(("token" = ["app:read"])))]
pub(super) async fn show(
    State(shared): State<SharedServer>,
    Authenticated(actor, _): Authenticated,
    Params(params): Params<OverviewParams>,
) -> Result<Response, Problem> {
    /// Approximate size of a part of the series.
    const PART: usize = 250;
    let window = match params.window.as_deref() {
        None | Some("1h") => OverviewWindow::Hour,
        Some("1d") => OverviewWindow::Day,
        Some(_) => return Err(refused("`window` must be `1h` or `1d`")),
    };
    let overview = shared.host.history().overview(&actor, window).await?;
    let tasks = shared.host.health().tasks().into_iter();
    let failing = tasks.filter(|task| task.failing.is_some());
    let failing = failing.map(|task| task.name.to_owned()).collect();
    let view = move || Ok(OverviewView::new(&overview, failing));
    body::large_answer(&shared, AppId::NONE, window.sums() * PART, view).await
}
