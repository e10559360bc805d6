//! The span of a request, by the semantic conventions for HTTP servers.

use super::request_ids::RequestIds;
use kvasm_core::AppName;
use kvasm_service::{OpenSpan, SpanKind, SpanRecorder};
use std::net::IpAddr;

/// Whether a route is for the operator's own tools, which ask often. They have no spans.
pub(super) fn is_probe(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz" | "/metrics")
}

/// What the span of a request shows of its head.
pub(super) struct SpanHead<'r> {
    /// One of the methods that HTTP defines, or `other`.
    pub(super) method: &'static str,
    /// The template of the path.
    pub(super) route: Option<&'r str>,
    /// By which the client has reached the server.
    pub(super) scheme: &'static str,
    /// The address of the client.
    pub(super) client: Option<IpAddr>,
}

/// Starts the span of a request. The path is left out if its route has parameters, which may be
/// keys.
pub(super) fn start(recorder: &SpanRecorder, ids: &RequestIds, head: &SpanHead<'_>) -> OpenSpan {
    let (name, method) = match head.method {
        "other" => ("HTTP", "_OTHER"),
        method => (method, method),
    };
    let name = match head.route {
        Some(route) => format!("{name} {route}"),
        None => name.to_owned(),
    };
    let mut span = recorder.start_root(ids.parent, SpanKind::Server, name);
    span.set("http.request.method", method);
    span.set("url.scheme", head.scheme);
    if let Some(client) = head.client {
        span.set("client.address", client.to_string());
    }
    if let Some(route) = head.route {
        span.set("http.route", route.to_owned());
        if !route.contains('{') {
            span.set("url.path", route.to_owned());
        }
        if route.starts_with("/a/") || route.contains("/call/") {
            span.set("faas.trigger", "http");
        }
    }
    span.set("kvasm.request_id", ids.request.to_string());
    span
}

/// Ends it, once the response is sent; `status` is `None` if the client left before there was one.
pub(super) fn end(mut span: OpenSpan, app: Option<&AppName>, status: Option<u16>) {
    if let Some(app) = app {
        span.set("kvasm.app", app.to_string());
    }
    let Some(status) = status else {
        return span.fail("disconnected");
    };
    span.set("http.response.status_code", status);
    match status {
        // The convention: for a server, a status of the client's fault is no error.
        500.. => span.fail(status.to_string()),
        _ => span.end(),
    }
}
