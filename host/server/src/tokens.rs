//! Tokens of an app, and of the whole instance.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::params::{Params, Segments, page_limit, refused};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use kvasm_api::{NewToken, OwnToken, TokenMade, TokenPage, TokenView};
use kvasm_core::{App, Capability, Timestamp, TokenId};
use kvasm_service::{Actor, Expiry};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenListParams {
    /// Cursor of the page.
    after: Option<String>,
    /// Maximum number of tokens, 1 to 1,000; 100 by default.
    limit: Option<u32>,
}

/// Parses the id of a token in the path or the query. An invalid id is not repeated in the message:
/// it may be the token itself.
fn token_id(name: &str, text: &str) -> Result<TokenId, Problem> {
    let id = Uuid::try_parse(text).map_err(|_| {
        refused(format!(
            "the parameter {name:?} must be the id of a token: 32 hexadecimal digits"
        ))
    })?;
    Ok(TokenId(id))
}

async fn page(
    shared: &SharedServer,
    actor: &Actor,
    app: Option<&App>,
    params: TokenListParams,
) -> Result<JsonBody<TokenPage>, Problem> {
    let limit = page_limit(params.limit)?;
    let after = params.after.as_deref();
    let after = after.map(|after| token_id("after", after)).transpose()?;
    let rows = shared.host.admin().tokens(actor, app, after, limit).await?;
    let full = rows.len() == limit as usize;
    Ok(JsonBody(TokenPage {
        next: rows.last().filter(|_| full).map(|row| row.id.to_string()),
        tokens: rows.iter().map(TokenView::from).collect(),
    }))
}

/// Validates the expiry time of a token.
fn expiry(at: Timestamp) -> Result<Timestamp, Problem> {
    if at <= Timestamp::now() {
        return Err(refused(
            "expires_at is in the past; it is in milliseconds since 1970",
        ));
    }
    if at >= Timestamp::END {
        return Err(refused(
            "expires_at is after the year 9999; it is in milliseconds since 1970, and null \
             for a token that does not expire",
        ));
    }
    Ok(at)
}

async fn make(
    shared: &SharedServer,
    actor: &Actor,
    app: Option<&App>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(StatusCode, JsonBody<TokenMade>), Problem> {
    let new: NewToken = body::json(shared, headers, body).await?;
    let scopes = new.scopes.iter().map(|scope| scope.parse());
    let scopes = scopes.collect::<Result<_, kvasm_core::UnknownScope>>();
    let expires_at = match new.expires_at {
        None => Expiry::WithMaker,
        Some(None) => Expiry::Never,
        Some(Some(at)) => Expiry::At(expiry(Timestamp(at))?),
    };
    let new = kvasm_service::TokenSpec {
        name: new.name,
        scopes: scopes.map_err(|e| refused(e.to_string()))?,
        expires_at,
    };
    let (token, bearer) = shared.host.admin().create_token(actor, app, new).await?;
    let made = TokenMade {
        secret: bearer.reveal(),
        token: TokenView::from(&token),
    };
    Ok((StatusCode::CREATED, JsonBody(made)))
}

/// Returns the token of the request.
#[utoipa::path(get, path = "/v1/token", tag = "tokens",
    responses((status = 200, body = OwnToken)), security(("token" = [])))]
pub(super) async fn show_own(Authenticated(actor, _): Authenticated) -> JsonBody<OwnToken> {
    let principal = actor.principal();
    JsonBody(OwnToken {
        id: actor.token().map(|id| id.to_string()),
        name: actor.name().to_owned(),
        scopes: principal.scopes().iter().map(ToString::to_string).collect(),
        app: principal.app().map(|app| app.to_string()),
        expires_at: actor.expires_at().map(|at| at.0),
    })
}

/// Lists all tokens.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", params(TokenListParams),
    responses((status = 200, body = TokenPage)), security(("token" = ["instance:admin"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, _): Authenticated,
    Params(params): Params<TokenListParams>,
) -> Result<JsonBody<TokenPage>, Problem> {
    page(&shared, &actor, None, params).await
}

/// Creates a token for every app.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = NewToken,
    responses((status = 201, body = TokenMade)), security(("token" = ["instance:admin"])))]
pub(super) async fn create(
    State(shared): State<SharedServer>,
    Authenticated(actor, _): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, JsonBody<TokenMade>), Problem> {
    actor.require(Capability::InstanceAdmin)?;
    make(&shared, &actor, None, &headers, body).await
}

/// Revokes any token.
#[utoipa::path(delete, path = "/v1/tokens/{token}", tag = "tokens",
    params(("token" = String, Path)), responses((status = 204)),
    security(("token" = ["instance:admin"])))]
pub(super) async fn revoke(
    State(shared): State<SharedServer>,
    Authenticated(actor, _): Authenticated,
    Segments(token): Segments<String>,
) -> Result<StatusCode, Problem> {
    actor.require(Capability::InstanceAdmin)?;
    let token = token_id("token", &token)?;
    shared
        .host
        .admin()
        .revoke_token(&actor, None, token)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists an app's tokens.
#[utoipa::path(get, path = "/v1/apps/{app}/tokens", tag = "tokens",
    params(("app" = String, Path), TokenListParams), responses((status = 200, body = TokenPage)),
    security(("token" = ["app:admin"])))]
pub(super) async fn list_of_app(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<TokenListParams>,
) -> Result<JsonBody<TokenPage>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    page(&shared, &actor, Some(&app), params).await
}

/// Creates a token for one app. It cannot grant more than its creator has.
#[utoipa::path(post, path = "/v1/apps/{app}/tokens", tag = "tokens",
    params(("app" = String, Path)), request_body = NewToken,
    responses((status = 201, body = TokenMade)), security(("token" = ["app:admin"])))]
pub(super) async fn create_for_app(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, JsonBody<TokenMade>), Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    make(&shared, &actor, Some(&app), &headers, body).await
}

/// Revokes a token of an app.
#[utoipa::path(delete, path = "/v1/apps/{app}/tokens/{token}", tag = "tokens",
    params(("app" = String, Path), ("token" = String, Path)), responses((status = 204)),
    security(("token" = ["app:admin"])))]
pub(super) async fn revoke_of_app(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments((name, token)): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    let token = token_id("token", &token)?;
    let admin = shared.host.admin();
    admin.revoke_token(&actor, Some(&app), token).await?;
    Ok(StatusCode::NO_CONTENT)
}
