//! Deliveries: an event on its way to one trigger's function.
//!
//! A delivery is one row. It is written in the transaction of the change, carries
//! all of the event, and goes with the commit of its handler. So a change with
//! two triggers has two deliveries, of the same event, that know nothing of each
//! other.

use super::Version;
use super::{
    AppId, Collection, DELIVERY_BYTES, DeliveryState, Digest, Key, PluginVersion, Policy,
    ProbeWait, Timestamp, TriggerName, Value,
};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The deepest chain of changes that handlers make to each other's collections.
/// An event below it is given up at once, so a loop of handlers ends.
pub const DEPTH_MAX: u32 = 8;

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its identity: the same for each trigger, each attempt and each replay.
    pub id: Uuid,
    /// How many handlers stand between it and a call: 1 for a change that a call
    /// made, one more for each handler on the way.
    pub depth: u32,
    /// How many deliveries may still follow from it.
    pub followers: u32,
    /// When it happened; for a schedule, when it was due.
    pub at: Timestamp,
    /// What.
    pub what: Happening,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// An entry was written.
    Set {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// The version that it got.
        version: Version,
        /// The value that it got.
        value: Value,
    },
    /// An entry was deleted.
    Deleted {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// The version that it had.
        version: Version,
    },
    /// A schedule is due.
    Due,
}

impl Happening {
    /// The entry, if it is about one.
    pub fn entry(&self) -> Option<(&Collection, &Key)> {
        match self {
            Happening::Set {
                collection, key, ..
            }
            | Happening::Deleted {
                collection, key, ..
            } => Some((collection, key)),
            Happening::Due => None,
        }
    }

    /// One word for it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Happening::Set { .. } => "set",
            Happening::Deleted { .. } => "delete",
            Happening::Due => "schedule",
        }
    }

    /// The bytes that a delivery of it takes of its app's quota: those of
    /// collection, key and value, and [`DELIVERY_BYTES`]. A run of a schedule takes
    /// none: there is at most one of each.
    pub fn bytes(&self) -> u64 {
        let (names, value) = match self {
            Happening::Set {
                collection,
                key,
                value,
                ..
            } => ((collection, key), value.as_bytes().len()),
            Happening::Deleted {
                collection, key, ..
            } => ((collection, key), 0),
            Happening::Due => return 0,
        };
        (names.0.as_str().len() + names.1.as_str().len() + value) as u64 + DELIVERY_BYTES
    }
}

/// Where a delivery is among those of its trigger. Deliveries of one trigger and
/// one chain are carried out one after another, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The trigger.
    pub trigger: TriggerName,
    /// A hash of the key. Two keys that share one merely wait for each other.
    pub chain: i64,
    /// Larger for later events of the same key.
    pub seq: i64,
}

/// The chain of a key; of a schedule, which has none, the chain of its own.
pub fn chain_of(key: &str) -> i64 {
    use sha2::{Digest as _, Sha256};
    let hash = Sha256::digest(key.as_bytes());
    let first = hash.first_chunk::<8>().copied().unwrap_or_default();
    i64::from_le_bytes(first)
}

/// The right to carry out a delivery, until it runs out or somebody else gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The app.
    pub app: AppId,
    /// The delivery.
    pub place: Place,
    /// The lease. The next claim of the delivery writes another one.
    pub lease: Uuid,
}

/// A queue of deliveries: those of one trigger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue {
    /// The app.
    pub app: AppId,
    /// The trigger.
    pub trigger: TriggerName,
}

/// What is asked for when deliveries are claimed.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Of this queue.
    pub queue: Queue,
    /// The time.
    pub now: Timestamp,
    /// When the lease runs out.
    pub until: Timestamp,
    /// The lease; the same for all that are claimed together.
    pub lease: Uuid,
    /// The most deliveries.
    pub limit: u32,
}

/// A delivery that is not done yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Where it is.
    pub place: Place,
    /// The event.
    pub event: Event,
    /// The function that is called.
    pub function: String,
    /// How often and for how long it is tried.
    pub policy: Policy,
    /// The attempts so far, that under way included. A host that dies in the
    /// middle of one has made it.
    pub attempts: u32,
    /// How often it was a dead letter.
    pub replays: u32,
    /// When it came into the queue: with the event, or by a replay.
    pub queued_at: Timestamp,
    /// When it may be claimed; none behind another one of its chain.
    pub due_at: Option<Timestamp>,
    /// Whether somebody has claimed it. Then `due_at` is when the lease runs out.
    pub leased: bool,
    /// How the last attempt failed.
    pub error: Option<String>,
    /// Whether this claim is the probe of a trigger that failures have paused.
    pub is_probe: bool,
}

impl DeadLetter {
    /// The bytes that it takes of its app's quota: those of its delivery, and the
    /// texts that say how it failed.
    pub fn bytes(&self) -> u64 {
        let texts = self.error.len() + self.trace.as_ref().map_or(0, String::len);
        self.event.what.bytes().max(DELIVERY_BYTES) + texts as u64
    }
}

impl Delivery {
    /// Where it is in its life.
    pub fn state(&self) -> DeliveryState {
        match (self.due_at, self.leased) {
            (None, _) => DeliveryState::Waiting,
            (Some(_), true) => DeliveryState::Leased,
            (Some(_), false) => DeliveryState::Pending,
        }
    }
}

/// Why a delivery was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// All attempts of its policy have failed.
    Attempts,
    /// It has grown older than its policy allows.
    Age,
    /// It failed in a way that it will fail in again: a trap, too much memory or
    /// time, an input that the handler does not understand, no such function.
    Deterministic,
    /// Its event is deeper than handlers may cause events: a loop.
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

    /// The reason in one word.
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

/// How a claimed delivery goes on after a failed attempt.
#[derive(Debug, Clone)]
pub struct Failed {
    /// The delivery, and the right to decide about it.
    pub receipt: Receipt,
    /// The time.
    pub now: Timestamp,
    /// How it goes on.
    pub verdict: Verdict,
    /// Whether the failure was deterministic, which counts against the trigger.
    pub deterministic: bool,
    /// How long a paused trigger waits for its next probe.
    pub probe: ProbeWait,
    /// How it failed, in a line.
    pub error: String,
    /// Where in the plugin it failed, if that is known.
    pub trace: Option<String>,
    /// What was run, if anything.
    pub plugin: Option<(PluginVersion, Digest)>,
}

/// What became of a failed delivery that was given back, and of its trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned {
    /// The lease did not hold: nothing has changed.
    Lost,
    /// The delivery goes on as the verdict says, and the trigger is as it was.
    Kept,
    /// The same, and the trigger is paused from now on.
    Paused {
        /// Deliveries that have failed in a row.
        failures: u32,
        /// When one is let through.
        probe_at: Timestamp,
    },
    /// The delivery was the probe of a paused trigger, which stays paused.
    ProbeFailed {
        /// When the next one is let through.
        probe_at: Timestamp,
    },
}

impl Returned {
    /// Whether the lease held.
    pub const fn is_held(self) -> bool {
        !matches!(self, Returned::Lost)
    }
}

/// How a delivery goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again, not before this time.
    RetryAt(Timestamp),
    /// It becomes a dead letter.
    GiveUp(DeadReason),
}

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its identity, which sorts by the time at which it was given up.
    pub id: Uuid,
    /// The event, whole.
    pub event: Event,
    /// The trigger.
    pub trigger: TriggerName,
    /// The function that was called.
    pub function: String,
    /// Why it was given up.
    pub reason: DeadReason,
    /// How the last attempt failed.
    pub error: String,
    /// Where in the plugin, if that is known.
    pub trace: Option<String>,
    /// What was run last, if anything.
    pub plugin: Option<(PluginVersion, Digest)>,
    /// The attempts since the event, or since the last replay.
    pub attempts: u32,
    /// How often it was replayed before.
    pub replays: u32,
    /// When it was given up.
    pub dead_at: Timestamp,
}

/// Which dead letters of an app. Each part that is there narrows the choice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Letters {
    /// These; all if it is empty.
    pub ids: Vec<Uuid>,
    /// Of this trigger.
    pub trigger: Option<TriggerName>,
    /// For this reason.
    pub reason: Option<DeadReason>,
    /// Given up at this time or later.
    pub from: Option<Timestamp>,
    /// Given up before this time.
    pub until: Option<Timestamp>,
}

impl Letters {
    /// Whether the filter selects a dead letter.
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        (self.ids.is_empty() || self.ids.contains(&letter.id))
            && self.trigger.as_ref().is_none_or(|t| *t == letter.trigger)
            && self.reason.is_none_or(|reason| reason == letter.reason)
            && self.from.is_none_or(|from| from <= letter.dead_at)
            && self.until.is_none_or(|until| letter.dead_at < until)
    }
}

/// Which outstanding deliveries of an app. Each part that is there narrows the choice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outstanding {
    /// Of these events; of all if it is empty.
    pub events: Vec<Uuid>,
    /// Of this trigger.
    pub trigger: Option<TriggerName>,
    /// Queued at this time or later.
    pub from: Option<Timestamp>,
    /// Queued before this time.
    pub until: Option<Timestamp>,
}

impl Outstanding {
    /// All of a trigger.
    pub fn of(trigger: TriggerName) -> Outstanding {
        Outstanding {
            trigger: Some(trigger),
            ..Outstanding::default()
        }
    }
}

/// What became of a trigger that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerDeletion {
    /// It is gone.
    Deleted,
    /// There was none.
    Absent,
    /// It has outstanding deliveries and is as it was.
    Outstanding,
}

/// A schedule that is due, and how it goes on.
#[derive(Debug, Clone)]
pub struct Tick {
    /// The schedule's trigger.
    pub queue: Queue,
    /// The time that it was planned for; if it is something else by now, somebody
    /// else was faster and nothing happens.
    pub planned: Option<Timestamp>,
    /// When it is due next.
    pub next: Option<Timestamp>,
    /// The run to make, unless an earlier one is not done yet; none if the
    /// schedule is planned for the first time.
    pub run: Option<Timestamp>,
    /// The time.
    pub now: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_of_a_key_never_changes() {
        // It is in the databases.
        assert_eq!(
            chain_of(""),
            i64::from_le_bytes(*b"\xe3\xb0\xc4\x42\x98\xfc\x1c\x14")
        );
        assert_ne!(chain_of("a"), chain_of("b"));
    }
}
