//! What an app grants to its plugins.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::params::Segments;
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use kvasm_api::{GrantList, GrantPage, GrantedView, GrantsChanged};
use kvasm_core::{Capability, GRANTS_MAX, Grant, Invalid, Subject};

/// Lists what an app grants to its plugins.
#[utoipa::path(get, path = "/v1/apps/{app}/grants", tag = "grants",
    params(("app" = String, Path)), responses((status = 200, body = GrantPage)),
    security(("token" = ["app:read"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
) -> Result<JsonBody<GrantPage>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    let grants = shared.host.admin().grants(&actor, &app).await?;
    Ok(JsonBody(GrantPage {
        grants: grants.iter().map(GrantedView::from).collect(),
    }))
}

/// Grants permissions to the plugins of an app: all of the body, or none.
#[utoipa::path(post, path = "/v1/apps/{app}/grants", tag = "grants",
    params(("app" = String, Path)), request_body = GrantList,
    responses((status = 200, body = GrantsChanged)), security(("token" = ["app:admin"])))]
pub(super) async fn add(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<GrantsChanged>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    let grants = parse(&body::json(&shared, &headers, body).await?)?;
    let admin = shared.host.admin();
    let changed = admin.add_grants(&actor, &app, grants).await?;
    Ok(JsonBody(GrantsChanged { changed }))
}

/// Revokes grants of an app. The active version stays active, and its next use is refused.
#[utoipa::path(post, path = "/v1/apps/{app}/grants/revoke", tag = "grants",
    params(("app" = String, Path)), request_body = GrantList,
    responses((status = 200, body = GrantsChanged)), security(("token" = ["app:admin"])))]
pub(super) async fn revoke(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<GrantsChanged>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    let grants = parse(&body::json(&shared, &headers, body).await?)?;
    let admin = shared.host.admin();
    let changed = admin.revoke_grants(&actor, &app, grants).await?;
    Ok(JsonBody(GrantsChanged { changed }))
}

fn parse(list: &GrantList) -> Result<Vec<Grant>, Invalid> {
    if list.grants.is_empty() {
        return Err(Invalid::Empty(Subject::Grants));
    }
    Invalid::check_count(Subject::Grants, list.grants.len(), GRANTS_MAX as usize)?;
    list.grants.iter().map(Grant::try_from).collect()
}
