//! Reports when failures pause a trigger, and how its probes end: in the app's log, the host's
//! log and the metrics.

use super::DispatchContext;
use kvasm_core::{App, Delivery, DeliveryTarget, FailOutcome, Level, Timestamp};
use kvasm_service::{LogRecord, LogSource};
use uuid::Uuid;

/// Logs the effect of a failed delivery on its trigger. A pause is always logged, whatever the
/// app has logged: it happens at most once in ten failures.
pub(super) fn after_failure(
    shared: &DispatchContext,
    app: &App,
    delivery: &Delivery,
    request_id: Uuid,
    returned: FailOutcome,
) {
    let trigger = &delivery.place.trigger;
    match returned {
        FailOutcome::LeaseLost | FailOutcome::Recorded => {}
        FailOutcome::Paused { failures, probe_at } => {
            shared.host.metrics().trigger(app.name.as_str(), "paused");
            let wait = seconds(probe_at);
            tracing::warn!(app = %app.name, %trigger, failures, probe_in_seconds = wait, "trigger paused after consecutive failures");
            let message = format!(
                "trigger {trigger} is paused: {failures} deliveries in a row failed; in {wait} s \
                 one is run as a probe, and the trigger resumes if it succeeds"
            );
            log(shared, app, delivery, request_id, Level::Error, message);
        }
        FailOutcome::ProbeFailed { probe_at } => {
            shared
                .host
                .metrics()
                .trigger(app.name.as_str(), "probe_failed");
            let wait = seconds(probe_at);
            tracing::info!(app = %app.name, %trigger, probe_in_seconds = wait, "trigger stays paused: its probe failed");
            let message = format!(
                "trigger {trigger} stays paused: the probe failed; the next one is in {wait} s"
            );
            log(shared, app, delivery, request_id, Level::Warn, message);
        }
    }
}

/// Logs that the probe of a paused trigger succeeded.
pub(super) fn after_probe(shared: &DispatchContext, app: &App, delivery: &Delivery) {
    let trigger = &delivery.place.trigger;
    shared.host.metrics().trigger(app.name.as_str(), "resumed");
    tracing::info!(app = %app.name, %trigger, "trigger resumed: its probe succeeded");
    let message = format!("trigger {trigger} has resumed: the probe succeeded");
    log(shared, app, delivery, Uuid::now_v7(), Level::Info, message);
}

/// Returns the seconds until `at`.
fn seconds(at: Timestamp) -> i64 {
    at.0.saturating_sub(Timestamp::now().0).max(0) / 1_000
}

fn log(
    shared: &DispatchContext,
    app: &App,
    delivery: &Delivery,
    request_id: Uuid,
    level: Level,
    message: String,
) {
    let record = LogRecord {
        seq: 0,
        at: Timestamp::now(),
        level,
        source: LogSource::Host,
        function: match &delivery.target {
            DeliveryTarget::Function(name) => name.as_str(),
            DeliveryTarget::Webhook => delivery.place.trigger.as_str(),
        }
        .into(),
        request_id,
        trace_id: delivery.event.trace_id(),
        message,
        discarded: false,
        cost: None,
    };
    shared.host.logs().push(app.id, [record]);
}
