//! An app's configuration values and secrets.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::params::Segments;
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use kvasm_api::{ConfigPage, ConfigView, SecretPage, SecretView};
use kvasm_core::{Capability, ConfigValue, SETTING_BYTES_MAX, SettingKind, SettingName};
use zeroize::Zeroizing;

/// Lists an app's configuration values.
#[utoipa::path(get, path = "/v1/apps/{app}/config", tag = "settings",
    params(("app" = String, Path)), responses((status = 200, body = ConfigPage)),
    security(("token" = ["app:read"])))]
pub(super) async fn list_config(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
) -> Result<JsonBody<ConfigPage>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    let admin = shared.host.admin();
    let settings = admin.settings(&actor, &app, SettingKind::Config).await?;
    Ok(JsonBody(ConfigPage {
        config: settings.iter().filter_map(ConfigView::of).collect(),
    }))
}

/// Sets a configuration value: the body, which is text.
#[utoipa::path(put, path = "/v1/apps/{app}/config/{name}", tag = "settings",
    params(("app" = String, Path), ("name" = String, Path)),
    request_body(content = String, content_type = "text/plain"),
    responses((status = 204)), security(("token" = ["app:admin"])))]
pub(super) async fn set_config(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments((name, setting)): Segments<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    let setting = SettingName::parse(&setting)?;
    body::require_type(&headers, &["text/plain"])?;
    let value = body::read(&shared, body, SETTING_BYTES_MAX).await?;
    let value = ConfigValue::parse(&value)?;
    let admin = shared.host.admin();
    admin.set_config(&actor, &app, setting, value).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a configuration value.
#[utoipa::path(delete, path = "/v1/apps/{app}/config/{name}", tag = "settings",
    params(("app" = String, Path), ("name" = String, Path)), responses((status = 204)),
    security(("token" = ["app:admin"])))]
pub(super) async fn unset_config(
    state: State<SharedServer>,
    caller: Authenticated,
    names: Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    unset(state, caller, names, SettingKind::Config).await
}

/// Lists the names of an app's secrets. No route returns a secret.
#[utoipa::path(get, path = "/v1/apps/{app}/secrets", tag = "settings",
    params(("app" = String, Path)), responses((status = 200, body = SecretPage)),
    security(("token" = ["app:read"])))]
pub(super) async fn list_secrets(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
) -> Result<JsonBody<SecretPage>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    let admin = shared.host.admin();
    let settings = admin.settings(&actor, &app, SettingKind::Secret).await?;
    Ok(JsonBody(SecretPage {
        secrets: settings.iter().map(SecretView::from).collect(),
    }))
}

/// Sets a secret: the body, which may be any bytes.
#[utoipa::path(put, path = "/v1/apps/{app}/secrets/{name}", tag = "settings",
    params(("app" = String, Path), ("name" = String, Path)),
    request_body(content((Vec<u8> = "application/octet-stream"), (String = "text/plain"))),
    responses((status = 204)), security(("token" = ["app:admin"])))]
pub(super) async fn set_secret(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments((name, setting)): Segments<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    let setting = SettingName::parse(&setting)?;
    body::require_type(&headers, &["application/octet-stream", "text/plain"])?;
    let secret = Zeroizing::new(body::read(&shared, body, SETTING_BYTES_MAX).await?);
    let admin = shared.host.admin();
    admin.set_secret(&actor, &app, setting, &secret).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a secret.
#[utoipa::path(delete, path = "/v1/apps/{app}/secrets/{name}", tag = "settings",
    params(("app" = String, Path), ("name" = String, Path)), responses((status = 204)),
    security(("token" = ["app:admin"])))]
pub(super) async fn unset_secret(
    state: State<SharedServer>,
    caller: Authenticated,
    names: Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    unset(state, caller, names, SettingKind::Secret).await
}

async fn unset(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments((name, setting)): Segments<(String, String)>,
    kind: SettingKind,
) -> Result<StatusCode, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    let setting = SettingName::parse(&setting)?;
    let admin = shared.host.admin();
    admin.unset_setting(&actor, &app, kind, setting).await?;
    Ok(StatusCode::NO_CONTENT)
}
