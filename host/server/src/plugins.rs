//! The plugin versions of an app.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::params::{Params, Segments, page_limit};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use kvasm_api::{
    Activated, DeclaredView, Deployed, Functions, NeedChangesView, NeedsView, PluginPage,
    PluginView,
};
use kvasm_core::{Capability, Exports, PluginRecord, PluginVersion};
use kvasm_service::ServiceError;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PluginListParams {
    /// Cursor of the page.
    before: Option<u32>,
    /// Maximum number of versions, 1 to 1,000; 100 by default.
    limit: Option<u32>,
}

/// Lists an app's plugin versions, newest first.
#[utoipa::path(get, path = "/v1/apps/{app}/plugins", tag = "plugins",
    params(("app" = String, Path), PluginListParams), responses((status = 200, body = PluginPage)),
    security(("token" = ["app:read"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<PluginListParams>,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    let limit = page_limit(params.limit)?;
    let before = params.before.map(PluginVersion);
    let rows = shared.host.admin().plugins(&actor, &app, before, limit);
    let rows = rows.await?;
    let full = rows.len() == limit as usize;
    let bytes = rows.iter().map(plugin_bytes).sum();
    let id = app.id;
    let page = move || {
        Ok(PluginPage {
            next: rows.last().filter(|_| full).map(|row| row.version.0),
            plugins: rows.iter().map(|row| PluginView::new(row, &app)).collect(),
        })
    };
    body::large_answer(&shared, id, bytes, page).await
}

/// Approximate size of a version as JSON. Function names can be long and numerous.
fn plugin_bytes(plugin: &PluginRecord) -> usize {
    const FRAME: usize = 300;
    let names = plugin.exports.functions.iter().map(|name| name.len() + 4);
    let needs = &plugin.exports.needs;
    let parts = plugin.exports.triggers.len() + needs.len();
    FRAME + names.sum::<usize>() + needs.bytes() + FRAME * parts
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct UploadParams {
    /// Whether to activate the version; true by default.
    activate: Option<bool>,
}

/// Uploads a module as a new version. It is compiled and validated before it is stored.
#[utoipa::path(post, path = "/v1/apps/{app}/plugins", tag = "plugins",
    params(("app" = String, Path), UploadParams),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 201, body = Deployed)), security(("token" = ["plugin:deploy"])))]
pub(super) async fn upload(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<UploadParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, JsonBody<Deployed>), Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::PluginDeploy).await?;
    body::require_type(&headers, &["application/wasm", "application/octet-stream"])?;
    let limit = shared.host.limits().module_bytes;
    let wasm = body::read(&shared, body, limit).await?;
    let active = params.activate.unwrap_or(true);
    let deployed = shared.host.deploy(&actor, &app, wasm, active).await?;
    let (version, digest, exports) = deployed;
    let Exports {
        functions,
        http,
        triggers,
        needs,
    } = exports;
    let changes = shared
        .host
        .admin()
        .need_changes(&actor, &app, &needs)
        .await?;
    let deployed = Deployed {
        version: version.0,
        active,
        digest: digest.to_string(),
        functions,
        http,
        triggers: triggers.iter().map(DeclaredView::from).collect(),
        needs: NeedsView::from(&needs),
        changes: NeedChangesView::from(&changes),
    };
    Ok((StatusCode::CREATED, JsonBody(deployed)))
}

/// Returns a version.
#[utoipa::path(get, path = "/v1/apps/{app}/plugins/{version}", tag = "plugins",
    params(("app" = String, Path), ("version" = u32, Path)),
    responses((status = 200, body = PluginView)), security(("token" = ["app:read"])))]
pub(super) async fn show(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments((name, version)): Segments<(String, u32)>,
) -> Result<JsonBody<PluginView>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    let plugin = shared
        .host
        .admin()
        .plugin(&actor, &app, PluginVersion(version));
    Ok(JsonBody(PluginView::new(&plugin.await?, &app)))
}

/// Deletes an inactive version.
#[utoipa::path(delete, path = "/v1/apps/{app}/plugins/{version}", tag = "plugins",
    params(("app" = String, Path), ("version" = u32, Path)), responses((status = 204)),
    security(("token" = ["plugin:deploy"])))]
pub(super) async fn delete(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments((name, version)): Segments<(String, u32)>,
) -> Result<StatusCode, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::PluginDeploy).await?;
    shared
        .host
        .delete_plugin(&actor, &app, PluginVersion(version))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Activates a version. Running calls finish on the version that they started with.
#[utoipa::path(post, path = "/v1/apps/{app}/plugins/{version}/activate", tag = "plugins",
    params(("app" = String, Path), ("version" = u32, Path)),
    responses((status = 200, body = Activated)), security(("token" = ["plugin:deploy"])))]
pub(super) async fn activate(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments((name, version)): Segments<(String, u32)>,
) -> Result<JsonBody<Activated>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::PluginDeploy).await?;
    let admin = shared.host.admin();
    let activate = admin.activate_plugin(&actor, &app, PluginVersion(version));
    activate.await?;
    Ok(JsonBody(Activated { version }))
}

/// Activates the version that the active one replaced.
#[utoipa::path(post, path = "/v1/apps/{app}/rollback", tag = "plugins",
    params(("app" = String, Path)), responses((status = 200, body = Activated)),
    security(("token" = ["plugin:deploy"])))]
pub(super) async fn roll_back(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
) -> Result<JsonBody<Activated>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::PluginDeploy).await?;
    let version = shared.host.admin().roll_back_plugin(&actor, &app).await?;
    Ok(JsonBody(Activated { version: version.0 }))
}

/// Lists the functions and handlers of the active version.
#[utoipa::path(get, path = "/v1/apps/{app}/functions", tag = "plugins",
    params(("app" = String, Path)), responses((status = 200, body = Functions)),
    security(("token" = ["app:read"])))]
pub(super) async fn functions(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
) -> Result<JsonBody<Functions>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    let active = app.active.ok_or(ServiceError::NoActivePlugin)?;
    let plugin = shared.host.admin().plugin(&actor, &app, active.version);
    let Exports {
        functions,
        http,
        triggers,
        needs,
    } = plugin.await?.exports;
    Ok(JsonBody(Functions {
        version: active.version.0,
        functions,
        http,
        triggers: triggers.iter().map(DeclaredView::from).collect(),
        needs: NeedsView::from(&needs),
    }))
}
