//! The audit log.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body;
use super::params::{Params, Segments, page_limit, refused};
use super::problem::Problem;
use axum::extract::State;
use axum::response::Response;
use kvasm_api::{AuditPage, AuditView};
use kvasm_core::{App, AppId, Capability};
use kvasm_service::Actor;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditListParams {
    /// Cursor of the page.
    before: Option<String>,
    /// Maximum number of rows, 1 to 1,000; 100 by default.
    limit: Option<u32>,
}

async fn page(
    shared: &SharedServer,
    actor: &Actor,
    app: Option<&App>,
    params: AuditListParams,
) -> Result<Response, Problem> {
    /// Approximate size of a row.
    const ROW: usize = 500;
    let limit = page_limit(params.limit)?;
    let before = params.before.as_deref().map(Uuid::try_parse).transpose();
    let before = before.map_err(|_| refused("`before` must be the id of a row"))?;
    let rows = shared.host.admin().audit(actor, app, before, limit).await?;
    let full = rows.len() == limit as usize;
    let app = app.map_or(AppId::NONE, |app| app.id);
    let bytes = rows.len() * ROW;
    let page = move || {
        Ok(AuditPage {
            next: rows.last().filter(|_| full).map(|row| row.id.to_string()),
            audit: rows.iter().map(AuditView::from).collect(),
        })
    };
    body::large_answer(shared, app, bytes, page).await
}

/// Lists operations of administrators, newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditListParams),
    responses((status = 200, body = AuditPage)), security(("token" = ["instance:admin"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, _): Authenticated,
    Params(params): Params<AuditListParams>,
) -> Result<Response, Problem> {
    page(&shared, &actor, None, params).await
}

/// Lists operations of administrators on an app, newest first.
#[utoipa::path(get, path = "/v1/apps/{app}/audit", tag = "audit",
    params(("app" = String, Path), AuditListParams), responses((status = 200, body = AuditPage)),
    security(("token" = ["app:admin"])))]
pub(super) async fn list_of_app(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<AuditListParams>,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    page(&shared, &actor, Some(&app), params).await
}
