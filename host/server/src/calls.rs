//! Calls of functions by name, and of the plugin's HTTP handler.

use super::SharedServer;
use super::access_log::note_app;
use super::auth::{self, OptionalAuth, token_required};
use super::body;
use super::call_problem::Audience;
use super::client_address::ClientView;
use super::cost;
use super::idempotency::{self, identify};
use super::pages::OwnOrigin;
use super::params::Segments;
use super::plugin_headers::{self, PageOrigin};
use super::problem::{Kind, Problem};
use super::request_ids::RequestIds;
#[cfg(any(test, feature = "fuzzing"))]
use super::sandbox::Sandbox;
use super::stream::Peer;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use kvasm_abi::http::{STATUSES, STATUSES_WITHOUT_BODY, prefix, split};
use kvasm_core::{App, AppName, Cost, Principal, display_truncated};
use kvasm_host::{Call, InvokeError};
use kvasm_runtime::Response as Answer;
use kvasm_service::{Actor, SeenGeneration, ServiceError};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// Maximum size of the head of a plugin's response. It is JSON, which may take six bytes for one
/// byte of a header.
const ANSWER_HEAD_BYTES_MAX: usize = 512 * 1024;

/// Finds the called app and authorises the caller.
///
/// A token of another app is refused whether or not this app exists, and a call without a token is
/// allowed only for a public app.
async fn authorise_call(
    shared: &SharedServer,
    seen: &mut SeenGeneration,
    actor: Option<&Actor>,
    name: &str,
) -> Result<(Arc<App>, Option<Principal>), Problem> {
    let name = AppName::parse(name)?;
    let app = shared.host.access().app(seen, &name).await;
    let app = app.map_err(ServiceError::from)?;
    if let Some(app) = &app {
        note_app(app);
    }
    let principal = actor.map(Actor::principal);
    if let Some(bound) = principal.and_then(Principal::app)
        && app.as_ref().is_none_or(|app| app.id != bound)
    {
        return Err(Problem::new(
            Kind::Forbidden,
            "the token is not valid for this app",
        ));
    }
    let not_found = || Problem::new(Kind::AppNotFound, "the app does not exist");
    match (principal, app) {
        (Some(principal), Some(app)) => Ok((app, Some(principal.clone()))),
        (Some(_), None) => Err(not_found()),
        (None, Some(app)) if app.public => Ok((app, None)),
        // The existence of an app that is not public is not disclosed to everyone.
        (None, _) => Err(token_required()),
    }
}

/// Calls a function of the app's active plugin.
///
/// The request body is its input and the response body its output, both uninterpreted. With a
/// token, the plugin can access entries as permitted by the token's scopes. Without a token, which
/// the app must allow, the plugin itself decides what is permitted.
#[utoipa::path(post, path = "/v1/apps/{app}/call/{function}", tag = "calls",
    params(("app" = String, Path), ("function" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the call take effect once: a repeat with the same key and body gets the kept answer. 1 to 255 visible ASCII characters, with or without quotation marks"),
        ("Kvasm-Cost" = Option<String>, Header, description = "`?1` asks for the cost of the call, which requires a token with `log:read`")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream",
        headers(
            ("Idempotency-Replayed" = String, description = "`true` if it is the kept answer of an earlier request with the same key"),
            ("Kvasm-Cost" = String, description = "Runs, memory, reads, writes and host calls, as a dictionary (RFC 9651); if asked for"),
            ("Server-Timing" = String, description = "CPU time, as `cpu`; if asked for")))),
    security((), ("token" = [])))]
pub(super) async fn call(
    State(shared): State<SharedServer>,
    OptionalAuth(actor, mut seen): OptionalAuth,
    Segments((name, function)): Segments<(String, String)>,
    Extension(ids): Extension<RequestIds>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (app, principal) = authorise_call(&shared, &mut seen, actor.as_ref(), &name).await?;
    let audience = Audience::of(&app, principal.as_ref());
    let shows_cost = cost::is_shown(&headers, audience);
    let key = idempotency::key_of(&headers)?;
    let call = Call::function(function).request_id(ids.request);
    let call = call.recorder(ids.recorder);
    let call = identify(call.trace(ids.trace), actor.as_ref(), principal, key);
    // Before the body is read, since the body of most refused calls need not be sent.
    let admitted = shared.host.admit(app, call).await;
    let entered = admitted.map_err(|error| Problem::of_call(error, audience))?;
    let limit = shared.host.limits().input_bytes;
    let input = body::read_pieces(&shared, Vec::new(), body, limit).await?;
    let left = client_disconnected(peer.map(|Extension(peer)| peer));
    let answer = entered.call_unless(input, left).await;
    let used = shows_cost.then(|| cost_of(&answer)).flatten();
    let answer = answer.map_err(|error| Problem::of_call(error, audience).with_cost(used))?;
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        // Plugins are untrusted: a browser must not render their output as a page.
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let mut response = (headers, answer.output).into_response();
    idempotency::mark(response.headers_mut(), answer.replayed);
    Ok(with_cost(response, used))
}

/// Returns what a call used, if the plugin ran.
pub(super) fn cost_of(answer: &Result<Answer, InvokeError>) -> Option<Cost> {
    match answer {
        Ok(answer) => Some(answer.cost),
        Err(error) => error.cost().copied(),
    }
}

pub(super) fn with_cost(mut response: Response, used: Option<Cost>) -> Response {
    if let Some(used) = used {
        cost::add(response.headers_mut(), &used);
    }
    response
}

/// Waits until the client has disconnected; indefinitely, if its connection is unknown.
pub(super) async fn client_disconnected(peer: Option<Peer>) {
    match peer {
        Some(peer) => peer.disconnected().await,
        None => std::future::pending().await,
    }
}

/// A request as the plugin receives it, apart from its body.
#[derive(Serialize)]
pub(super) struct RequestHead<'r> {
    pub(super) method: &'r str,
    pub(super) path: &'r str,
    pub(super) query: &'r str,
    pub(super) headers: Vec<(&'r str, &'r str)>,
    /// The path of the app, before `path`.
    pub(super) mount: String,
    pub(super) scheme: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) authority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client: Option<IpAddr>,
}

#[derive(Deserialize)]
struct ResponseHead {
    status: u16,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

/// Passes a request to the HTTP handler of the app's active plugin.
///
/// The plugin receives the path after the app's name, and an Authorization header unless it
/// contains a token of the host.
#[utoipa::path(method(get, head, post, put, patch, delete, options), path = "/a/{app}/{path}",
    tag = "calls", params(("app" = String, Path), ("path" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the request take effect once: a repeat with the same key and body gets the kept answer. 1 to 255 visible ASCII characters, with or without quotation marks; ignored for GET, HEAD and OPTIONS"),
        ("Kvasm-Cost" = Option<String>, Header, description = "`?1` asks for the cost of the call, which requires a token with `log:read`")),
    responses((status = "default", description = "The plugin's response",
        headers(
            ("Idempotency-Replayed" = String, description = "`true` if it is the kept answer of an earlier request with the same key"),
            ("Kvasm-Cost" = String, description = "Runs, memory, reads, writes and host calls, as a dictionary (RFC 9651); if asked for"),
            ("Server-Timing" = String, description = "CPU time, as `cpu`; if asked for")))),
    security((), ("token" = [])))]
pub(super) async fn handle(
    State(shared): State<SharedServer>,
    Extension(ids): Extension<RequestIds>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let mut seen = SeenGeneration::default();
    let id = ids.request;
    let actor = auth::authenticate_plugin_request(&shared, &mut seen, &parts.headers, id).await?;
    let (name, path) = split_path(parts.uri.path());
    let pages = &shared.options.pages;
    let has_own_origin = parts.extensions.get::<OwnOrigin>().is_some();
    if !has_own_origin && !pages.paths {
        let detail = "pages of plugins are served at host names of their own, not at a path";
        return Err(Problem::new(Kind::RouteNotFound, detail));
    }
    if is_wide_service_worker(&parts) {
        let detail = "a service worker here could control other apps; place it below /a/{app}/";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let (app, principal) = authorise_call(&shared, &mut seen, actor.as_ref(), name).await?;
    let (id_of_app, name) = (app.id, app.name.clone());
    let audience = Audience::of(&app, principal.as_ref());
    let shows_cost = cost::is_shown(&parts.headers, audience);
    let key = idempotency::key_of_handled(&parts.method, &parts.headers)?;
    let call = Call::http().request_id(id).trace(ids.trace.clone());
    let call = call.recorder(ids.recorder.clone());
    let call = identify(call, actor.as_ref(), principal, key);
    let admitted = shared.host.admit(Arc::clone(&app), call).await;
    let entered = admitted.map_err(|error| Problem::of_handler(error, audience))?;
    let limit = shared.host.limits().input_bytes;
    let trace = ids.is_continued.then(|| ids.trace.parent());
    let trace = trace.as_deref().map(|parent| (parent, ids.trace.state()));
    let client = ClientView::of(&parts, &shared.options.trusted_proxies);
    let head = RequestHead {
        method: parts.method.as_str(),
        path,
        query: parts.uri.query().unwrap_or_default(),
        headers: plugin_headers::of_request(&parts.headers, trace),
        mount: match has_own_origin {
            true => String::new(),
            false => format!("/a/{name}"),
        },
        scheme: client.scheme,
        authority: client.authority,
        client: client.address,
    };
    let head = encode_request_head(&head)?;
    // The limit applies to the guest's whole input.
    let input = body::read_pieces(&shared, head, body, limit).await?;
    let left = client_disconnected(parts.extensions.get().cloned());
    let answer = entered.call_unless(input, left).await;
    let used = shows_cost.then(|| cost_of(&answer)).flatten();
    let answer = answer.map_err(|error| Problem::of_handler(error, audience).with_cost(used))?;
    let replayed = answer.replayed;
    let output = Bytes::from(answer.output);
    // The body is not interpreted.
    let head = split(&output).map_or(0, |(head, _)| head.len());
    let origin = match has_own_origin {
        true => PageOrigin::Own,
        false => PageOrigin::Shared {
            app: name,
            sandbox: shared.options.pages.sandbox,
        },
    };
    let parse = {
        let (host, trace_id) = (shared.host.clone(), ids.trace.trace_id());
        move || {
            parse_response(output, &origin).map_err(|why| {
                host.log_invalid_answer(&app, id, Some(trace_id), &why);
                Problem::of_invalid_response(why, audience)
            })
        }
    };
    match shared.aside.by_size(id_of_app, head, parse).await {
        Ok(mut response) => {
            idempotency::mark(response.headers_mut(), replayed);
            Ok(with_cost(response, used))
        }
        Err(problem) => Err(problem.with_cost(used)),
    }
}

/// Splits `/a/{app}/{rest}` into the app's name and the rest, both still encoded. Names never need
/// percent-encoding, so an encoded name matches no app.
fn split_path(path: &str) -> (&str, &str) {
    let rest = path.strip_prefix("/a/").unwrap_or_default();
    match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    }
}

/// The head of a request as it is passed to the plugin, before the body.
pub(super) fn encode_request_head(head: &RequestHead<'_>) -> Result<Vec<u8>, Problem> {
    let head = serde_json::to_vec(head).map_err(|e| Problem::internal(&e))?;
    let too_large = || Problem::new(Kind::BodyTooLarge, "the head is over 4 GiB");
    let prefix = prefix(head.len()).ok_or_else(too_large)?;
    Ok([&prefix, head.as_slice()].concat())
}

/// Converts a plugin's output to a response, or explains why it is invalid.
pub(super) fn parse_response(output: Bytes, origin: &PageOrigin) -> Result<Response, String> {
    let (head, body) = split(&output).map_err(|_| "the frame is truncated within the head")?;
    if head.len() > ANSWER_HEAD_BYTES_MAX {
        let (len, limit) = (head.len(), ANSWER_HEAD_BYTES_MAX);
        return Err(format!("the head is {len} bytes; the limit is {limit}"));
    }
    let head: ResponseHead = serde_json::from_slice(head)
        .map_err(|e| format!("the head is invalid: {}", display_truncated(&e, 256)))?;
    let status = match StatusCode::from_u16(head.status) {
        Ok(status) if STATUSES.contains(&head.status) => status,
        _ => {
            let (min, max) = (STATUSES.start(), STATUSES.end());
            return Err(format!(
                "the status is {}; it must be from {min} to {max}",
                head.status
            ));
        }
    };
    let headers = plugin_headers::of_response(&head.headers, origin)?;
    // As a body, so that no default content type is added.
    let body = match STATUSES_WITHOUT_BODY.contains(&head.status) {
        true => Body::empty(),
        false => Body::from(output.slice_ref(body)),
    };
    Ok((status, headers, body).into_response())
}

/// Converts the output of the plugin of `app` to a response, or explains why it is invalid.
#[cfg(feature = "fuzzing")]
pub fn fuzz_answer(output: &[u8], app: &AppName) -> Result<Response, String> {
    let origin = PageOrigin::Shared {
        app: app.clone(),
        sandbox: Sandbox::Strict,
    };
    parse_response(Bytes::copy_from_slice(output), &origin)
}

/// Whether the request is for the script of a service worker at `/a/{app}`, without a slash. Its
/// scope would be `/a/`, which includes all apps.
fn is_wide_service_worker(parts: &Parts) -> bool {
    let path = parts.uri.path().strip_prefix("/a/").unwrap_or_default();
    !path.contains('/') && parts.headers.contains_key("service-worker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handler_path_is_split_after_the_app_name() {
        assert_eq!(split_path("/a/shop"), ("shop", "/"));
        assert_eq!(split_path("/a/shop/"), ("shop", "/"));
        assert_eq!(split_path("/a/shop/x/%2F..?"), ("shop", "/x/%2F..?"));
    }

    fn shop() -> PageOrigin {
        PageOrigin::Shared {
            app: AppName::parse("shop").unwrap(),
            sandbox: Sandbox::Off,
        }
    }

    fn framed(head: &str) -> Vec<u8> {
        [&prefix(head.len()).unwrap(), head.as_bytes(), b"body"].concat()
    }

    #[test]
    fn invalid_plugin_responses_are_rejected() {
        let good = parse_response(
            framed(r#"{"status":201,"headers":[["x-a","1"],["x-a","2"],["content-length","9"]]}"#)
                .into(),
            &shop(),
        )
        .unwrap();
        assert_eq!(good.status(), StatusCode::CREATED);
        assert_eq!(good.headers().get_all("x-a").iter().count(), 2);
        assert!(good.headers().get("content-length").is_none());
        for bad in [
            r#"{"status":100}"#,
            r#"{"status":99999}"#,
            "{}",
            "",
            r#"{"status":200,"headers":[["a b","1"]]}"#,
            r#"{"status":200,"headers":[["a","1\r\nb: 2"]]}"#,
        ] {
            assert!(
                parse_response(framed(bad).into(), &shop()).is_err(),
                "{bad} was taken"
            );
        }
        assert!(parse_response(Bytes::new(), &shop()).is_err());
        assert!(parse_response(Bytes::from_static(b"\xff\xff\xff\xff{}"), &shop()).is_err());
    }
}
