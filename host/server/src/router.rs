//! The routes.

use super::{
    SharedServer, apps, audit, batch, call_records, calls, console, dead_letters, deliveries,
    document, export, grants, health, import, kv, layer, limits, logs, overview, pages, plugins,
    settings, timers, tokens, triggers, try_handler, watch,
};
use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::any;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(OpenApi)]
#[openapi(
    info(title = "Kvasm", description = "Public calls of plugins, and the administration API. \
        Errors are RFC 9457 problem details. Every GET route also accepts HEAD."),
    // The path is added by hand: utoipa and axum write its wildcard differently.
    paths(calls::handle),
    modifiers(&BearerScheme)
)]
struct Api;

struct BearerScheme;

impl Modify for BearerScheme {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token with the required scope."));
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(token.build()));
    }
}

/// The routes of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routes {
    All,
    /// Function calls, pages of plugins, and health.
    Calls,
    /// All except pages of plugins.
    Api,
    /// The same, and the console.
    Console,
    /// Health and metrics.
    Health,
}

fn documented() -> OpenApiRouter<SharedServer> {
    OpenApiRouter::with_openapi(Api::openapi())
        .merge(health())
        .merge(metrics())
        .merge(calls())
        .merge(api())
}

fn health() -> OpenApiRouter<SharedServer> {
    OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
}

fn metrics() -> OpenApiRouter<SharedServer> {
    OpenApiRouter::new().routes(routes!(health::metrics))
}

fn calls() -> OpenApiRouter<SharedServer> {
    OpenApiRouter::new().routes(routes!(calls::call))
}

fn api() -> OpenApiRouter<SharedServer> {
    OpenApiRouter::new()
        .routes(routes!(apps::list, apps::create))
        .routes(routes!(apps::show, apps::change, apps::delete))
        .routes(routes!(limits::show, limits::replace, limits::change))
        .routes(routes!(apps::usage))
        .routes(routes!(plugins::list, plugins::upload))
        .routes(routes!(plugins::show, plugins::delete))
        .routes(routes!(plugins::activate))
        .routes(routes!(plugins::roll_back))
        .routes(routes!(plugins::functions))
        .routes(routes!(try_handler::request))
        .routes(routes!(kv::get, kv::put, kv::delete))
        .routes(routes!(kv::list))
        .routes(routes!(kv::collections))
        .routes(routes!(watch::watch))
        .routes(routes!(batch::commit))
        .routes(routes!(batch::get_many))
        .routes(routes!(batch::increment))
        .routes(routes!(export::export))
        .routes(routes!(import::import))
        .routes(routes!(settings::list_config))
        .routes(routes!(settings::set_config, settings::unset_config))
        .routes(routes!(settings::list_secrets))
        .routes(routes!(settings::set_secret, settings::unset_secret))
        .routes(routes!(grants::list, grants::add))
        .routes(routes!(grants::revoke))
        .routes(routes!(triggers::list))
        .routes(routes!(triggers::set, triggers::delete))
        .routes(routes!(triggers::pause))
        .routes(routes!(triggers::resume))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::discard))
        .routes(routes!(timers::list))
        .routes(routes!(timers::cancel))
        .routes(routes!(timers::run))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::show))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(tokens::list_of_app, tokens::create_for_app))
        .routes(routes!(tokens::revoke_of_app))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::show_own))
        .routes(routes!(tokens::revoke))
        .routes(routes!(logs::show))
        .routes(routes!(call_records::list))
        .routes(routes!(audit::list_of_app))
        .routes(routes!(audit::list))
        .routes(routes!(overview::show))
        .routes(routes!(describe))
}

/// The document that the handlers' annotations describe.
pub(super) fn described() -> utoipa::openapi::OpenApi {
    let (_, api) = documented().split_for_parts();
    api
}

/// Returns the OpenAPI document of all routes.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "health",
    responses((status = 200, content_type = "application/json")))]
async fn describe() -> impl IntoResponse {
    let json = [(axum::http::header::CONTENT_TYPE, "application/json")];
    (json, document::openapi())
}

pub(super) fn build(shared: SharedServer, routes: Routes) -> Router {
    let documented = match routes {
        Routes::All | Routes::Api | Routes::Console => documented(),
        Routes::Calls => health().merge(calls()),
        Routes::Health => health().merge(metrics()),
    };
    let (router, _) = documented.split_for_parts();
    let has_pages = matches!(routes, Routes::All | Routes::Calls);
    let router = match has_pages {
        true => router
            .route("/a/{app}", any(calls::handle))
            .route("/a/{app}/", any(calls::handle))
            .route("/a/{app}/{*path}", any(calls::handle)),
        false => router,
    };
    let domain = shared.options.pages.domain.clone();
    let router = match routes {
        Routes::Calls => router.fallback(layer::api_elsewhere),
        Routes::Console => router.merge(console::routes()).fallback(layer::not_found),
        Routes::All | Routes::Api | Routes::Health => router.fallback(layer::not_found),
    };
    let router = router
        .method_not_allowed_fallback(layer::method_not_allowed)
        .layer(from_fn_with_state(shared.clone(), layer::handle))
        .with_state(shared);
    match domain.filter(|_| has_pages) {
        // Around the router, because the host name decides on the route.
        Some(domain) => Router::new()
            .fallback_service(router)
            .layer(from_fn_with_state(domain, pages::by_host)),
        None => router,
    }
}
