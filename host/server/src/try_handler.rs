//! Requests to a plugin's HTTP handler at the administration address. The response is JSON, so that a
//! browser displays and runs nothing of it.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body;
use super::call_problem::Audience;
use super::calls::{
    RequestHead, client_disconnected, cost_of, encode_request_head, parse_response, with_cost,
};
use super::cost;
use super::idempotency::identify;
use super::params::{Segments, refused};
use super::plugin_headers::{self, PageOrigin};
use super::problem::Problem;
use super::request_ids::RequestIds;
use super::stream::Peer;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use kvasm_api::{HandlerRequest, HandlerResponse};
use kvasm_core::{App, Capability, Pieces};
use kvasm_host::Call;
use std::sync::Arc;

/// The methods of requests to a handler.
pub(super) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// As for a request to the handler itself.
const PATH_BYTES_MAX: usize = 8 * 1024;
/// As in a request to the handler itself. The size of the body limits their bytes.
const HEADERS_MAX: usize = 100;

/// Sends a request to the HTTP handler of the app's active plugin, and returns its response as data.
///
/// The handler runs as at the public address, for a client with the token of this request. It does
/// not see the headers of this request, and has no authority and client address to see.
#[utoipa::path(post, path = "/v1/apps/{app}/request", tag = "calls",
    params(("app" = String, Path),
        ("Kvasm-Cost" = Option<String>, Header, description = "`?1` asks for the cost of the call, which requires a token with `log:read`")),
    request_body = HandlerRequest,
    responses((status = 200, body = HandlerResponse,
        headers(
            ("Kvasm-Cost" = String, description = "Runs, memory, reads, writes and host calls, as a dictionary (RFC 9651); if asked for"),
            ("Server-Timing" = String, description = "CPU time, as `cpu`; if asked for")))),
    security(("token" = ["app:read"])))]
pub(super) async fn request(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Extension(ids): Extension<RequestIds>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    let principal = actor.principal().clone();
    let audience = Audience::of(&app, Some(&principal));
    let shows_cost = cost::is_shown(&headers, audience);
    let request: HandlerRequest = body::json(&shared, &headers, body).await?;
    let origin = origin(&shared, &app);
    let input = input(&app, &origin, &request)?;
    let is_head = request.method == "HEAD";
    let trace_id = ids.trace.trace_id();
    let call = Call::http().request_id(ids.request).trace(ids.trace);
    let call = identify(call, Some(&actor), Some(principal), None);
    let (id_of_app, app) = (app.id, Arc::new(app));
    let admitted = shared.host.admit(Arc::clone(&app), call).await;
    let entered = admitted.map_err(|error| Problem::of_handler(error, audience))?;
    let left = client_disconnected(peer.map(|Extension(peer)| peer));
    let answer = entered.call_unless(input, left).await;
    let used = shows_cost.then(|| cost_of(&answer)).flatten();
    let answer = answer.map_err(|error| Problem::of_handler(error, audience).with_cost(used))?;
    let output = Bytes::from(answer.output);
    let response = parse_response(output, &origin).map_err(|why| {
        let host = &shared.host;
        host.log_invalid_answer(&app, ids.request, Some(trace_id), &why);
        Problem::of_invalid_response(why, audience).with_cost(used)
    })?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await;
    let body = body.map_err(|error| Problem::internal(&error))?;
    // A client of the handler's page would not get it either.
    let body = if is_head {
        Bytes::new()
    } else {
        body.to_bytes()
    };
    let bytes = body.len();
    let data = move || {
        let pair = |(name, value): (&HeaderName, &HeaderValue)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        };
        let (text, bytes) = match as_text(&body) {
            Some(text) => (Some(text.to_owned()), None),
            None => (None, Some(STANDARD.encode(&body))),
        };
        Ok(HandlerResponse {
            status: parts.status.as_u16(),
            headers: parts.headers.iter().map(pair).collect(),
            text,
            bytes,
        })
    };
    let response = body::large_answer(&shared, id_of_app, bytes, data).await?;
    Ok(with_cost(response, used))
}

/// A body that is text. JSON takes six bytes for other control characters, so that a plugin could make
/// an answer of six times its output.
fn as_text(body: &[u8]) -> Option<&str> {
    let is_control = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\n' | b'\r');
    match body.iter().any(is_control) {
        true => None,
        false => std::str::from_utf8(body).ok(),
    }
}

/// Where clients reach the handler.
fn origin(shared: &SharedServer, app: &App) -> PageOrigin {
    let pages = &shared.options.pages;
    match pages.domain.is_some() && !pages.paths {
        true => PageOrigin::Own,
        false => PageOrigin::Shared {
            app: app.name.clone(),
            sandbox: pages.sandbox,
        },
    }
}

/// A percent-encoded path and query. What a browser would encode or not send is refused, as it
/// is likely a mistake: the handler would get another path than a client of its page.
fn target(text: &str) -> Option<PathAndQuery> {
    let is_escape = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let is_target = text.starts_with('/')
        && text.len() <= PATH_BYTES_MAX
        && text.is_ascii()
        && !text.contains('#')
        && text.split('%').skip(1).all(is_escape);
    is_target.then(|| text.parse().ok()).flatten()
}

/// The input of the handler for a request.
fn input(app: &App, origin: &PageOrigin, request: &HandlerRequest) -> Result<Pieces, Problem> {
    let method = METHODS.iter().find(|method| **method == request.method);
    let method = method.ok_or_else(|| {
        let all = METHODS.join(", ");
        refused(format!("`method` must be one of {all}"))
    })?;
    let target = target(&request.path).ok_or_else(|| {
        refused("`path` must begin with a slash and be a percent-encoded path and query of at most 8 KiB")
    })?;
    if request.headers.len() > HEADERS_MAX {
        return Err(refused(format!(
            "a request has at most {HEADERS_MAX} headers"
        )));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let name: HeaderName = name
            .parse()
            .map_err(|_| refused("a header has an invalid name"))?;
        let value = HeaderValue::from_str(value)
            .map_err(|_| refused(format!("the header {name} has an invalid value")))?;
        headers.append(name, value);
    }
    let body = match (&request.text, &request.bytes) {
        (Some(_), Some(_)) => return Err(refused("a body is either `text` or `bytes`")),
        (Some(text), None) => text.clone().into_bytes(),
        (None, Some(bytes)) => STANDARD
            .decode(bytes)
            .map_err(|error| refused(format!("`bytes` is not valid base64: {error}")))?,
        (None, None) => Vec::new(),
    };
    let head = RequestHead {
        method,
        path: target.path(),
        query: target.query().unwrap_or_default(),
        headers: plugin_headers::of_request(&headers, None),
        mount: match origin {
            PageOrigin::Own => String::new(),
            PageOrigin::Shared { .. } => format!("/a/{}", app.name),
        },
        scheme: "http",
        authority: None,
        client: None,
    };
    let mut input = encode_request_head(&head)?;
    input.extend_from_slice(&body);
    Ok(input.into())
}
