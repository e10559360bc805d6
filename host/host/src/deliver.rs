//! One delivery: the handler's input, its run, and its commit.

use super::call_recording::CallRecording;
use super::transaction::Run;
use super::{Host, InvokeError};
use bytes::Bytes;
use kvasm_abi::{FORMAT_BYTES, FORMAT_JSON};
use kvasm_core::{
    App, Cost, Delivery, DeliveryTarget, Digest, EventKind, LeaseToken, Pieces, PluginVersion,
    TraceContext, Value,
};
use kvasm_runtime::DeliveryContext;
use kvasm_runtime::{Blame, CallError, CallFailure, InvocationTarget, Response};
use kvasm_service::{
    CallContext, Caller, Deadline, OpenSpan, ServiceError, SpanKind, SpanRecorder, WebhookError,
    rfc3339,
};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use uuid::Uuid;

/// A handler may wait for a CPU and an instance for this multiple of its run time, without using
/// up its time: nobody is waiting for its answer.
const WAIT_FACTOR: u32 = 10;

/// A failed delivery.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct DeliverError {
    /// The cause.
    #[source]
    pub error: DeliverFailure,
    /// The plugin that was to run, if known.
    pub plugin: Option<(PluginVersion, Digest)>,
}

/// Why a delivery failed.
#[derive(Debug, Error)]
pub enum DeliverFailure {
    /// The handler failed, or could not be run.
    #[error(transparent)]
    Handler(#[from] InvokeError),
    /// The webhook was not sent, or not accepted.
    #[error(transparent)]
    Webhook(WebhookError),
}

impl DeliverFailure {
    /// Whether a retry of the delivery would fail the same way.
    pub fn is_deterministic(&self) -> bool {
        match self {
            DeliverFailure::Webhook(error) => error.is_deterministic(),
            DeliverFailure::Handler(error) => match error {
                InvokeError::Call(failure) => failure.error.is_deterministic(),
                InvokeError::Service(ServiceError::NoActivePlugin) => true,
                InvokeError::Load(error) => error.blame() != Blame::Host,
                InvokeError::Service(_) | InvokeError::Refused(_) | InvokeError::Timeout(_) => {
                    false
                }
            },
        }
    }

    /// Returns its class, as one word.
    fn class(&self) -> &'static str {
        match self {
            DeliverFailure::Webhook(_) => "webhook",
            DeliverFailure::Handler(error) => error.class(),
        }
    }

    fn call(&self) -> Option<&CallFailure> {
        match self {
            DeliverFailure::Handler(InvokeError::Call(failure)) => Some(failure),
            _ => None,
        }
    }

    /// Whether the handler, or the receiver of a webhook, reported that a retry would fail too.
    pub fn is_permanent(&self) -> bool {
        match self {
            DeliverFailure::Webhook(error) => error.is_permanent(),
            DeliverFailure::Handler(_) => self
                .call()
                .is_some_and(|failure| failure.error.is_permanent()),
        }
    }

    /// Returns the wait in milliseconds after which to run the delivery again, if that was no
    /// failure: see [`Outbox::defer`](kvasm_core::store::Outbox::defer).
    pub fn deferral_ms(&self) -> Option<u64> {
        match self {
            DeliverFailure::Webhook(error) => {
                let wait = error.deferral()?.as_millis();
                Some(u64::try_from(wait).unwrap_or(u64::MAX))
            }
            DeliverFailure::Handler(_) => self.call()?.error.retry_after_ms(),
        }
    }

    /// Returns the minimum wait before the next attempt.
    pub fn retry_wait_min(&self) -> Duration {
        let wait = match self {
            DeliverFailure::Webhook(error) => error.retry_after(),
            DeliverFailure::Handler(_) => None,
        };
        wait.unwrap_or_default()
    }

    /// Whether the delivery now belongs to another host or is deleted, so that its outcome must
    /// not be recorded.
    pub fn is_lease_lost(&self) -> bool {
        match self {
            DeliverFailure::Webhook(WebhookError::Service(error)) => is_lease_lost(error),
            DeliverFailure::Webhook(_) => false,
            DeliverFailure::Handler(_) => match self.call().map(|failure| &failure.error) {
                Some(CallError::Commit(error)) => is_lease_lost(error),
                _ => false,
            },
        }
    }

    /// Returns the request id of a call that failed.
    pub fn request_id(&self) -> Option<Uuid> {
        Some(self.call()?.request_id)
    }

    /// Returns the guest's backtrace, if known.
    pub fn trace(&self) -> Option<&str> {
        self.call()?.error.trace()
    }

    /// Returns the error without its backtrace. If the plugin logged a panic, returns the
    /// panic's message and location.
    pub fn summary(&self) -> String {
        match self.call() {
            Some(failure) => match (&failure.error, failure.log.panic()) {
                (CallError::Trap { .. }, Some(panic)) => format!("the plugin {panic}"),
                (error, _) => error.summary(),
            },
            None => self.to_string(),
        }
    }
}

/// Whether a commit failed because the delivery now belongs to another host or is deleted.
fn is_lease_lost(error: &ServiceError) -> bool {
    matches!(error, ServiceError::LeaseLost | ServiceError::AppNotFound)
}

impl Host {
    /// Runs the handler of a delivery on the app's active plugin, as a transaction whose commit
    /// also acknowledges the delivery. If the lease of `receipt` is no longer held by then,
    /// nothing takes effect. A delivery to a URL is sent, and acknowledged once it is accepted.
    ///
    /// The app's call limits do not apply: the caller bounds the number of concurrent
    /// deliveries. Returns what the run used, as a failure does by [`InvokeError::cost`].
    ///
    /// # Errors
    /// [`DeliverError`]; nothing was written, and the delivery is still outstanding. Both may have
    /// happened if the commit failed with [`ServiceError::Unavailable`]; the delivery's lease is
    /// lost then.
    pub async fn deliver(
        &self,
        app: &App,
        delivery: &Arc<Delivery>,
        receipt: LeaseToken,
    ) -> Result<Cost, DeliverError> {
        let event = &delivery.event;
        let mut trace = event.handler_span();
        let is_continued = event.trace.is_some();
        let recorder = self
            .0
            .spans
            .begin(&mut trace, is_continued, app.name.as_str());
        let span = recorder
            .as_ref()
            .map(|recorder| delivery_span(recorder, app, delivery));
        let caller = Caller::handler(app, event)
            .with_trace(trace.clone())
            .with_recorder(recorder);
        let delivered = match &delivery.target {
            DeliveryTarget::Function(name) => {
                let name = name.as_str().into();
                self.run_handler(caller, app, delivery, receipt, name).await
            }
            DeliveryTarget::Webhook => {
                let sent = self.send_webhook(caller, &trace, app, delivery, receipt);
                sent.await.map(|()| Cost::default()).map_err(|error| {
                    let error = DeliverFailure::Webhook(error);
                    DeliverError {
                        error,
                        plugin: None,
                    }
                })
            }
        };
        match (span, &delivered) {
            // Not a failure: the handler, or the receiver, asks to be run again later.
            (Some(mut span), Err(error)) if error.error.deferral_ms().is_some() => {
                span.set("kvasm.delivery.deferred", true);
                span.end();
            }
            (span, delivered) => OpenSpan::finish(span, delivered, |error| error.error.class()),
        }
        delivered
    }

    async fn run_handler(
        &self,
        caller: Caller,
        app: &App,
        delivery: &Arc<Delivery>,
        receipt: LeaseToken,
        name: Arc<str>,
    ) -> Result<Cost, DeliverError> {
        let context = CallContext {
            caller,
            request_id: Uuid::now_v7(),
            deadline: Deadline::patient(
                self.0.limits.wall_time,
                self.0.limits.wall_time.saturating_mul(WAIT_FACTOR),
            ),
        };
        let recording = CallRecording::of_delivery(self, app, delivery, &context);
        let result = self
            .load_and_run(app, delivery, receipt, name, context)
            .await;
        recording.end(&result);
        let done = result.map_err(|error| DeliverError {
            error: error.into(),
            plugin: app.active.map(|active| (active.version, active.digest)),
        })?;
        Ok(done.cost)
    }

    async fn load_and_run(
        &self,
        app: &App,
        delivery: &Arc<Delivery>,
        receipt: LeaseToken,
        name: Arc<str>,
        context: CallContext,
    ) -> Result<Response, InvokeError> {
        let active = app.active.ok_or(ServiceError::NoActivePlugin)?;
        let trace_id = context.caller.trace().map(TraceContext::trace_id);
        let recorder = context.caller.recorder();
        let app_of = Arc::new(app.clone());
        let loaded = self.plugin_of(app_of, active.digest, &context.deadline, recorder);
        let plugin = loaded.await?;
        let input = input(delivery);
        let target = InvocationTarget::Handler(Arc::clone(&name));
        let delivered = DeliveryContext {
            trigger: delivery.place.trigger.to_string(),
            event_id: delivery.event.id,
            attempt: delivery.attempts,
            depth: delivery.event.depth,
        };
        let settings = self.settings(&plugin, app, &context).await?;
        let run =
            Run::new(&plugin, context, settings, target, input).of_delivery(delivered, receipt);
        let result = self.run_transaction(run).await;
        self.keep_log(app.id, name, trace_id, &result);
        Ok(result?)
    }
}

/// Starts the span of an attempt. It is a child of the span that caused the change, and linked to it
/// too, for systems that show the processing of a message as a trace of its own.
fn delivery_span(recorder: &SpanRecorder, app: &App, delivery: &Delivery) -> OpenSpan {
    let event = &delivery.event;
    let cause = event.trace.as_ref();
    let trigger = &delivery.place.trigger;
    let name = format!("deliver {trigger}");
    let mut span =
        recorder.start_root(cause.map(|cause| cause.span_id()), SpanKind::Consumer, name);
    if let Some(cause) = cause {
        span.link(cause);
    }
    span.set("kvasm.app", app.name.to_string());
    span.set("messaging.system", "kvasm");
    span.set("messaging.operation.type", "process");
    span.set("messaging.operation.name", "deliver");
    span.set("messaging.destination.name", trigger.to_string());
    span.set("messaging.message.id", event.id.to_string());
    span.set("kvasm.delivery.attempt", delivery.attempts);
    let is_webhook = matches!(delivery.target, DeliveryTarget::Webhook);
    span.set("kvasm.delivery.webhook", is_webhook);
    let (cause, operation) = match event.kind {
        // Whether the entry was new is not known.
        EventKind::Set { .. } => ("datasource", Some("edit")),
        EventKind::Deleted { .. } => ("datasource", Some("delete")),
        EventKind::Due | EventKind::Timer { .. } => ("timer", None),
    };
    span.set("faas.trigger", cause);
    if let (None, Some(time)) = (operation, rfc3339(event.at)) {
        span.set("faas.time", time);
    }
    if let Some(operation) = operation {
        span.set("faas.document.operation", operation);
    }
    if let Some(active) = app.active.filter(|_| !is_webhook) {
        span.set("kvasm.plugin.version", active.version.to_string());
    }
    span
}

/// Builds the handler's input: the event as a JSON head, followed by the value, which is shared
/// with the delivery.
fn input(delivery: &Arc<Delivery>) -> Pieces {
    let event = &delivery.event;
    let mut head = json!({
        "kind": event.kind.kind(),
        "event_id": event.id,
        "trigger": delivery.place.trigger,
        "attempt": delivery.attempts,
        "depth": event.depth,
        "at_ms": event.at,
    });
    if let Some(members) = head.as_object_mut() {
        let mut put = |name: &str, value| drop(members.insert(name.to_owned(), value));
        match &event.kind {
            EventKind::Set {
                collection,
                key,
                version,
                value,
            } => {
                put("collection", json!(collection));
                put("key", json!(key));
                put("version", json!(version));
                put("format", json!(format_of(value)));
            }
            EventKind::Deleted {
                collection,
                key,
                version,
            } => {
                put("collection", json!(collection));
                put("key", json!(key));
                put("version", json!(version));
            }
            EventKind::Due => {}
            EventKind::Timer { name, payload } => {
                put("timer", json!(name));
                put("format", json!(format_of(payload)));
            }
        }
    }
    let head = head.to_string().into_bytes();
    // The head contains a few names, each of at most 1 KiB.
    let prefix = kvasm_abi::http::prefix(head.len()).unwrap_or_default();
    let mut input = Pieces::from([prefix.as_slice(), &head].concat());
    input.push(Bytes::from_owner(ValueOf(Arc::clone(delivery))));
    input
}

/// The value of a delivery's event as bytes; empty if it has none.
struct ValueOf(Arc<Delivery>);

impl AsRef<[u8]> for ValueOf {
    fn as_ref(&self) -> &[u8] {
        match &self.0.event.kind {
            EventKind::Set { value, .. } | EventKind::Timer { payload: value, .. } => {
                value.as_bytes()
            }
            EventKind::Deleted { .. } | EventKind::Due => &[],
        }
    }
}

fn format_of(value: &Value) -> i32 {
    match value {
        Value::Json(_) => FORMAT_JSON,
        Value::Bytes(_) => FORMAT_BYTES,
    }
}
