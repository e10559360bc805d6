//! Write batches: checks and operations that are applied atomically.

use super::{
    AppId, Audit, Collection, DELIVERIES_PER_WRITE_MAX, KeptAnswer, Key, LeaseToken, Link, Replay,
    TRIGGERED_DELIVERIES_MAX, TimerOp, Timestamp, TraceContext, Value, Version,
};
use crate::store::StoreError;

/// The expected state of an entry, for a check or a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is no entry.
    Absent,
    /// The entry has this version.
    Version(Version),
}

impl Expect {
    /// Returns what a version stands for where guests and clients give one: 0 is absence.
    pub fn of_version(version: u64) -> Expect {
        match version {
            0 => Expect::Absent,
            version => Expect::Version(Version(version)),
        }
    }

    /// Returns whether the version found, or its absence, is the expected one.
    pub fn holds(self, found: Option<Version>) -> bool {
        match (self, found) {
            (Expect::Absent, None) => true,
            (Expect::Version(expected), Some(found)) => expected == found,
            (Expect::Absent, Some(_)) | (Expect::Version(_), None) => false,
        }
    }
}

/// A precondition of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The entry's collection.
    pub collection: Collection,
    /// The entry's key.
    pub key: Key,
    /// Its required state before the batch.
    pub expect: Expect,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes an entry, whether or not it exists.
    Set {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// Its new value.
        value: Value,
        /// When it expires, if ever.
        expires_at: Option<Timestamp>,
    },
    /// Removes an entry, if it exists.
    Delete {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
    },
    /// Adds to an entry that holds a JSON integer. An absent entry counts as 0. The expiry of the
    /// entry does not change.
    Increment {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// The amount to add.
        delta: i64,
    },
}

impl Op {
    /// Returns the value that it writes.
    pub fn value(&self) -> Option<&Value> {
        match self {
            Op::Set { value, .. } => Some(value),
            Op::Delete { .. } | Op::Increment { .. } => None,
        }
    }

    /// Returns the entry that it changes.
    pub fn address(&self) -> (&Collection, &Key) {
        match self {
            Op::Set {
                collection, key, ..
            }
            | Op::Delete { collection, key }
            | Op::Increment {
                collection, key, ..
            } => (collection, key),
        }
    }
}

/// Checks and operations: if all checks hold, all operations take effect, in order, in one
/// transaction of the store; otherwise none does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Preconditions.
    pub checks: Vec<Check>,
    /// Operations, applied in this order.
    pub ops: Vec<Op>,
    /// Changes of timers, applied in this order after the operations and the acknowledgement.
    pub timers: Vec<TimerOp>,
    /// Dead letters to replay, oldest first, after the changes of timers.
    pub replays: Vec<Replay>,
    /// The delivery that the commit acknowledges. Nothing is written unless its lease still holds.
    pub acknowledge: Option<Box<LeaseToken>>,
    /// The answer that the commit keeps for repeats of its call. Nothing is written if one of the
    /// same identity has been kept already.
    pub keep: Option<Box<KeptAnswer>>,
    /// Links it to earlier and later batches.
    pub link: Option<Link>,
}

impl Batch {
    /// Creates a batch of operations without preconditions.
    pub fn of(ops: Vec<Op>) -> Batch {
        Batch {
            ops,
            ..Batch::default()
        }
    }

    /// Returns whether it would change nothing: it has neither operations, changes of timers nor
    /// replays.
    pub fn only_checks(&self) -> bool {
        self.ops.is_empty() && self.timers.is_empty() && self.replays.is_empty()
    }

    /// Returns the number of results: one for each operation, change of a timer and replay.
    pub fn results(&self) -> usize {
        self.ops.len() + self.timers.len() + self.replays.len()
    }
}

/// A batch as the host commits it: for which app, when, and on whose account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The app that owns all rows that the batch touches.
    pub app_id: AppId,
    /// The time of the write, for `created_at`, `updated_at` and expiry.
    pub now: Timestamp,
    /// What is checked and changed.
    pub batch: Batch,
    /// Written in the same transaction, for operations of an administrator.
    pub audit: Option<Box<Audit>>,
    /// The number of handlers between a call and this write: the depth of the event that is being
    /// handled, 0 outside a handler.
    pub depth: u32,
    /// The maximum number of deliveries that may follow from this write: the rest of the budget of
    /// the event that is being handled, or [`TRIGGERED_DELIVERIES_MAX`] for each change outside a
    /// handler.
    pub delivery_budget: u32,
    /// The span that causes the write. It is stored with the deliveries that the write creates, and
    /// nowhere else.
    pub trace: Option<TraceContext>,
}

impl Commit {
    /// Creates a commit outside of handlers and traces, without an audit row.
    pub fn new(app_id: AppId, now: Timestamp, batch: Batch) -> Commit {
        Commit {
            app_id,
            now,
            batch,
            audit: None,
            depth: 0,
            delivery_budget: TRIGGERED_DELIVERIES_MAX,
            trace: None,
        }
    }

    /// Returns the maximum number of deliveries that the batch may create, besides its replays.
    pub fn deliveries_max(&self) -> u32 {
        match self.depth {
            0 => DELIVERIES_PER_WRITE_MAX,
            _ => DELIVERIES_PER_WRITE_MAX.min(self.shared_budget()),
        }
    }

    /// Returns the budget that the deliveries of the batch share. The replays of a handler are
    /// deliveries that follow from its event, so they use up a part of it.
    pub fn shared_budget(&self) -> u32 {
        let replays = match self.depth {
            0 => 0,
            _ => u32::try_from(self.batch.replays.len()).unwrap_or(u32::MAX),
        };
        self.delivery_budget.saturating_sub(replays)
    }

    /// Checks that a handler replays no more dead letters than deliveries may follow from its
    /// event.
    ///
    /// # Errors
    /// [`StoreError::Deliveries`].
    pub fn check_replays(&self) -> Result<(), StoreError> {
        let limit = self.delivery_budget;
        match self.depth > 0 && self.batch.replays.len() > limit as usize {
            true => Err(StoreError::Deliveries { limit }),
            false => Ok(()),
        }
    }
}

/// The result of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// One result for each operation, then one for each change of a timer, then one for each replay.
    pub applied: Vec<Applied>,
    /// The number of deliveries created, replays included.
    pub deliveries: u64,
}

/// The result of an operation of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The entry was written and now has this version.
    Set(Version),
    /// The entry was deleted, if it existed.
    Deleted {
        /// True if there was an entry that had not expired.
        existed: bool,
    },
    /// The entry was incremented.
    Incremented {
        /// Its new version.
        version: Version,
        /// Its new value.
        value: i64,
    },
    /// The timer was set.
    TimerSet,
    /// The timer was cancelled, if it was set.
    TimerCancelled {
        /// True if it was set.
        existed: bool,
    },
    /// The dead letter was replayed, if it existed.
    Replayed {
        /// True if it existed.
        existed: bool,
    },
}
