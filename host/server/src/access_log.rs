//! The log line of each request, written once its response is sent.

use super::client_address::{self, Network, Remote};
use super::request_ids::RequestIds;
use super::request_span::{self, SpanHead, is_probe};
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use kvasm_core::{App, AppId, AppName, TokenId, TraceId, display_truncated};
use kvasm_host::Host;
use kvasm_service::{Actor, OpenSpan, RequestOutcome, admit_request_line};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Maximum bytes of a token's name in a line.
const NAME_BYTES_MAX: usize = 64;

tokio::task_local! {
    /// The notes of the request that this task handles.
    static NOTES: Arc<Notes>;
}

/// Facts that are found while a request is handled.
#[derive(Debug, Default)]
pub(super) struct Notes {
    app: OnceLock<(AppId, AppName)>,
    actor: OnceLock<Who>,
    bytes_in: AtomicU64,
}

#[derive(Debug)]
struct Who {
    name: String,
    token: Option<TokenId>,
    app: Option<AppId>,
}

/// Notes the caller of the request.
pub(super) fn note_actor(actor: &Actor) {
    let _ = NOTES.try_with(|notes| {
        notes.actor.get_or_init(|| Who {
            name: display_truncated(&actor.name(), NAME_BYTES_MAX),
            token: actor.token(),
            app: actor.principal().app(),
        });
    });
}

/// Notes the app of the request.
pub(super) fn note_app(app: &App) {
    let _ = NOTES.try_with(|notes| {
        notes.app.get_or_init(|| (app.id, app.name.clone()));
    });
}

/// The log line of a request. It is written on drop.
pub(super) struct AccessLogLine {
    notes: Arc<Notes>,
    start: Instant,
    id: Uuid,
    /// The trace that the client has started, if any.
    trace_id: Option<TraceId>,
    client: Option<IpAddr>,
    method: &'static str,
    route: Option<MatchedPath>,
    /// The app that the path names, which may not exist.
    named: Option<AppName>,
    /// `None` until there is a response.
    status: Option<u16>,
    bytes_out: u64,
    /// The span of the request, if it is recorded.
    span: Option<OpenSpan>,
}

impl AccessLogLine {
    pub(super) fn new(
        request: &Request,
        ids: &RequestIds,
        method: &'static str,
        trusted: &[Network],
    ) -> AccessLogLine {
        let remote = request.extensions().get::<Remote>();
        AccessLogLine {
            notes: Arc::default(),
            start: Instant::now(),
            id: ids.request,
            trace_id: ids.trace_id_to_log(),
            client: remote
                .map(|Remote(remote)| client_address::address(*remote, request.headers(), trusted)),
            method,
            route: request.extensions().get().cloned(),
            named: named_app(request.uri().path()),
            status: None,
            bytes_out: 0,
            span: None,
        }
    }

    /// Starts the span of the request, if its trace is sampled. It ends with the line.
    /// `scheme` is that by which the client has reached the server.
    pub(super) fn begin_span(
        &mut self,
        host: &Host,
        ids: &mut RequestIds,
        scheme: impl FnOnce() -> &'static str,
    ) {
        let route = self.route.as_ref().map(MatchedPath::as_str);
        if !host.spans().has_sink() || route.is_some_and(is_probe) {
            return;
        }
        // A client may invent names, so that only those of apps count as such.
        let named = self.named.as_ref().filter(|name| host.has_seen_app(name));
        let app = named.map_or("", AppName::as_str);
        ids.recorder = host.spans().begin(&mut ids.trace, ids.is_continued, app);
        self.span = ids.recorder.as_ref().map(|recorder| {
            let (method, client) = (self.method, self.client);
            let head = SpanHead {
                method,
                route,
                scheme: scheme(),
                client,
            };
            request_span::start(recorder, ids, &head)
        });
    }

    /// The time since the request began.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The path template of the route, which has few values.
    pub(super) fn route(&self) -> &str {
        self.route.as_ref().map_or("none", MatchedPath::as_str)
    }

    /// Counts the bytes of the request's body.
    pub(super) fn count(&self, request: Request) -> Request {
        if request.body().is_end_stream() {
            return request;
        }
        let count = Arc::clone(&self.notes);
        request.map(|inner| Body::new(CountedBody { inner, count }))
    }

    /// Runs the request's handler, and collects notes.
    pub(super) async fn with_notes<F: Future>(&self, handler: F) -> F::Output {
        NOTES.scope(Arc::clone(&self.notes), handler).await
    }

    /// Wraps the body of the response. The line is written when all of it is sent or the client has
    /// disconnected.
    pub(super) fn wrap_response(mut self, status: u16, inner: Body) -> Body {
        self.status = Some(status);
        Body::new(CountedBody { inner, count: self })
    }

    /// The app whose share of log lines is used: the token's, so that an app cannot use up the
    /// lines of another, or the one that the request is about. An app that is only named in the
    /// path may not exist, and invented names must not use up the shares of apps.
    fn app(&self) -> Option<AppId> {
        let of_token = self.notes.actor.get().and_then(|who| who.app);
        let of_request = || self.notes.app.get().map(|(id, _)| *id);
        of_token.or_else(of_request)
    }

    /// Returns how many lines were suppressed before this one; `None` to suppress this one too.
    fn admit(&self, refused: bool) -> Option<u64> {
        use tracing::Level;
        let enabled = match refused {
            true => tracing::enabled!(target: "kvasm::requests", Level::WARN),
            false => tracing::enabled!(target: "kvasm::requests", Level::INFO),
        };
        if !enabled {
            return None;
        }
        // At debug level, no lines are suppressed.
        if tracing::enabled!(target: "kvasm::requests", Level::DEBUG) {
            return Some(0);
        }
        let kind = match refused {
            true => RequestOutcome::Refused,
            false => RequestOutcome::Answered,
        };
        admit_request_line(kind, self.app())
    }

    fn write(&self) {
        let refused = matches!(self.status, Some(401 | 403));
        let Some(suppressed) = self.admit(refused) else {
            return;
        };
        // A macro, since the level is part of a log line's static call site.
        macro_rules! line {
            ($level:ident, $message:literal) => {{
                let app = self.notes.app.get().map(|(_, name)| name);
                let who = self.notes.actor.get();
                tracing::$level!(
                    target: "kvasm::requests",
                    request_id = %self.id,
                    trace_id = self.trace_id.map(tracing::field::display),
                    client = self.client.map(tracing::field::display),
                    method = self.method,
                    route = self.route(),
                    app = app.or(self.named.as_ref()).map(AppName::as_str),
                    // As a string, so that its contents are escaped.
                    actor = who.map(|who| who.name.as_str()),
                    token = who.and_then(|who| who.token).map(tracing::field::display),
                    status = self.status,
                    bytes_in = self.notes.bytes_in.load(Ordering::Relaxed),
                    bytes_out = self.bytes_out,
                    took_us = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX),
                    suppressed,
                    $message
                )
            }};
        }
        match self.status {
            Some(_) if refused => line!(warn, "refused"),
            Some(_) => line!(info, "answered"),
            None => line!(info, "client disconnected"),
        }
    }
}

impl Drop for AccessLogLine {
    fn drop(&mut self) {
        if let Some(span) = self.span.take() {
            let app = self.notes.app.get().map(|(_, name)| name);
            request_span::end(span, app, self.status);
        }
        self.write();
    }
}

/// The app that a path names, if it is a valid name.
fn named_app(path: &str) -> Option<AppName> {
    let rest = path.strip_prefix("/v1/apps/");
    let rest = rest.or_else(|| path.strip_prefix("/a/"))?;
    AppName::parse(rest.split('/').next()?).ok()
}

/// Accumulates the bytes of a body.
trait ByteCounter {
    fn add(&mut self, bytes: u64);
}

impl ByteCounter for Arc<Notes> {
    fn add(&mut self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl ByteCounter for AccessLogLine {
    fn add(&mut self, bytes: u64) {
        self.bytes_out += bytes;
    }
}

/// A body whose bytes are counted as they pass.
struct CountedBody<C> {
    inner: Body,
    count: C,
}

impl<C: ByteCounter + Unpin> HttpBody for CountedBody<C> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        self.count.add(data_len(&frame));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn data_len(frame: &Option<Result<Frame<Bytes>, axum::Error>>) -> u64 {
    let frame = frame.as_ref().and_then(|frame| frame.as_ref().ok());
    let data = frame.and_then(Frame::data_ref);
    data.map_or(0, |data| data.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_app_name_must_be_valid() {
        let named = |path| named_app(path).map(|name| name.to_string());
        assert_eq!(named("/v1/apps/shop"), Some("shop".to_owned()));
        assert_eq!(named("/v1/apps/shop/kv/entry"), Some("shop".to_owned()));
        assert_eq!(named("/a/shop"), Some("shop".to_owned()));
        for none in ["/v1/apps", "/v1/apps/", "/a/%0a/x", "/a/A\u{1b}[1m", "/x"] {
            assert_eq!(named(none), None, "{none}");
        }
    }
}
