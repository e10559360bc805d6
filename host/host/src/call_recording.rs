//! Records calls of plugins: what was called, why, and how it ended.

use super::{Host, InvokeError, Plugin};
use kvasm_core::{App, AppId, Cost, Delivery, DeliveryTarget, Timestamp, display_truncated};
use kvasm_runtime::{Blame, CallError, CallFailure, InvocationTarget, Response};
use kvasm_service::{
    CallContext, CallRecord, CallRecords, Deadline, DeliveredCall, OutboundBlame, ServiceError,
    WebhookError,
};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

/// Maximum size of the text of a recorded error, in bytes.
const ERROR_BYTES_MAX: usize = 512;

/// How a call ended.
struct End {
    outcome: &'static str,
    blame: Option<&'static str>,
    error: Option<Arc<str>>,
    cost: Cost,
    replayed: bool,
}

/// A call that is to be recorded when it ends. If this is dropped before, it was cancelled.
pub(super) struct CallRecording(Option<Box<OpenCall>>);

struct OpenCall {
    records: Arc<CallRecords>,
    app: AppId,
    deadline: Deadline,
    /// Without its end.
    record: CallRecord,
}

impl CallRecording {
    /// Begins the record of a call that was admitted.
    pub(super) fn of_call(
        host: &Host,
        app: &App,
        target: &InvocationTarget,
        context: &CallContext,
    ) -> CallRecording {
        let (function, cause) = match target {
            InvocationTarget::Function(name) | InvocationTarget::Handler(name) => {
                (Arc::clone(name), "call")
            }
            // Known once the plugin is loaded.
            InvocationTarget::Http => ("".into(), "http"),
        };
        let version = app.active.map(|active| active.version);
        CallRecording::open(host, app, context, |record| CallRecord {
            function,
            version,
            cause: cause.into(),
            ..record
        })
    }

    /// Begins the record of an attempt of a delivery.
    pub(super) fn of_delivery(
        host: &Host,
        app: &App,
        delivery: &Delivery,
        context: &CallContext,
    ) -> CallRecording {
        let trigger = delivery.place.trigger.as_str();
        let (function, version, webhook) = match &delivery.target {
            DeliveryTarget::Function(name) => {
                let version = app.active.map(|active| active.version);
                (name.as_str(), version, false)
            }
            DeliveryTarget::Webhook => (trigger, None, true),
        };
        CallRecording::open(host, app, context, |record| CallRecord {
            function: function.into(),
            version,
            cause: delivery.event.kind.kind().into(),
            delivery: Some(Box::new(DeliveredCall {
                trigger: trigger.into(),
                event_id: delivery.event.id,
                attempt: delivery.attempts,
                webhook,
            })),
            ..record
        })
    }

    fn open(
        host: &Host,
        app: &App,
        context: &CallContext,
        begin: impl FnOnce(CallRecord) -> CallRecord,
    ) -> CallRecording {
        let records = &host.0.calls;
        if !records.is_open() {
            return CallRecording(None);
        }
        let record = CallRecord {
            seq: 0,
            at: Timestamp(0),
            request_id: context.request_id,
            trace_id: context.trace_id_to_log(),
            function: "".into(),
            version: None,
            cause: "".into(),
            delivery: None,
            outcome: "cancelled".into(),
            blame: None,
            error: None,
            duration: Duration::ZERO,
            waited: Duration::ZERO,
            cost: None,
            replayed: false,
        };
        CallRecording(Some(Box::new(OpenCall {
            records: Arc::clone(records),
            app: app.id,
            deadline: context.deadline.clone(),
            record: begin(record),
        })))
    }

    /// Records the plugin that runs, and the name of its function.
    pub(super) fn runs(&mut self, plugin: &Plugin, name: &Arc<str>) {
        if let Some(open) = &mut self.0 {
            open.record.function = Arc::clone(name);
            open.record.version = plugin.app.active.map(|active| active.version);
        }
    }

    /// Ends the record of a call.
    pub(super) fn end(self, result: &Result<Response, InvokeError>) {
        self.end_by(|| match result {
            Ok(response) => End {
                cost: response.cost,
                replayed: response.replayed,
                ..End::ok()
            },
            Err(error) => End::of(error),
        });
    }

    /// Ends the record of a call whose answer was kept by an earlier one.
    pub(super) fn replayed(self) {
        self.end_by(|| End {
            replayed: true,
            ..End::ok()
        });
    }

    /// Ends the record of an attempt to send a webhook.
    pub(super) fn end_webhook(self, result: &Result<(), WebhookError>) {
        self.end_by(|| match result {
            Ok(()) => End::ok(),
            Err(error) => End::of_webhook(error),
        });
    }

    fn end_by(mut self, end: impl FnOnce() -> End) {
        if let Some(open) = self.0.take() {
            open.push(end());
        }
    }
}

impl Drop for CallRecording {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            // Of a call its caller disconnected; of a delivery its host stops, or lost the lease.
            let blame = match open.record.delivery {
                None => "caller",
                Some(_) => "host",
            };
            open.push(End {
                outcome: "cancelled",
                blame: Some(blame),
                ..End::ok()
            });
        }
    }
}

impl OpenCall {
    fn push(self, end: End) {
        let record = CallRecord {
            at: Timestamp::now(),
            outcome: end.outcome.into(),
            blame: end.blame.map(Into::into),
            error: end.error,
            duration: self.deadline.elapsed(),
            waited: self.deadline.waited(),
            cost: (end.cost.runs > 0).then(|| Box::new(end.cost)),
            replayed: end.replayed,
            ..self.record
        };
        self.records.push(self.app, record);
    }
}

impl End {
    fn ok() -> End {
        End {
            outcome: "ok",
            blame: None,
            error: None,
            cost: Cost::default(),
            replayed: false,
        }
    }

    fn failed(
        outcome: &'static str,
        blame: impl Into<Option<&'static str>>,
        error: &dyn Display,
    ) -> End {
        End {
            outcome,
            blame: blame.into(),
            error: Some(display_truncated(error, ERROR_BYTES_MAX).into()),
            ..End::ok()
        }
    }

    fn of(error: &InvokeError) -> End {
        match error {
            InvokeError::Call(failure) => End::of_run(failure),
            InvokeError::Load(cause) => End::failed("load", name_of(cause.blame()), error),
            InvokeError::Timeout(_) | InvokeError::Refused(_) => End::failed("busy", "host", error),
            InvokeError::Service(ServiceError::NoActivePlugin) => {
                End::failed("rejected", "caller", error)
            }
            InvokeError::Service(_) => End::failed("host", "host", error),
        }
    }

    fn of_run(failure: &CallFailure) -> End {
        let error = &failure.error;
        let text = match (error, failure.log.panic(), error.retry_after_ms()) {
            (_, _, Some(ms)) => format!("the handler asks to be run again in {ms} ms"),
            (CallError::Trap { .. }, Some(panic), _) => format!("the plugin {panic}"),
            _ => error.summary(),
        };
        End {
            cost: failure.cost,
            ..End::failed(error.outcome(), name_of(error.blame()), &text)
        }
    }

    fn of_webhook(error: &WebhookError) -> End {
        if error.deferral().is_some() {
            return End::failed("deferred", None, error);
        }
        let (outcome, blame) = match error {
            WebhookError::NoUrl | WebhookError::BadSecret { .. } => ("rejected", "operator"),
            WebhookError::Service(_) => ("host", "host"),
            WebhookError::Status { .. } => ("failed", "receiver"),
            WebhookError::Outbound(cause) => match cause.blame() {
                OutboundBlame::Guest | OutboundBlame::Operator => ("failed", "operator"),
                OutboundBlame::Remote => ("failed", "receiver"),
                OutboundBlame::Host => ("host", "host"),
            },
        };
        End::failed(outcome, blame, error)
    }
}

fn name_of(blame: Blame) -> &'static str {
    match blame {
        Blame::Caller => "caller",
        Blame::Guest => "plugin",
        Blame::Host => "host",
    }
}
