//! The outermost layer of each request: its id, span and timing, the rendering of problems, and its
//! log line.

use super::SharedServer;
use super::access_log::AccessLogLine;
use super::auth;
use super::budget::{BytesOwner, NoRoom};
use super::client_address::{self, Remote};
use super::counted::{count_request, count_response};
use super::door;
use super::problem::{Kind, Problem};
use super::request_ids::{REQUEST_ID, RequestIds};
use super::stream::Peer;
use super::uri;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;
use uuid::Uuid;

/// Maximum bytes of a request's headers, which hyper bounds only approximately.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Maximum bytes of a body that a handler keeps, except for inputs and modules.
const BODY_BYTES_KEPT: usize = 16 * 1024 * 1024;
/// Minimum delay of the response to a rate-limited call. Otherwise a client that retries
/// immediately, on many connections, would take CPU time from others.
const RATE_LIMIT_DELAY: Duration = Duration::from_millis(100);
/// Maximum length of the path and query, in bytes.
const URI_BYTES_MAX: usize = 8 * 1024;

pub(super) async fn handle(
    State(shared): State<SharedServer>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut ids = RequestIds::sent(request.headers());
    let (id, trace_id) = (ids.request, ids.trace_id_to_log());
    let method = method(&request);
    let trusted = &shared.options.trusted_proxies;
    let mut line = AccessLogLine::new(&request, &ids, method, trusted);
    line.begin_span(&shared.host, &mut ids, || {
        let remote = request.extensions().get().map(|Remote(remote)| *remote);
        client_address::scheme(remote, request.headers(), trusted)
    });
    request.extensions_mut().insert(ids);
    let route = line.route();

    let trace_id = trace_id.map(tracing::field::display);
    let span = tracing::info_span!("request", request_id = %id, trace_id, method, route);
    let handled = async {
        if let Err(problem) = check_syntax(&request) {
            return problem.into_response();
        }
        let (parts, body) = request.into_parts();
        if let Err(problem) = door::check(&shared, &parts) {
            return problem.into_response();
        }
        let request = Request::from_parts(parts, body);
        if let Err(problem) = check_route(&request, route) {
            let (route, headers) = ((route, method), request.headers());
            let token = auth::check_token_before_refusal(&shared, route, headers, id).await;
            return token.err().unwrap_or(problem).into_response();
        }
        counted(&shared, line.count(request), next)
            .await
            .unwrap_or_else(|no_room| Problem::from(no_room).into_response())
    }
    .instrument(span);
    let mut response = line.with_notes(handled).await;
    let problem = response.extensions_mut().remove::<Problem>();
    let is_rate = problem.as_ref().is_some_and(Problem::is_rate_limited);
    if let Some(problem) = problem {
        let allow = response.headers_mut().remove(ALLOW);
        response = problem.render(id);
        if let Some(allow) = allow {
            response.headers_mut().insert(ALLOW, allow);
        }
    }
    if has_no_content(response.status()) {
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Body::empty();
    }
    let mut text = Uuid::encode_buffer();
    if let Ok(value) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    door::protect(&shared, response.headers_mut());
    let (status, metrics) = (response.status(), shared.host.metrics());
    metrics.http_request(
        route,
        counted_method(method, status),
        &counted_status(status),
        line.elapsed(),
    );
    if is_rate {
        // Jittered, up to twice as long, so that requests refused together do not return together.
        let [.., random] = id.into_bytes();
        tokio::time::sleep(RATE_LIMIT_DELAY + RATE_LIMIT_DELAY * u32::from(random) / 256).await;
    }
    let status = status.as_u16();
    response.map(|body| line.wrap_response(status, body))
}

/// Runs the handler, counting the bytes of the body and the response.
async fn counted(shared: &SharedServer, request: Request, next: Next) -> Result<Response, NoRoom> {
    let share = BytesOwner::of(request.uri().path());
    // Other requests, such as for metrics, are the operator's, who needs them most when there is no
    // room.
    let may_refuse = share != BytesOwner::Others;
    let held = Arc::new(shared.budget.held(share));
    if may_refuse {
        // Before running a call whose response would find no room.
        held.wait_for_room().await?;
    }
    let limits = shared.host.limits();
    let most = limits
        .module_bytes
        .max(limits.input_bytes)
        .max(BODY_BYTES_KEPT);
    let counting = Arc::clone(&held);
    let request = count_request(request, counting, most);
    let response = next.run(request).await;
    count_response(response, held, may_refuse)
}

/// Whether responses with this status have no content, including those of plugins.
fn has_no_content(status: StatusCode) -> bool {
    [
        StatusCode::NO_CONTENT,
        StatusCode::RESET_CONTENT,
        StatusCode::NOT_MODIFIED,
    ]
    .contains(&status)
}

/// The method as a metric label: clients can invent others.
fn method(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The method label of a counted response: a method that the route does not allow adds no series.
fn counted_method(method: &'static str, status: StatusCode) -> &'static str {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => "other",
        _ => method,
    }
}

/// The status label of a counted response: plugins could use 400 different ones, so a status that
/// HTTP does not define is counted by its class.
fn counted_status(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(_) => status.as_str().to_owned(),
        None => format!("{}xx", status.as_u16() / 100),
    }
}

/// Checks the syntax of a request's head, before anything else.
fn check_syntax(request: &Request) -> Result<(), Problem> {
    too_long(request).map_or(Ok(()), Err)?;
    too_large(request.headers()).map_or(Ok(()), Err)?;
    check_host_header(request)?;
    check_transfer_coding(request.headers())
}

/// Checks a request's head against its route. If the route requires a token, only a caller with a
/// valid one sees the refusal.
fn check_route(request: &Request, route: &str) -> Result<(), Problem> {
    check_content_encoding(request)?;
    uri::check(request.uri(), route, request.method().as_str())
}

/// RFC 9112: an HTTP/1.1 request has exactly one Host header. It is checked only on our own
/// connections: a router embedded in another server may be called in other ways.
fn check_host_header(request: &Request) -> Result<(), Problem> {
    let refused = |why| Err(Problem::new(Kind::InvalidArgument, why));
    let mut hosts = request.headers().get_all(HOST).iter();
    let is_ours = request.extensions().get::<Peer>().is_some();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => refused("more than one Host header"),
        (None, _) if is_ours && request.version() == Version::HTTP_11 => {
            refused("the Host header is missing, which HTTP/1.1 requires")
        }
        (None, _) => Ok(()),
        (Some(host), None) => {
            // A client without a name for the host sends an empty one.
            let is_good = host.is_empty()
                || Authority::try_from(host.as_bytes())
                    .is_ok_and(|host| !host.as_str().contains('@'));
            match is_good {
                true => Ok(()),
                false => refused("the Host header is not a valid host and port"),
            }
        }
    }
}

/// Only plain and chunked bodies are accepted. Hyper removes only the last transfer coding of a
/// list, so a plugin would get a body that is still encoded, without knowing how.
fn check_transfer_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_known = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if is_known(coding) => Ok(()),
        _ => Err(Problem::new(
            Kind::InvalidArgument,
            "unsupported transfer coding; only chunked is supported",
        )),
    }
}

/// Bodies are not decoded, so a compressed one would be stored, or passed to a function, as the
/// wrong data. An HTTP handler of a plugin receives the header.
fn check_content_encoding(request: &Request) -> Result<(), Problem> {
    if request.uri().path().starts_with("/a/") || request.body().is_end_stream() {
        return Ok(());
    }
    let codings = request.headers().get_all(CONTENT_ENCODING).iter();
    let mut codings = codings.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let is_plain = |coding: &[u8]| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
    match codings.find(|coding| !is_plain(coding.trim_ascii())) {
        None => Ok(()),
        Some(coding) => Err(Problem::new(
            Kind::UnsupportedEncoding,
            format!(
                "the Content-Encoding is {:?}; this route accepts only identity: send the \
                 body unencoded",
                String::from_utf8_lossy(coding.trim_ascii())
            ),
        )),
    }
}

fn too_long(request: &Request) -> Option<Problem> {
    let target = request.uri().path_and_query()?.as_str();
    (target.len() > URI_BYTES_MAX).then(|| {
        let (len, limit) = (target.len(), URI_BYTES_MAX);
        Problem::new(
            Kind::UriTooLong,
            format!("the path and query are {len} bytes; the limit is {limit} bytes"),
        )
    })
}

fn too_large(headers: &HeaderMap) -> Option<Problem> {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    let len: usize = sizes.sum();
    (len > HEADER_BYTES_MAX).then(|| {
        let detail = format!("the headers are {len} bytes; the limit is {HEADER_BYTES_MAX} bytes");
        Problem::new(Kind::HeadersTooLarge, detail)
    })
}

pub(super) async fn not_found() -> Problem {
    Problem::new(
        Kind::RouteNotFound,
        "unknown route; GET /v1/openapi.json lists the routes",
    )
}

/// The API is at another address, which strangers need not know.
pub(super) async fn api_elsewhere() -> Problem {
    Problem::new(
        Kind::RouteNotFound,
        "unknown route; this address serves only calls, pages of plugins and health checks, and \
         the API is at the address that the setting admin.listen names",
    )
}

pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        "the route does not allow this method; GET /v1/openapi.json lists the methods",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of series is bounded whatever statuses plugins use.
    #[test]
    fn nonstandard_statuses_are_counted_by_class() {
        let counted = |status| counted_status(StatusCode::from_u16(status).unwrap());
        assert_eq!([200, 418, 503].map(counted), ["200", "418", "503"]);
        assert_eq!([299, 450, 599].map(counted), ["2xx", "4xx", "5xx"]);
        let all: std::collections::BTreeSet<_> = (100..=999).map(counted).collect();
        assert!(all.len() < 80, "{} labels", all.len());
        let not_allowed = StatusCode::METHOD_NOT_ALLOWED;
        assert_eq!(counted_method("PUT", not_allowed), "other");
        assert_eq!(counted_method("PUT", StatusCode::OK), "PUT");
    }
}
