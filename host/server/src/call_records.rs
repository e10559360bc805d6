//! Records of an app's calls, as JSON Lines.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body;
use super::logs::KVASM_NEXT;
use super::params::{Params, Segments, check_range, refused};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use kvasm_api::CallView;
use kvasm_core::{Capability, Timestamp, TriggerName};
use kvasm_service::{CALL_OUTCOMES, CallFilter, CallPage, CallQuery, LogCursor, ServiceError};
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;
use uuid::Uuid;

/// The number of calls in the range of the page that were not recorded.
const KVASM_LEFT_OUT: HeaderName = HeaderName::from_static("kvasm-left-out");
/// Maximum number of calls of a response.
const PAGE_CALLS_MAX: usize = 10_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct CallParams {
    /// Number of calls, the newest ones; 100 by default. A response has at most 10,000, whatever is
    /// asked for.
    limit: Option<u32>,
    /// Only calls that ended at or after this time.
    since: Option<i64>,
    /// Only calls that ended before this time.
    until: Option<i64>,
    /// Only calls of this function.
    function: Option<String>,
    /// Only attempts of deliveries of this trigger.
    trigger: Option<String>,
    /// Only calls with this outcome.
    outcome: Option<String>,
    /// Only calls that failed.
    #[serde(default)]
    failed: bool,
    /// Only calls that took at least this many microseconds.
    slower_us: Option<u64>,
    /// Only the call of the request with this id.
    request: Option<String>,
    /// Only calls before this place: the `Kvasm-Next` of the previous page.
    before: Option<String>,
}

/// Returns the newest calls of an app's plugin, oldest first.
///
/// If there may be older ones, the header `Kvasm-Next` has the cursor of the next page, to pass as
/// `before`. If calls in the range of the page were not recorded, `Kvasm-Left-Out` has their number.
#[utoipa::path(get, path = "/v1/apps/{app}/calls", tag = "logs",
    params(("app" = String, Path), CallParams),
    responses((status = 200, body = CallView, content_type = "application/jsonl")),
    security(("token" = ["log:read"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<CallParams>,
) -> Result<Response, Problem> {
    /// Approximate size of a line.
    const LINE: usize = 500;
    let app = find(&shared, &mut seen, &actor, &name, Capability::LogRead).await?;
    let before = params.before.as_deref().map(str::parse::<LogCursor>);
    let limit = params.limit.map_or(100, |limit| limit as usize);
    let query = CallQuery {
        before: before
            .transpose()
            .map_err(|()| refused("`before` must be the `Kvasm-Next` of a page"))?,
        filter: filter(params)?,
        after: 0,
        limit: limit.min(PAGE_CALLS_MAX),
    };
    let page = shared.host.call_keeper().page(app.id, &query).await;
    let page = CallPage::from(page.map_err(ServiceError::from)?);
    let bytes = page.calls.len() * LINE;
    let lines = body::json_lines(&shared, app.id, bytes, page.calls, |call| {
        CallView::from(call)
    });
    let body = Body::from(lines.await?);
    let mut response = ([(CONTENT_TYPE, "application/jsonl")], body).into_response();
    let headers = response.headers_mut();
    if page.left_out > 0 {
        headers.insert(KVASM_LEFT_OUT, page.left_out.into());
    }
    if let Some(Ok(older)) = page.older.map(|at| HeaderValue::try_from(at.to_string())) {
        headers.insert(KVASM_NEXT, older);
    }
    Ok(response)
}

fn filter(params: CallParams) -> Result<CallFilter, Problem> {
    check_range("since", params.since, params.until)?;
    let request = params.request.as_deref().map(Uuid::try_parse);
    let is_known = |outcome: &String| CALL_OUTCOMES.contains(&outcome.as_str());
    if !params.outcome.as_ref().is_none_or(is_known) {
        let words = CALL_OUTCOMES.join(", ");
        return Err(refused(format!("`outcome` must be one of {words}")));
    }
    let trigger = (params.trigger.as_deref())
        .map(TriggerName::parse)
        .transpose()?;
    Ok(CallFilter {
        since: params.since.map(Timestamp),
        until: params.until.map(Timestamp),
        request: request
            .transpose()
            .map_err(|_| refused("`request` must be the UUID of a request"))?,
        function: params.function,
        trigger: trigger.map(|name| name.as_str().to_owned()),
        outcome: params.outcome,
        failed: params.failed,
        slower: Duration::from_micros(params.slower_us.unwrap_or(0)),
    })
}
