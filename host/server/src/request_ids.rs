//! The ids of a request: its own, and its place in a trace.

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use kvasm_core::{TraceContext, TraceId};
use kvasm_service::SpanRecorder;
use std::num::NonZeroU64;
use uuid::Uuid;

/// The request id, in requests and responses.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The trace and the span of the sender, in requests.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems pass on, in requests.
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The ids of a request, in its extensions.
#[derive(Debug, Clone)]
pub(super) struct RequestIds {
    pub(super) request: Uuid,
    /// The span of the request.
    pub(super) trace: TraceContext,
    /// Whether the client has started the trace. If not, its id is the request id.
    pub(super) is_continued: bool,
    /// The span of the client, if it sent one.
    pub(super) parent: Option<NonZeroU64>,
    /// Records the spans of the request, if its trace is sampled.
    pub(super) recorder: Option<SpanRecorder>,
}

impl RequestIds {
    /// Takes the ids that the client sent. A request id that is not a UUID is replaced, since ids go
    /// into logs and to plugins. A `traceparent` that is invalid, or not the only one, counts as
    /// none.
    pub(super) fn sent(headers: &HeaderMap) -> RequestIds {
        let request = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let request = request.and_then(|id| Uuid::try_parse(id).ok());
        let mut ids = RequestIds::new(request.unwrap_or_else(Uuid::now_v7));
        if let Some(sender) = sender(headers) {
            ids.trace = sender.child();
            ids.parent = Some(sender.span_id());
            ids.is_continued = true;
        }
        ids
    }

    fn new(request: Uuid) -> RequestIds {
        RequestIds {
            request,
            trace: TraceContext::root(request),
            is_continued: false,
            parent: None,
            recorder: None,
        }
    }

    /// Returns the ids of a request that the layer has seen.
    pub(super) fn of(parts: &Parts) -> RequestIds {
        let ids = parts.extensions.get().cloned();
        ids.unwrap_or_else(|| RequestIds::new(Uuid::now_v7()))
    }

    /// Returns the id of the trace for the log, unless it is the request id, which is there anyway.
    pub(super) fn trace_id_to_log(&self) -> Option<TraceId> {
        self.is_continued.then(|| self.trace.trace_id())
    }
}

/// Returns the span of the sender, if it sent a valid one.
fn sender(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else {
        return None;
    };
    let state = headers.get_all(TRACESTATE).iter();
    TraceContext::parse(parent.as_bytes(), state.map(|value| value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn sent(headers: &[(HeaderName, &str)]) -> RequestIds {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        RequestIds::sent(&map)
    }

    #[test]
    fn trace_of_the_client_is_continued_with_a_new_span() {
        let ids = sent(&[
            (TRACEPARENT, PARENT),
            (TRACESTATE, "a=1"),
            (TRACESTATE, "b=2"),
        ]);
        assert!(ids.is_continued);
        let parent = ids.trace.parent();
        assert_eq!((&parent[..36], &parent[52..]), (&PARENT[..36], "-01"));
        assert_ne!(parent, PARENT);
        assert_eq!(ids.trace.state(), Some("a=1,b=2"));
        assert_eq!(ids.trace_id_to_log(), Some(ids.trace.trace_id()));
    }

    #[test]
    fn request_without_one_valid_traceparent_starts_a_trace() {
        let id = Uuid::now_v7().to_string();
        for parents in [&[][..], &[PARENT, PARENT], &["00-x"], &[""]] {
            let parents = parents.iter().map(|parent| (TRACEPARENT, *parent));
            let others = [(TRACESTATE, "a=1"), (REQUEST_ID, id.as_str())];
            let ids = sent(&parents.chain(others).collect::<Vec<_>>());
            assert!(!ids.is_continued);
            assert_eq!(ids.trace.trace_id().uuid(), ids.request);
            assert_eq!(ids.request.to_string(), id);
            assert_eq!((ids.trace.state(), ids.trace_id_to_log()), (None, None));
        }
    }
}
