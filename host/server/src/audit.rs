//! The audit log.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body;
use super::params::{Params, Segments, check_range, page_limit, refused};
use super::problem::Problem;
use axum::extract::State;
use axum::response::Response;
use kvasm_api::{AuditPage, AuditView};
use kvasm_core::{App, AppId, AppName, Capability, Timestamp};
use kvasm_service::{Actor, AuditQuery};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

/// The maximum lengths of an actor's name, which is that of a token, and of an action.
const ACTOR_BYTES_MAX: usize = 128;
const ACTION_BYTES_MAX: usize = 64;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditListParams {
    /// Cursor of the page.
    before: Option<String>,
    /// Maximum number of rows, 1 to 1,000; 100 by default.
    limit: Option<u32>,
    /// Only operations of this actor: the name of a token or of a command.
    actor: Option<String>,
    /// Only this operation, such as `token.create`, or those of this kind, such as `token`.
    action: Option<String>,
    /// Only operations at or after this time.
    since: Option<i64>,
    /// Only operations before this time.
    until: Option<i64>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditSearchParams {
    /// Cursor of the page.
    before: Option<String>,
    /// Maximum number of rows, 1 to 1,000; 100 by default.
    limit: Option<u32>,
    /// Only operations of this actor: the name of a token or of a command.
    actor: Option<String>,
    /// Only this operation, such as `token.create`, or those of this kind, such as `token`.
    action: Option<String>,
    /// Only operations on apps of this name, also deleted ones.
    app: Option<String>,
    /// Only operations at or after this time.
    since: Option<i64>,
    /// Only operations before this time.
    until: Option<i64>,
}

impl AuditListParams {
    fn query(self) -> Result<AuditQuery, Problem> {
        let before = self.before.as_deref().map(Uuid::try_parse).transpose();
        let before = before.map_err(|_| refused("`before` must be the id of a row"))?;
        let is_name = |name: &str| {
            (1..=ACTOR_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
        };
        if !self.actor.as_deref().is_none_or(is_name) {
            let why =
                "`actor` must be the name of a token: 1 to 128 bytes without control characters";
            return Err(refused(why));
        }
        let is_action = |name: &str| {
            let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
            let mut words = name.split('.');
            name.len() <= ACTION_BYTES_MAX
                && words.all(|word| !word.is_empty() && word.chars().all(is_word))
        };
        if !self.action.as_deref().is_none_or(is_action) {
            return Err(refused(
                "`action` must be such as `token.create` or `token`",
            ));
        }
        check_range("since", self.since, self.until)?;
        Ok(AuditQuery {
            actor: self.actor,
            action: self.action,
            app: None,
            since: self.since.map(Timestamp),
            until: self.until.map(Timestamp),
            before,
            limit: page_limit(self.limit)?,
        })
    }
}

impl AuditSearchParams {
    fn query(self) -> Result<AuditQuery, Problem> {
        let app = self.app.as_deref().map(AppName::parse).transpose()?;
        let of_app = AuditListParams {
            before: self.before,
            limit: self.limit,
            actor: self.actor,
            action: self.action,
            since: self.since,
            until: self.until,
        };
        let query = of_app.query()?;
        Ok(AuditQuery { app, ..query })
    }
}

async fn page(
    shared: &SharedServer,
    actor: &Actor,
    app: Option<&App>,
    query: AuditQuery,
) -> Result<Response, Problem> {
    /// Approximate size of a row.
    const ROW: usize = 500;
    let found = shared.host.admin().audit(actor, app, &query).await?;
    let app = app.map_or(AppId::NONE, |app| app.id);
    let bytes = found.rows.len() * ROW;
    let page = move || {
        Ok(AuditPage {
            next: found.next.map(|next| next.to_string()),
            audit: found.rows.iter().map(AuditView::from).collect(),
        })
    };
    body::large_answer(shared, app, bytes, page).await
}

/// Lists operations of administrators, newest first.
///
/// A page of a search may have few rows, or none, and still a `next`: each request reads a bounded part of
/// the log.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditSearchParams),
    responses((status = 200, body = AuditPage)), security(("token" = ["instance:admin"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, _): Authenticated,
    Params(params): Params<AuditSearchParams>,
) -> Result<Response, Problem> {
    // Before the parameters are read: a refusal of them would say that the caller is let in.
    actor.require(Capability::InstanceAdmin)?;
    page(&shared, &actor, None, params.query()?).await
}

/// Lists operations of administrators on an app, newest first.
///
/// A page of a search may have few rows, or none, and still a `next`: each request reads a bounded part of
/// the log.
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
    page(&shared, &actor, Some(&app), params.query()?).await
}
