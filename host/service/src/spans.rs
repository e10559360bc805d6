//! Spans: what the host records of a request or a delivery, as plain data for an exporter.
//!
//! Whether it records is decided once, when the request or the delivery arrives, and is then the
//! `sampled` flag of the trace context: what follows from it has the same flag. Without a sink, or
//! for a trace that is not sampled, recording costs one branch.

use kvasm_core::{TraceContext, TraceId, truncate};
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Maximum number of spans of host functions in one trace context: a call with all its runs, or an
/// attempt of a delivery. Further ones are only counted.
pub const HOST_FUNCTION_SPANS_MAX: u32 = 64;
/// Maximum length of a text in a span, in bytes. Longer ones are cut.
pub const SPAN_TEXT_BYTES_MAX: usize = 256;

/// Takes finished spans, and decides what is recorded. It must not block.
pub trait SpanSink: Send + Sync + 'static {
    /// Whether to record what has just arrived.
    fn samples(&self, arrival: &SpanArrival<'_>) -> bool;

    /// Takes a finished span.
    fn record(&self, span: Span);
}

/// A request or a delivery that has just arrived.
#[derive(Debug, Clone, Copy)]
pub struct SpanArrival<'t> {
    /// Its trace context.
    pub trace: &'t TraceContext,
    /// Whether its trace began elsewhere, so that the flag of `trace` is a decision to follow.
    pub is_continued: bool,
    /// The app that it is for; empty if it is for none, or the app is not known to exist.
    pub app: &'t str,
}

/// A finished span.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its trace and id, and the trace state.
    pub context: TraceContext,
    /// The id of its own; `context` is that of the request or delivery that it belongs to.
    pub id: NonZeroU64,
    /// The span that caused it.
    pub parent: Option<NonZeroU64>,
    /// Its role.
    pub kind: SpanKind,
    /// Its name: from the code, or the name of something that an administrator or a plugin defines.
    pub name: Cow<'static, str>,
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Its attributes.
    pub attributes: Vec<(&'static str, SpanValue)>,
    /// A span that caused it from outside its own request.
    pub link: Option<(TraceId, NonZeroU64)>,
    /// Why it failed, if it did.
    pub error: Option<Cow<'static, str>>,
    /// The app that it counts for; see [`SpanArrival::app`].
    pub app: Arc<str>,
}

/// The role of a span, as in OpenTelemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Work within the host.
    Internal,
    /// A request that the host answers.
    Server,
    /// A request to a database or to another server.
    Client,
    /// An event that the host handles.
    Consumer,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanValue {
    /// A text, of at most [`SPAN_TEXT_BYTES_MAX`] bytes.
    Text(Cow<'static, str>),
    /// A number.
    Int(i64),
    /// A truth.
    Bool(bool),
}

impl From<&'static str> for SpanValue {
    fn from(text: &'static str) -> SpanValue {
        SpanValue::Text(Cow::Borrowed(text))
    }
}

impl From<String> for SpanValue {
    fn from(text: String) -> SpanValue {
        SpanValue::Text(cut(Cow::Owned(text)))
    }
}

impl From<bool> for SpanValue {
    fn from(value: bool) -> SpanValue {
        SpanValue::Bool(value)
    }
}

impl From<u64> for SpanValue {
    fn from(value: u64) -> SpanValue {
        SpanValue::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<u32> for SpanValue {
    fn from(value: u32) -> SpanValue {
        SpanValue::Int(value.into())
    }
}

impl From<u16> for SpanValue {
    fn from(value: u16) -> SpanValue {
        SpanValue::Int(value.into())
    }
}

impl From<usize> for SpanValue {
    fn from(value: usize) -> SpanValue {
        SpanValue::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

fn cut(text: Cow<'static, str>) -> Cow<'static, str> {
    match text.len() > SPAN_TEXT_BYTES_MAX {
        true => truncate(&text, SPAN_TEXT_BYTES_MAX).to_owned().into(),
        false => text,
    }
}

/// Where a host records spans; by default nowhere.
#[derive(Clone, Default)]
pub struct Spans(Option<(Arc<dyn SpanSink>, &'static str)>);

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spans(..)")
    }
}

impl Spans {
    /// Records into `sink`. `database` is the `db.system.name` of the store, such as `sqlite`.
    pub fn into_sink(sink: Arc<dyn SpanSink>, database: &'static str) -> Spans {
        Spans(Some((sink, database)))
    }

    /// Whether there is a sink.
    pub fn has_sink(&self) -> bool {
        self.0.is_some()
    }

    /// Decides whether to record a request or a delivery that has just arrived, and sets the flag of
    /// its trace. If not, or without a sink, returns `None`. Without a sink the flag is kept.
    pub fn begin(
        &self,
        trace: &mut TraceContext,
        is_continued: bool,
        app: &str,
    ) -> Option<SpanRecorder> {
        let (sink, database) = self.0.as_ref()?;
        let arrival = SpanArrival {
            trace,
            is_continued,
            app,
        };
        let sampled = sink.samples(&arrival);
        trace.set_sampled(sampled);
        sampled.then(|| {
            SpanRecorder(Arc::new(Recording {
                sink: Arc::clone(sink),
                database,
                app: truncate(app, SPAN_TEXT_BYTES_MAX).into(),
                context: trace.clone(),
                current: AtomicU64::new(trace.span_id().get()),
                has_root: AtomicBool::new(false),
                host_functions: AtomicU32::new(0),
                since: (SystemTime::now(), Instant::now()),
            }))
        })
    }
}

/// Records the spans of one request or delivery. Clones record into the same tree.
#[derive(Clone)]
pub struct SpanRecorder(Arc<Recording>);

struct Recording {
    sink: Arc<dyn SpanSink>,
    database: &'static str,
    app: Arc<str>,
    context: TraceContext,
    /// The id of the span that what happens now belongs to. A call does one thing at a time.
    current: AtomicU64,
    /// Whether the span of the context itself was started.
    has_root: AtomicBool,
    /// The number of host functions so far.
    host_functions: AtomicU32,
    /// One moment by both clocks, so that spans nest even if the system's clock is set.
    since: (SystemTime, Instant),
}

impl fmt::Debug for SpanRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpanRecorder(..)")
    }
}

impl SpanRecorder {
    /// Starts the span of the trace context itself: that of the request or the delivery.
    pub fn start_root(
        &self,
        parent: Option<NonZeroU64>,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
    ) -> OpenSpan {
        let id = self.0.context.span_id();
        self.0.has_root.store(true, Ordering::Relaxed);
        self.open(id, parent, kind, name.into())
    }

    /// Starts the span of a call, which becomes the current one: within the request or delivery, or
    /// as the span of the trace context itself, if nothing else is.
    pub fn start_call(&self, name: impl Into<Cow<'static, str>>) -> OpenSpan {
        match self.0.has_root.load(Ordering::Relaxed) {
            true => self.start(SpanKind::Internal, name).current(),
            false => self.start_root(None, SpanKind::Internal, name).current(),
        }
    }

    /// Starts a span within the current one.
    pub fn start(&self, kind: SpanKind, name: impl Into<Cow<'static, str>>) -> OpenSpan {
        let parent = NonZeroU64::new(self.0.current.load(Ordering::Relaxed));
        self.open(TraceContext::new_span_id(), parent, kind, name.into())
    }

    /// Starts the span of a host function, which becomes the current one. Returns `None` if the
    /// trace context has had [`HOST_FUNCTION_SPANS_MAX`].
    pub fn start_host_function(&self, name: &'static str) -> Option<OpenSpan> {
        let earlier = self.0.host_functions.fetch_add(1, Ordering::Relaxed);
        let is_kept = earlier < HOST_FUNCTION_SPANS_MAX;
        is_kept.then(|| {
            let mut span = self.start(SpanKind::Internal, name).current();
            // A read of the store has no other span.
            if name.starts_with("kv_") {
                self.describe_database(&mut span, name);
            }
            span
        })
    }

    /// Starts the span of an operation of the store.
    pub fn start_database(&self, operation: &'static str) -> OpenSpan {
        let mut span = self.start(SpanKind::Client, operation);
        self.describe_database(&mut span, operation);
        span
    }

    /// Sets the attributes of an operation of the store. An app is a namespace in it.
    fn describe_database(&self, span: &mut OpenSpan, operation: &'static str) {
        span.set("db.system.name", self.0.database);
        span.set("db.operation.name", operation);
        if !self.0.app.is_empty() {
            span.set("db.namespace", self.0.app.to_string());
        }
    }

    /// Returns the number of host functions whose spans were left out.
    pub fn host_functions_left_out(&self) -> u32 {
        let all = self.0.host_functions.load(Ordering::Relaxed);
        all.saturating_sub(HOST_FUNCTION_SPANS_MAX)
    }

    fn open(
        &self,
        id: NonZeroU64,
        parent: Option<NonZeroU64>,
        kind: SpanKind,
        name: Cow<'static, str>,
    ) -> OpenSpan {
        let start = Instant::now();
        let (time, instant) = self.0.since;
        OpenSpan {
            span: Some(Span {
                context: self.0.context.clone(),
                id,
                parent,
                kind,
                name: cut(name),
                start: time + start.saturating_duration_since(instant),
                took: Duration::ZERO,
                attributes: Vec::new(),
                link: None,
                error: Some(Cow::Borrowed("cancelled")),
                app: Arc::clone(&self.0.app),
            }),
            recording: Arc::clone(&self.0),
            start,
            previous: None,
        }
    }
}

/// A span that has not ended. If it is dropped before it is ended, it was cancelled.
pub struct OpenSpan {
    span: Option<Span>,
    recording: Arc<Recording>,
    start: Instant,
    /// The span to return to, if this is the current one.
    previous: Option<u64>,
}

impl OpenSpan {
    /// Makes it the current span until it ends: the parent of those that start meanwhile.
    #[must_use]
    pub fn current(mut self) -> OpenSpan {
        if let Some(span) = &self.span {
            let id = span.id.get();
            let previous = self.recording.current.swap(id, Ordering::Relaxed);
            self.previous = Some(previous);
        }
        self
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<SpanValue>) {
        if let Some(span) = &mut self.span {
            span.attributes.push((name, value.into()));
        }
    }

    /// Returns the trace context of what it causes outside of the host.
    pub fn trace(&self) -> Option<TraceContext> {
        let span = self.span.as_ref()?;
        Some(span.context.with_span(span.id))
    }

    /// Links it to the span that caused it.
    pub fn link(&mut self, cause: &TraceContext) {
        if let Some(span) = &mut self.span {
            span.link = Some((cause.trace_id(), cause.span_id()));
        }
    }

    /// Ends it as a success.
    pub fn end(mut self) {
        self.close(None);
    }

    /// Ends it, if there is one, by the result of its work; `class` is as for
    /// [`fail`](OpenSpan::fail).
    pub fn finish<T, E>(
        span: Option<OpenSpan>,
        result: &Result<T, E>,
        class: impl FnOnce(&E) -> &'static str,
    ) {
        match (span, result) {
            (None, _) => {}
            (Some(span), Ok(_)) => span.end(),
            (Some(span), Err(error)) => span.fail(class(error)),
        }
    }

    /// Ends it as a failure. `kind` is one of few: the class of the error or a status, not its text,
    /// which may contain data.
    pub fn fail(mut self, kind: impl Into<Cow<'static, str>>) {
        let kind = cut(kind.into());
        if let Some(span) = &mut self.span {
            let value = SpanValue::Text(kind.clone());
            span.attributes.push(("error.type", value));
        }
        self.close(Some(kind));
    }

    fn close(&mut self, error: Option<Cow<'static, str>>) {
        if let Some(mut span) = self.span.take() {
            span.error = error;
            self.record(span);
        }
    }

    fn record(&self, mut span: Span) {
        span.took = self.start.elapsed();
        if let Some(previous) = self.previous {
            self.recording.current.store(previous, Ordering::Relaxed);
        }
        self.recording.sink.record(span);
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        self.set("error.type", "cancelled");
        if let Some(span) = self.span.take() {
            self.record(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use uuid::Uuid;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Span>>);

    impl SpanSink for Kept {
        fn samples(&self, arrival: &SpanArrival<'_>) -> bool {
            arrival.trace.is_sampled() || !arrival.is_continued
        }

        fn record(&self, span: Span) {
            self.0.lock().push(span);
        }
    }

    fn recorder(kept: &Arc<Kept>) -> (TraceContext, SpanRecorder) {
        let spans = Spans::into_sink(Arc::clone(kept) as Arc<dyn SpanSink>, "sqlite");
        let mut trace = TraceContext::root(Uuid::now_v7());
        let recorder = spans.begin(&mut trace, false, "shop").unwrap();
        (trace, recorder)
    }

    #[test]
    fn spans_are_children_of_the_current_one() {
        let kept = Arc::default();
        let (trace, recorder) = recorder(&kept);
        assert!(trace.is_sampled());
        let root = recorder.start_root(None, SpanKind::Server, "request");
        let call = recorder.start(SpanKind::Internal, "call").current();
        let set = recorder.start_host_function("kv_set").unwrap();
        recorder.start_database("commit").end();
        set.end();
        call.end();
        recorder.start_database("commit").fail("unavailable");
        drop(root);
        let spans = kept.0.lock();
        let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["commit", "kv_set", "call", "commit", "request"]);
        let [inner, set, call, outer, root] = &spans[..] else {
            panic!("{names:?}");
        };
        assert_eq!(root.id, trace.span_id());
        let parents = [inner, set, call, outer].map(|span| span.parent);
        assert_eq!(parents, [set.id, call.id, root.id, root.id].map(Some));
        assert_eq!(root.error.as_deref(), Some("cancelled"));
        assert_eq!(outer.error.as_deref(), Some("unavailable"));
        assert_eq!(call.error, None);
    }

    #[test]
    fn unsampled_trace_is_not_recorded_and_its_flag_is_cleared_only_with_a_sink() {
        let parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut trace = TraceContext::parse(parent, []).unwrap();
        assert!(Spans::default().begin(&mut trace, true, "").is_none());
        assert!(trace.is_sampled());
        let spans = Spans::into_sink(Arc::<Kept>::default(), "sqlite");
        assert!(spans.begin(&mut trace, true, "").is_some());
        trace.set_sampled(false);
        assert!(spans.begin(&mut trace, true, "").is_none());
        assert!(!trace.is_sampled());
    }

    #[test]
    fn spans_of_host_functions_and_texts_are_bounded() {
        let kept = Arc::default();
        let (_, recorder) = recorder(&kept);
        for _ in 0..HOST_FUNCTION_SPANS_MAX + 5 {
            drop(recorder.start_host_function("kv_get"));
        }
        assert_eq!(recorder.host_functions_left_out(), 5);
        let mut span = recorder.start(SpanKind::Internal, "\u{e9}".repeat(1_000));
        span.set("text", "\u{e9}".repeat(1_000));
        span.end();
        let spans = kept.0.lock();
        assert_eq!(spans.len(), HOST_FUNCTION_SPANS_MAX as usize + 1);
        let span = spans.last().unwrap();
        assert_eq!(span.name.len(), SPAN_TEXT_BYTES_MAX);
        let expected = SpanValue::from("\u{e9}".repeat(128));
        assert_eq!(span.attributes, [("text", expected)]);
    }
}
