//! Access of a request whose response stays open: it is checked again while it lasts.

use super::SharedServer;
use super::apps::find;
use super::auth;
use axum::http::HeaderMap;
use kvasm_core::{App, AppId, Capability};
use kvasm_service::SeenGeneration;
use uuid::Uuid;

/// Why a response must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LostAccess {
    /// The token is revoked or has expired. Its scopes never change.
    Token,
    /// The app was deleted; another one may have its name now.
    AppDeleted,
}

/// Checks the sender of these headers again. Returns why it may no longer read from the app. If the
/// store is unavailable it still may: it is asked again later.
pub(super) async fn lost_access(
    shared: &SharedServer,
    headers: &HeaderMap,
    id: Uuid,
    app: &App,
    capability: fn(AppId) -> Capability,
) -> Option<LostAccess> {
    let mut seen = SeenGeneration::default();
    let actor = match auth::authenticate(shared, &mut seen, headers, id).await {
        Ok(Some(actor)) => actor,
        Err(problem) if problem.is_server_error() => return None,
        Ok(None) | Err(_) => return Some(LostAccess::Token),
    };
    match find(shared, &mut seen, &actor, app.name.as_str(), capability).await {
        Ok(found) if found.id == app.id => None,
        Ok(_) => Some(LostAccess::AppDeleted),
        Err(problem) if problem.is_server_error() => None,
        Err(problem) if problem.is_app_not_found() => Some(LostAccess::AppDeleted),
        Err(_) => Some(LostAccess::Token),
    }
}
