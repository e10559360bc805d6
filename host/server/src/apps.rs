//! Apps: their settings, limits and usage.

use super::SharedServer;
use super::access_log::note_app;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::param_types;
use super::params::{Params, Segments, page_limit};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use kvasm_api::{AppPage, AppPatch, AppView, NewApp, PausedView, TriggerView, UsageView};
use kvasm_core::{App, AppId, AppName, Capability};
use kvasm_service::{Actor, SeenGeneration, ServiceError};
use serde::Deserialize;
use utoipa::IntoParams;

/// Finds the app of a path, for an actor that holds the capability `needs` on it.
pub(super) async fn find(
    shared: &SharedServer,
    seen: &mut SeenGeneration,
    actor: &Actor,
    name: &str,
    needs: impl Fn(AppId) -> Capability,
) -> Result<App, Problem> {
    let name = AppName::parse(name)?;
    let app = shared.host.admin().find(seen, actor, &name, needs).await?;
    note_app(&app);
    Ok(app)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AppListParams {
    /// Cursor of the page.
    after: Option<String>,
    /// Maximum number of apps, 1 to 1,000; 100 by default. With `usage`, a page has at most
    /// 100.
    limit: Option<u32>,
    /// Whether the answer has the usage of each app.
    #[serde(default)]
    usage: bool,
}

/// Maximum number of apps in a page with their usage.
const USAGES_MAX: u32 = 100;

/// Lists apps. A token of one app lists only that app.
#[utoipa::path(get, path = "/v1/apps", tag = "apps", params(AppListParams),
    responses((status = 200, body = AppPage)), security(("token" = ["app:read"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, _): Authenticated,
    Params(params): Params<AppListParams>,
) -> Result<JsonBody<AppPage>, Problem> {
    let limit = page_limit(params.limit)?;
    let limit = match params.usage {
        true => limit.min(USAGES_MAX),
        false => limit,
    };
    let after = params.after.as_deref();
    let after = after.map(|name| {
        let refuse =
            |_| param_types::invalid_parameter("after", name, "the `next` of the previous page");
        AppName::parse(name).map_err(refuse)
    });
    let after = after.transpose()?;
    let apps = shared
        .host
        .admin()
        .apps(&actor, after.as_ref(), limit)
        .await?;
    let full = apps.len() == limit as usize;
    Ok(JsonBody(AppPage {
        next: apps.last().filter(|_| full).map(|app| app.name.to_string()),
        apps: views(&shared, &actor, &apps, params.usage).await?,
    }))
}

/// The views of apps, with their usage if asked for.
async fn views(
    shared: &SharedServer,
    actor: &Actor,
    apps: &[App],
    usage: bool,
) -> Result<Vec<AppView>, Problem> {
    let mut views = Vec::with_capacity(apps.len());
    for app in apps {
        let mut view = AppView::from(app);
        if usage {
            view.usage = match shared.host.admin().usage(actor, app).await {
                Ok(usage) => Some(UsageView::new(usage, app)),
                // Deleted since.
                Err(ServiceError::AppNotFound) => None,
                Err(error) => return Err(error.into()),
            };
        }
        views.push(view);
    }
    Ok(views)
}

/// Creates an app. Requires a token that is not bound to an app.
#[utoipa::path(post, path = "/v1/apps", tag = "apps", request_body = NewApp,
    responses((status = 201, body = AppView)), security(("token" = ["app:admin"])))]
pub(super) async fn create(
    State(shared): State<SharedServer>,
    Authenticated(actor, _): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, JsonBody<AppView>), Problem> {
    actor.require(Capability::AppCreate)?;
    let new: NewApp = body::json(&shared, &headers, body).await?;
    let name = AppName::parse(&new.name)?;
    let app = shared
        .host
        .admin()
        .create_app(&actor, name, new.public)
        .await?;
    Ok((StatusCode::CREATED, JsonBody(AppView::from(&app))))
}

/// Returns an app.
#[utoipa::path(get, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path)),
    responses((status = 200, body = AppView)), security(("token" = ["app:read"])))]
pub(super) async fn show(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
) -> Result<JsonBody<AppView>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    // Triggers that this build cannot decode hide the list of triggers, but not the app.
    let triggers = shared.host.admin().triggers(&actor, &app).await.ok();
    let paused = triggers.map(|triggers| {
        let views = triggers.iter().map(TriggerView::from);
        views.filter_map(PausedView::of).collect()
    });
    Ok(JsonBody(AppView {
        paused_triggers: paused,
        ..AppView::from(&app)
    }))
}

/// Changes an app.
#[utoipa::path(patch, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path)),
    request_body = AppPatch, responses((status = 200, body = AppView)),
    security(("token" = ["app:admin"])))]
pub(super) async fn change(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<AppView>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    let patch: AppPatch = body::json(&shared, &headers, body).await?;
    let admin = shared.host.admin();
    let app = admin.set_public(&actor, &app, patch.public).await?;
    Ok(JsonBody(AppView::from(&app)))
}

/// Deletes an app and everything it owns.
#[utoipa::path(delete, path = "/v1/apps/{app}", tag = "apps", params(("app" = String, Path)),
    responses((status = 204)), security(("token" = ["app:admin"])))]
pub(super) async fn delete(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
) -> Result<StatusCode, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    shared.host.delete_app(&actor, &app).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the usage and the limits of an app.
#[utoipa::path(get, path = "/v1/apps/{app}/usage", tag = "apps", params(("app" = String, Path)),
    responses((status = 200, body = UsageView)), security(("token" = ["app:read"])))]
pub(super) async fn usage(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
) -> Result<JsonBody<UsageView>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    let usage = shared.host.admin().usage(&actor, &app).await?;
    Ok(JsonBody(UsageView::new(usage, &app)))
}
