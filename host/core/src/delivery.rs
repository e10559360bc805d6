//! Deliveries: an event that is to be delivered to the target of one trigger.
//!
//! A delivery is one row. It is written in the transaction of the change, holds the whole event,
//! and is deleted in the commit of its handler. A change with two triggers has two independent
//! deliveries of the same event.

use super::Version;
use super::{
    AppId, Collection, DELIVERY_BYTES, DeliveryState, DeliveryTarget, Digest, Key, PluginVersion,
    Policy, ProbeDelay, TimerName, Timestamp, TraceContext, TraceId, TriggerName, Value,
    timer_ordering_key,
};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The maximum recursion depth of changes that handlers make to each other's collections. An event
/// beyond it becomes a dead letter at once, so that a loop of handlers ends.
pub const DEPTH_MAX: u32 = 8;

/// An event that triggers react to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its identity: the same for every trigger, attempt and replay.
    pub id: Uuid,
    /// The number of handlers between it and a call: 1 for a change that a call made, one more for
    /// each handler in between.
    pub depth: u32,
    /// The number of deliveries that may still follow from it.
    pub followers: u32,
    /// When it occurred; for a schedule or a timer, when it was due.
    pub at: Timestamp,
    /// The span that caused it, if that belongs to a trace.
    pub trace: Option<TraceContext>,
    /// Its kind and data.
    pub kind: EventKind,
}

impl Event {
    /// Returns the bytes that a delivery of it counts against its app's quota: those of its
    /// [kind](EventKind::bytes) and of its encoded trace context.
    pub fn bytes(&self) -> u64 {
        let trace = self.trace.as_ref().map_or(0, TraceContext::encoded_len);
        self.kind.bytes() + trace as u64
    }

    /// Returns the trace of the runs of its handlers: the one that it was caused in, or one of its
    /// own, which has its id.
    pub fn trace_id(&self) -> Option<TraceId> {
        let trace = self.trace.as_ref().map(TraceContext::trace_id);
        trace.or_else(|| TraceId::of_uuid(self.id))
    }

    /// Returns the ordering key of its deliveries: that of its entry's key, the one of schedules, or
    /// for a timer one of its own.
    pub fn ordering_key(&self) -> i64 {
        match &self.kind {
            EventKind::Set { key, .. } | EventKind::Deleted { key, .. } => {
                ordering_key_of(key.as_str())
            }
            EventKind::Due => ordering_key_of(""),
            EventKind::Timer { .. } => timer_ordering_key(self.id),
        }
    }

    /// Returns the trace context of a run of a handler: a new span.
    pub fn handler_span(&self) -> TraceContext {
        match &self.trace {
            Some(cause) => cause.child(),
            None => TraceContext::root(self.id),
        }
    }
}

/// The kind of an event, with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// An entry was written.
    Set {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// Its new version.
        version: Version,
        /// Its new value.
        value: Value,
    },
    /// An entry was deleted.
    Deleted {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// Its last version.
        version: Version,
    },
    /// A schedule became due.
    Due,
    /// A timer became due.
    Timer {
        /// Its name.
        name: TimerName,
        /// What it was set with.
        payload: Value,
    },
}

impl EventKind {
    /// Returns the entry that changed, if it is a change.
    pub fn entry(&self) -> Option<(&Collection, &Key)> {
        match self {
            EventKind::Set {
                collection, key, ..
            }
            | EventKind::Deleted {
                collection, key, ..
            } => Some((collection, key)),
            EventKind::Due | EventKind::Timer { .. } => None,
        }
    }

    /// Returns the kind in one word.
    pub const fn kind(&self) -> &'static str {
        match self {
            EventKind::Set { .. } => "set",
            EventKind::Deleted { .. } => "delete",
            EventKind::Due => "schedule",
            EventKind::Timer { .. } => "timer",
        }
    }

    /// Returns the bytes that a delivery of it counts against its app's quota, without its trace
    /// context: those of collection, key and value, or of a timer's name and payload, and
    /// [`DELIVERY_BYTES`]. A run of a schedule counts nothing, because each schedule has at most one.
    pub fn bytes(&self) -> u64 {
        let (names, value) = match self {
            EventKind::Set {
                collection,
                key,
                value,
                ..
            } => ((collection, key), value.as_bytes().len()),
            EventKind::Deleted {
                collection, key, ..
            } => ((collection, key), 0),
            EventKind::Due => return 0,
            EventKind::Timer { name, payload } => {
                return (name.as_str().len() + payload.as_bytes().len()) as u64 + DELIVERY_BYTES;
            }
        };
        (names.0.as_str().len() + names.1.as_str().len() + value) as u64 + DELIVERY_BYTES
    }
}

/// The key of a delivery. Deliveries with the same trigger and ordering key are handled one after
/// another, in the order of their sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeliveryKey {
    /// The trigger.
    pub trigger: TriggerName,
    /// The ordering key: a hash of the entry's key. Keys with the same hash only wait for each
    /// other.
    pub ordering_key: i64,
    /// The sequence number, larger for later events of the same key.
    pub seq: i64,
}

/// Returns the ordering key of an entry's key, or of a schedule, which has one of its own.
pub fn ordering_key_of(key: &str) -> i64 {
    use sha2::{Digest as _, Sha256};
    let hash = Sha256::digest(key.as_bytes());
    let first = hash.first_chunk::<8>().copied().unwrap_or_default();
    i64::from_le_bytes(first)
}

/// A lease token: the right to handle a delivery until the lease expires or another claim replaces
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseToken {
    /// The app.
    pub app: AppId,
    /// The delivery.
    pub place: DeliveryKey,
    /// The lease. The next claim of the delivery writes another one.
    pub lease: Uuid,
}

/// A queue: the deliveries of one trigger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue {
    /// The app.
    pub app: AppId,
    /// The trigger.
    pub trigger: TriggerName,
}

/// A request to claim deliveries.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The queue to claim from.
    pub queue: Queue,
    /// The current time.
    pub now: Timestamp,
    /// When the lease expires.
    pub until: Timestamp,
    /// The lease, shared by all deliveries of this claim.
    pub lease: Uuid,
    /// The maximum number of deliveries.
    pub limit: u32,
}

/// A delivery that is not done yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its key.
    pub place: DeliveryKey,
    /// The event.
    pub event: Event,
    /// Where it goes.
    pub target: DeliveryTarget,
    /// Its retry policy.
    pub policy: Policy,
    /// The number of attempts, including a running one. An attempt counts even if its host dies.
    pub attempts: u32,
    /// How often it was replayed from the dead letters.
    pub replays: u32,
    /// When it was queued: with the event, by a replay, or, if it was deferred, when it becomes due;
    /// for a timer, when it is due.
    pub queued_at: Timestamp,
    /// When it may be claimed; `None` behind another delivery of its ordering key.
    pub due_at: Option<Timestamp>,
    /// Whether it is claimed. Then `due_at` is when the lease expires.
    pub leased: bool,
    /// The error of the last attempt.
    pub error: Option<String>,
    /// Whether this claim is the probe of a trigger that was paused by failures.
    pub is_probe: bool,
}

impl Delivery {
    /// Returns its state.
    pub fn state(&self) -> DeliveryState {
        match (self.due_at, self.leased) {
            (None, _) => DeliveryState::Waiting,
            (Some(_), true) => DeliveryState::Leased,
            (Some(_), false) => DeliveryState::Pending,
        }
    }
}

/// Why a delivery became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// All attempts that its policy allows have failed.
    Attempts,
    /// It is older than its policy allows.
    Age,
    /// It failed in a way that a retry would repeat: a trap, the memory or time limit, an input
    /// that the handler does not understand, a missing function.
    Deterministic,
    /// Its event exceeds the recursion limit of handlers.
    Depth,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [DeadReason; 4] = [
        DeadReason::Attempts,
        DeadReason::Age,
        DeadReason::Deterministic,
        DeadReason::Depth,
    ];

    /// Returns the reason in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeadReason::Attempts => "attempts",
            DeadReason::Age => "age",
            DeadReason::Deterministic => "deterministic",
            DeadReason::Depth => "depth",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeadReason {
    type Err = ();

    fn from_str(word: &str) -> Result<DeadReason, ()> {
        let mut all = DeadReason::ALL.into_iter();
        all.find(|reason| reason.as_str() == word).ok_or(())
    }
}

/// The outcome of a failed attempt of a claimed delivery.
#[derive(Debug, Clone)]
pub struct FailedAttempt {
    /// The lease token of the delivery.
    pub receipt: LeaseToken,
    /// The current time.
    pub now: Timestamp,
    /// What happens to the delivery.
    pub verdict: Verdict,
    /// Whether the failure was deterministic, which counts against the trigger.
    pub deterministic: bool,
    /// How long a paused trigger waits for its next probe.
    pub probe: ProbeDelay,
    /// The error, in one line.
    pub error: String,
    /// The stack trace in the plugin, if known.
    pub trace: Option<String>,
    /// The plugin version that was run, if any.
    pub plugin: Option<(PluginVersion, Digest)>,
}

/// What happened to a delivery that was reported as failed, and to its trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailOutcome {
    /// The lease no longer held; nothing changed.
    LeaseLost,
    /// The delivery follows its verdict; its trigger is unchanged.
    Recorded,
    /// The same, and the trigger is now paused.
    Paused {
        /// Consecutive failed deliveries.
        failures: u32,
        /// When a probe is let through.
        probe_at: Timestamp,
    },
    /// The delivery was the probe of a paused trigger, which stays paused.
    ProbeFailed {
        /// When the next probe is let through.
        probe_at: Timestamp,
    },
}

impl FailOutcome {
    /// Returns whether the lease held.
    pub const fn is_held(self) -> bool {
        !matches!(self, FailOutcome::LeaseLost)
    }
}

/// What happens to a delivery after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Retry it, not before this time.
    RetryAt(Timestamp),
    /// It becomes a dead letter.
    DeadLetter(DeadReason),
}

/// A filter of an app's outstanding deliveries. Each field that is set narrows the selection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryFilter {
    /// For these events; any if empty.
    pub events: Vec<Uuid>,
    /// For this trigger.
    pub trigger: Option<TriggerName>,
    /// Queued at this time or later.
    pub from: Option<Timestamp>,
    /// Queued before this time.
    pub until: Option<Timestamp>,
}

impl DeliveryFilter {
    /// Selects all deliveries of a trigger.
    pub fn of(trigger: TriggerName) -> DeliveryFilter {
        DeliveryFilter {
            trigger: Some(trigger),
            ..DeliveryFilter::default()
        }
    }
}

/// The result of deleting a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerDeletion {
    /// It was deleted.
    Deleted,
    /// It does not exist.
    Absent,
    /// It has outstanding deliveries and was not deleted.
    Outstanding,
}

/// A schedule that is due, and its next state.
#[derive(Debug, Clone)]
pub struct ScheduleTick {
    /// The schedule's trigger.
    pub queue: Queue,
    /// The time for which it was planned. If the stored time differs, another host was faster and
    /// nothing changes.
    pub planned: Option<Timestamp>,
    /// When it is due next.
    pub next: Option<Timestamp>,
    /// The run to create, unless an earlier one is still outstanding; `None` if the schedule is
    /// planned for the first time.
    pub run: Option<Timestamp>,
    /// The current time.
    pub now: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordering_key_is_stable() {
        // The value is stored in databases.
        assert_eq!(
            ordering_key_of(""),
            i64::from_le_bytes(*b"\xe3\xb0\xc4\x42\x98\xfc\x1c\x14")
        );
        assert_ne!(ordering_key_of("a"), ordering_key_of("b"));
    }
}
