//! One delivery to a URL: the request, and the commit that acknowledges it.

use super::Host;
use super::call_recording::CallRecording;
use kvasm_core::{App, Batch, Delivery, LeaseToken, Level, Timestamp, TraceContext};
use kvasm_service::{
    CallContext, Caller, Deadline, LogRecord, LogSource, WebhookCall, WebhookError,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The maximum duration of an attempt. The client's own timeout is shorter: a webhook may take longer
/// than a run, as it occupies neither an instance nor a CPU.
const ATTEMPT_MAX: Duration = Duration::from_secs(60 * 60);

impl Host {
    /// Sends a delivery to the URL that its trigger has now. Once the receiver has accepted it, the
    /// delivery is acknowledged.
    pub(super) async fn send_webhook(
        &self,
        caller: Caller,
        trace: &TraceContext,
        app: &App,
        delivery: &Arc<Delivery>,
        receipt: LeaseToken,
    ) -> Result<(), WebhookError> {
        let context = CallContext {
            caller,
            request_id: Uuid::now_v7(),
            deadline: Deadline::after(ATTEMPT_MAX),
        };
        let recording = CallRecording::of_delivery(self, app, delivery, &context);
        let sent = self
            .send_and_acknowledge(&context.caller, trace, app, delivery, receipt)
            .await;
        recording.end_webhook(&sent);
        if let Err(error) = &sent
            && error.deferral().is_none()
        {
            self.log_failed_webhook(app, delivery, context.request_id, error);
        }
        sent
    }

    async fn send_and_acknowledge(
        &self,
        caller: &Caller,
        trace: &TraceContext,
        app: &App,
        delivery: &Delivery,
        receipt: LeaseToken,
    ) -> Result<(), WebhookError> {
        let service = |error| WebhookError::Service(kvasm_service::ServiceError::from(error));
        let triggers = self.store().triggers(app.id).await.map_err(service)?;
        let trigger = triggers
            .iter()
            .find(|trigger| trigger.name == delivery.place.trigger);
        let webhook = trigger.and_then(|trigger| trigger.target.webhook());
        let webhook = webhook.ok_or(WebhookError::NoUrl)?;
        let secret = self.0.settings.secret(app, &webhook.secret).await?;
        let call = WebhookCall {
            app,
            delivery,
            webhook,
            secret,
            trace,
            recorder: caller.recorder(),
            now: Timestamp::now(),
            deadline: Instant::now() + ATTEMPT_MAX,
        };
        call.send(&*self.0.services.outbound).await?;
        let batch = Batch {
            acknowledge: Some(Box::new(receipt)),
            ..Batch::default()
        };
        self.kv().commit(caller, batch).await?;
        Ok(())
    }

    /// Writes the reason of a failed attempt to the app's log.
    fn log_failed_webhook(
        &self,
        app: &App,
        delivery: &Delivery,
        request_id: Uuid,
        error: &WebhookError,
    ) {
        let trigger = &delivery.place.trigger;
        let record = LogRecord {
            seq: 0,
            at: Timestamp::now(),
            level: Level::Error,
            source: LogSource::Host,
            function: trigger.as_str().into(),
            request_id,
            trace_id: delivery.event.trace_id(),
            message: format!("webhook {trigger} of event {}: {error}", delivery.event.id),
            discarded: false,
            cost: None,
        };
        self.logs().push(app.id, [record]);
    }
}
