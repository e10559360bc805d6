//! Records of calls, and filters of them.

use super::stored_call::{StoredCall, StoredGap};
use crate::logs::flood_gate::FloodRates;
use crate::logs::segment_record::SegmentRecord;
use crate::logs::{LogCursor, RecordPage, RecordQuery};
use kvasm_core::store::SegmentKind;
use kvasm_core::{Cost, PluginVersion, Timestamp, TraceId};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// The outcomes of calls. Those of runs are the labels of `kvasm_invocations_total`.
pub const CALL_OUTCOMES: [&str; 13] = [
    "ok",
    "failed",
    "trap",
    "deadline",
    "cpu_time",
    "conflict",
    "commit",
    "rejected",
    "busy",
    "host",
    // The plugin could not be loaded.
    "load",
    // The caller left, or the host stopped.
    "cancelled",
    // A webhook that waits, as it exceeds a limit of its app.
    "deferred",
];

/// A call that has ended: of a function, of the HTTP handler, or by a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// Its position: microseconds since 1970 at its end, or more where that is needed for the
    /// records of one host to have increasing positions.
    pub seq: u64,
    /// When it ended.
    pub at: Timestamp,
    /// The request. A delivery has one for each attempt.
    pub request_id: Uuid,
    /// The trace of the request, if it belongs to one.
    pub trace_id: Option<TraceId>,
    /// The function that was called, or the trigger of a webhook.
    pub function: Arc<str>,
    /// The plugin's version, if one was to run.
    pub version: Option<PluginVersion>,
    /// What it was caused by: `call`, `http`, or the kind of an event: `set`, `delete`, `schedule`
    /// or `timer`.
    pub cause: Cow<'static, str>,
    /// The delivery, if it was caused by an event.
    pub delivery: Option<Box<DeliveredCall>>,
    /// One of [`CALL_OUTCOMES`].
    pub outcome: Cow<'static, str>,
    /// Who is to blame for a failure: `caller`, `plugin`, `host`, or, for webhooks, `operator` or
    /// `receiver`.
    pub blame: Option<Cow<'static, str>>,
    /// Why it failed, in short.
    pub error: Option<Arc<str>>,
    /// The time from the arrival of its input to its end.
    pub duration: Duration,
    /// The part of it that it waited for other calls, an instance, its module, a CPU or locks.
    pub waited: Duration,
    /// What it used, if the plugin ran.
    pub cost: Option<Box<Cost>>,
    /// Whether its answer is the kept one of an earlier call with the same idempotency key.
    pub replayed: bool,
}

/// The delivery that a call was an attempt of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredCall {
    /// The trigger.
    pub trigger: Arc<str>,
    /// The event.
    pub event_id: Uuid,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Whether a webhook was sent instead of running the plugin.
    pub webhook: bool,
}

impl CallRecord {
    /// Whether it is to be listed among failures.
    pub fn has_failed(&self) -> bool {
        !matches!(&*self.outcome, "ok" | "deferred")
    }

    fn bytes(&self) -> usize {
        let boxed = |is: bool, size| if is { size } else { 0 };
        // Names are shared with the plugin.
        size_of::<CallEntry>()
            + self.error.as_ref().map_or(0, |error| error.len())
            + boxed(self.delivery.is_some(), size_of::<DeliveredCall>())
            + boxed(self.cost.is_some(), size_of::<Cost>())
    }
}

/// A filter of calls. All given conditions must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallFilter {
    /// Calls that ended at this time or later.
    pub since: Option<Timestamp>,
    /// Calls that ended before this time.
    pub until: Option<Timestamp>,
    /// Calls of this request.
    pub request: Option<Uuid>,
    /// Calls of this function.
    pub function: Option<String>,
    /// Attempts of deliveries of this trigger.
    pub trigger: Option<String>,
    /// Calls with this outcome.
    pub outcome: Option<String>,
    /// Only calls that failed.
    pub failed: bool,
    /// Calls that took at least this long.
    pub slower: Duration,
}

impl CallFilter {
    fn covers(&self, call: &CallRecord) -> bool {
        let trigger = call.delivery.as_ref().map(|delivery| &*delivery.trigger);
        self.since.is_none_or(|since| since <= call.at)
            && self.until.is_none_or(|until| call.at < until)
            && self.request.is_none_or(|id| id == call.request_id)
            && (self.function.as_deref()).is_none_or(|function| function == &*call.function)
            && (self.trigger.as_deref()).is_none_or(|wanted| trigger == Some(wanted))
            && (self.outcome.as_deref()).is_none_or(|outcome| outcome == call.outcome)
            && (!self.failed || call.has_failed())
            && self.slower <= call.duration
    }
}

/// Which calls to read.
pub type CallQuery = RecordQuery<CallFilter>;

/// A page of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPage {
    /// Oldest first.
    pub calls: Vec<CallRecord>,
    /// The place before which older calls may be, as in a page of a log.
    pub older: Option<LogCursor>,
    /// The number of calls in the range of the page that were not recorded, because the app made too
    /// many or the store failed. Whether they would meet the filter is unknown.
    pub left_out: u64,
}

impl From<RecordPage<CallEntry>> for CallPage {
    fn from(page: RecordPage<CallEntry>) -> CallPage {
        let calls = page.records.into_iter().filter_map(|entry| match entry {
            CallEntry::Call(call) => Some(call),
            CallEntry::Gap { .. } => None,
        });
        CallPage {
            calls: calls.collect(),
            older: page.older,
            left_out: page.left_out,
        }
    }
}

/// What segments of calls consist of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are calls")]
pub enum CallEntry {
    /// A call.
    Call(CallRecord),
    /// A note that calls before it were not recorded.
    Gap {
        /// Its position.
        seq: u64,
        /// The number of calls.
        calls: u64,
    },
}

impl SegmentRecord for CallEntry {
    type Filter = CallFilter;

    const KIND: SegmentKind = SegmentKind::Calls;
    const QUEUES_BYTES_MAX: usize = 32 * 1024 * 1024;
    const RATES: FloodRates = FloodRates {
        per_second: 1_000.0,
        burst: 10_000.0,
        sample: 100,
        for_failures: 0.1,
    };

    fn seq(&self) -> u64 {
        match self {
            CallEntry::Call(call) => call.seq,
            CallEntry::Gap { seq, .. } => *seq,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            CallEntry::Call(call) => call.bytes(),
            CallEntry::Gap { .. } => size_of::<CallEntry>(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        // Serialising a struct of numbers and strings cannot fail.
        let _ = match self {
            CallEntry::Call(call) => serde_json::to_writer(out, &StoredCall::from(call)),
            CallEntry::Gap { seq, calls } => {
                let (seq, left_out) = (*seq, *calls);
                serde_json::to_writer(out, &StoredGap { seq, left_out })
            }
        };
    }

    fn read(line: &[u8]) -> Option<CallEntry> {
        // Nearly all are calls.
        if let Ok(call) = serde_json::from_slice::<StoredCall>(line) {
            return Some(CallEntry::Call(call.into()));
        }
        let gap = serde_json::from_slice::<StoredGap>(line).ok()?;
        Some(CallEntry::Gap {
            seq: gap.seq,
            calls: gap.left_out,
        })
    }

    fn meets(&self, filter: &CallFilter) -> bool {
        matches!(self, CallEntry::Call(call) if filter.covers(call))
    }

    fn times(filter: &CallFilter) -> (Option<Timestamp>, Option<Timestamp>) {
        (filter.since, filter.until)
    }

    fn left_out(&self) -> u64 {
        match self {
            CallEntry::Call(_) => 0,
            CallEntry::Gap { calls, .. } => *calls,
        }
    }
}
