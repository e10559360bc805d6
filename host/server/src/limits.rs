//! The limits of an app. The operator sets them individually or all together; with `If-Match`, only
//! if they are unchanged since they were read.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::params::{Segments, refused};
use super::preconditions::{Preconditions, set_etag};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use kvasm_api::{AppView, LimitsChange, LimitsView};
use kvasm_core::{App, AppLimits, Capability, LimitsPatch};
use kvasm_service::{Actor, ServiceError};
use sha2::{Digest as _, Sha256};

/// The ETag of limits: the same for equal limits.
fn tag(limits: &AppLimits) -> String {
    let LimitsView {
        entries,
        bytes,
        calls_per_second,
        calls_at_once,
    } = LimitsView::from(limits);
    let text = format!("{entries:?} {bytes:?} {calls_per_second:?} {calls_at_once:?}");
    let hash = Sha256::digest(text);
    let digits = hash.iter().take(8).map(|byte| format!("{byte:02x}"));
    digits.collect()
}

fn with_tag(limits: &AppLimits, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    set_etag(&mut response, &tag(limits));
    response
}

/// The limits that the request's `If-Match` expects, if any. Refuses the request at once if the app
/// has others. The store checks again when it applies the change.
fn check_if_match(headers: &HeaderMap, app: &App) -> Result<Option<AppLimits>, Problem> {
    let preconditions = Preconditions::of(headers)?;
    if !preconditions.allow_change(Some(&tag(&app.limits))) {
        return Err(ServiceError::LimitsChanged.into());
    }
    Ok(preconditions.name_tags().then_some(app.limits))
}

/// Returns the limits of an app. The ETag can be used in `If-Match`.
#[utoipa::path(get, path = "/v1/apps/{app}/limits", tag = "apps", params(("app" = String, Path)),
    responses((status = 200, body = LimitsView),
        (status = 304, description = "The limits are those of the ETag")),
    security(("token" = ["app:read"])))]
pub(super) async fn show(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    let preconditions = Preconditions::of(&headers)?;
    if let Some(answer) = preconditions.check_read(&tag(&app.limits))? {
        return Ok(answer);
    }
    Ok(with_tag(
        &app.limits,
        JsonBody(LimitsView::from(&app.limits)),
    ))
}

/// Replaces all four limits of an app.
///
/// With `If-Match: "etag"`, only if the current limits have that ETag.
#[utoipa::path(put, path = "/v1/apps/{app}/limits", tag = "apps", params(("app" = String, Path)),
    request_body = LimitsView, responses((status = 200, body = AppView)),
    security(("token" = ["instance:admin"])))]
pub(super) async fn replace(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, |_| {
        Capability::InstanceAdmin
    })
    .await?;
    let expected = check_if_match(&headers, &app)?;
    let limits: LimitsView = body::json(&shared, &headers, body).await?;
    let patch = LimitsPatch::from(AppLimits::from(limits));
    set(&shared, &actor, &app, patch, expected).await
}

/// Changes some limits of an app: absent limits stay unchanged, and null removes a limit.
///
/// With `If-Match: "etag"`, only if the current limits have that ETag.
#[utoipa::path(patch, path = "/v1/apps/{app}/limits", tag = "apps", params(("app" = String, Path)),
    request_body = LimitsChange, responses((status = 200, body = AppView)),
    security(("token" = ["instance:admin"])))]
pub(super) async fn change(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, |_| {
        Capability::InstanceAdmin
    })
    .await?;
    let expected = check_if_match(&headers, &app)?;
    let change: LimitsChange = body::json(&shared, &headers, body).await?;
    set(&shared, &actor, &app, change.into(), expected).await
}

async fn set(
    shared: &SharedServer,
    actor: &Actor,
    app: &App,
    patch: LimitsPatch,
    expected: Option<AppLimits>,
) -> Result<Response, Problem> {
    if patch == LimitsPatch::default() {
        return Err(refused(
            "no limit is given; set entries, bytes, calls_per_second or calls_at_once",
        ));
    }
    let sizes = [patch.entries, patch.bytes];
    if let Some(size) = sizes.into_iter().flatten().flatten().max()
        && i64::try_from(size).is_err()
    {
        let limit = i64::MAX;
        return Err(refused(format!(
            "the limit is {size}; it must be at most {limit}, or null for no limit"
        )));
    }
    if patch.calls_at_once == Some(Some(0)) {
        return Err(refused(
            "calls_at_once is 0; it must be at least 1, or null for no limit",
        ));
    }
    let admin = shared.host.admin();
    let app = admin.set_limits(actor, app, patch, expected).await?;
    Ok(with_tag(&app.limits, JsonBody(AppView::from(&app))))
}
