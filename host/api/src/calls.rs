//! The record of a call.

use super::CostView;
use kvasm_core::TraceId;
use kvasm_service::CallRecord;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// A call of an app's plugin that has ended, or an attempt to send a webhook.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CallView {
    /// Position: microseconds since 1970, adjusted so that calls of one host have different ones.
    pub seq: u64,
    /// When it ended.
    pub at: i64,
    /// Id of the request. Each attempt of a delivery has its own.
    pub request_id: String,
    /// Id of its trace, if it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Name of the called function; of a webhook, its trigger.
    pub function: String,
    /// Version of the plugin; absent for a webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// What caused it: `call`, `http` (a request to the plugin's HTTP handler), or the kind of an
    /// event: `set`, `delete`, `schedule` or `timer`.
    pub cause: String,
    /// The delivery that it was an attempt of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<CallDeliveryView>,
    /// `ok`, `failed`, `trap`, `deadline`, `cpu_time`, `conflict`, `commit`, `rejected`, `busy`,
    /// `host`, `load`, `cancelled` or `deferred`.
    pub outcome: String,
    /// Who is to blame for a failure: `caller`, `plugin`, `host`, `operator` or `receiver`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blame: Option<String>,
    /// Why it failed, truncated to 512 bytes. The log has the whole text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Time from the arrival of its input to its end, in microseconds.
    pub duration_us: u64,
    /// The part of it that it waited for other calls, an instance, its module, a CPU or locks.
    pub waited_us: u64,
    /// What it used, if the plugin ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostView>,
    /// Whether its answer is the kept one of an earlier call with the same idempotency key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
}

/// The delivery of a call.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CallDeliveryView {
    /// Name of the trigger.
    pub trigger: String,
    /// Id of the event.
    pub event_id: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Whether a webhook was sent instead of running the plugin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub webhook: bool,
}

impl From<&CallRecord> for CallView {
    fn from(call: &CallRecord) -> CallView {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // A request without another trace is one of its own.
        let trace = call.trace_id.or_else(|| TraceId::of_uuid(call.request_id));
        CallView {
            seq: call.seq,
            at: call.at.0,
            request_id: call.request_id.to_string(),
            trace_id: trace.map(|id| id.to_string()),
            function: call.function.to_string(),
            version: call.version.map(|version| version.0),
            cause: call.cause.to_string(),
            delivery: call.delivery.as_deref().map(|delivery| CallDeliveryView {
                trigger: delivery.trigger.to_string(),
                event_id: delivery.event_id.to_string(),
                attempt: delivery.attempt,
                webhook: delivery.webhook,
            }),
            outcome: call.outcome.to_string(),
            blame: call.blame.as_ref().map(ToString::to_string),
            error: call.error.as_ref().map(ToString::to_string),
            duration_us: us(call.duration),
            waited_us: us(call.waited),
            cost: call.cost.as_deref().map(CostView::from),
            replayed: call.replayed,
        }
    }
}
