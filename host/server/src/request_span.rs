//! The span of a request, by the semantic conventions for HTTP servers.

use super::request_ids::RequestIds;
use kvasm_core::AppName;
use kvasm_service::{OpenSpan, SpanKind, SpanRecorder};

/// Whether a route is for the operator's own tools, which ask often. They have no spans.
pub(super) fn is_probe(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz" | "/metrics")
}

/// Starts the span of a request. `method` is one that HTTP defines, or `other`; `route` is the
/// template of its path. The path itself is left out: it may contain keys.
pub(super) fn start(
    recorder: &SpanRecorder,
    ids: &RequestIds,
    method: &'static str,
    route: Option<&str>,
) -> OpenSpan {
    let (name, method) = match method {
        "other" => ("HTTP", "_OTHER"),
        method => (method, method),
    };
    let name = match route {
        Some(route) => format!("{name} {route}"),
        None => name.to_owned(),
    };
    let mut span = recorder.start_root(ids.parent, SpanKind::Server, name);
    span.set("http.request.method", method);
    if let Some(route) = route {
        span.set("http.route", route.to_owned());
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
        500.. => span.fail("server_error"),
        _ => span.end(),
    }
}
