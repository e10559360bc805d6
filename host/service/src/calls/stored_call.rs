//! The format of calls in segments: JSON objects with short names, without what is their default.

use super::{CallRecord, DeliveredCall};
use kvasm_core::{Cost, PluginVersion, Timestamp, TraceId};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A note that calls were not recorded, in a segment.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredGap {
    pub(super) seq: u64,
    pub(super) left_out: u64,
}

/// A call in a segment. Durations are in microseconds.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredCall {
    seq: u64,
    at: i64,
    request: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    function: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    cause: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delivery: Option<StoredDelivery>,
    #[serde(default = "ok", skip_serializing_if = "is_ok")]
    outcome: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blame: Option<Cow<'static, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Arc<str>>,
    took: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    waited: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost: Option<StoredCost>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredDelivery {
    trigger: Arc<str>,
    event: Uuid,
    attempt: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    webhook: bool,
}

/// A cost, of which most members are 0.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct StoredCost {
    runs: u32,
    cpu: u64,
    memory: u64,
    #[serde(skip_serializing_if = "is_zero")]
    reads: u64,
    #[serde(skip_serializing_if = "is_zero")]
    writes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    bytes_read: u64,
    #[serde(skip_serializing_if = "is_zero")]
    bytes_written: u64,
    #[serde(skip_serializing_if = "is_zero")]
    host_calls: u64,
    #[serde(skip_serializing_if = "is_zero")]
    fetches: u64,
}

fn ok() -> Cow<'static, str> {
    Cow::Borrowed("ok")
}

fn is_ok(outcome: &str) -> bool {
    outcome == "ok"
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl From<&CallRecord> for StoredCall {
    fn from(call: &CallRecord) -> StoredCall {
        StoredCall {
            seq: call.seq,
            at: call.at.0,
            request: call.request_id,
            trace: call.trace_id.map(|id| id.to_string()),
            function: Arc::clone(&call.function),
            version: call.version.map(|version| version.0),
            cause: call.cause.clone(),
            delivery: call.delivery.as_deref().map(|delivery| StoredDelivery {
                trigger: Arc::clone(&delivery.trigger),
                event: delivery.event_id,
                attempt: delivery.attempt,
                webhook: delivery.webhook,
            }),
            outcome: call.outcome.clone(),
            blame: call.blame.clone(),
            error: call.error.clone(),
            took: us(call.duration),
            waited: us(call.waited),
            cost: call.cost.as_deref().map(|cost| StoredCost {
                runs: cost.runs,
                cpu: us(cost.cpu),
                memory: cost.memory_bytes,
                reads: cost.entries_read,
                writes: cost.entries_written,
                bytes_read: cost.bytes_read,
                bytes_written: cost.bytes_written,
                host_calls: cost.host_calls,
                fetches: cost.fetches,
            }),
            replayed: call.replayed,
        }
    }
}

impl From<StoredCall> for CallRecord {
    fn from(call: StoredCall) -> CallRecord {
        let cost = |cost: StoredCost| Cost {
            runs: cost.runs,
            cpu: Duration::from_micros(cost.cpu),
            memory_bytes: cost.memory,
            entries_read: cost.reads,
            entries_written: cost.writes,
            bytes_read: cost.bytes_read,
            bytes_written: cost.bytes_written,
            host_calls: cost.host_calls,
            fetches: cost.fetches,
        };
        let delivery = |delivery: StoredDelivery| DeliveredCall {
            trigger: delivery.trigger,
            event_id: delivery.event,
            attempt: delivery.attempt,
            webhook: delivery.webhook,
        };
        CallRecord {
            seq: call.seq,
            at: Timestamp(call.at),
            request_id: call.request,
            trace_id: call.trace.and_then(|id| id.parse::<TraceId>().ok()),
            function: call.function,
            version: call.version.map(PluginVersion),
            cause: call.cause,
            delivery: call.delivery.map(delivery).map(Box::new),
            outcome: call.outcome,
            blame: call.blame,
            error: call.error,
            duration: Duration::from_micros(call.took),
            waited: Duration::from_micros(call.waited),
            cost: call.cost.map(cost).map(Box::new),
            replayed: call.replayed,
        }
    }
}
