//! A write is one value: everything that must happen together, or not at all.

use super::{
    AppId, Audit, Collection, DELIVERIES_OF_A_WRITE_MAX, FOLLOWERS_MAX, Key, Link, Receipt,
    Timestamp, Value, Version,
};

/// What a check or a guarded write expects of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is no entry.
    Absent,
    /// The entry has this version.
    Version(Version),
}

impl Expect {
    /// Whether an entry's version, or its absence, is what is expected.
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
    /// What it must be like before the batch.
    pub expect: Expect,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes an entry, whether there was one or not.
    Set {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// Its new value.
        value: Value,
        /// When it becomes absent, if ever.
        expires_at: Option<Timestamp>,
    },
    /// Removes an entry, if there is one.
    Delete {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
    },
    /// Adds to an entry that holds a JSON integer; an absent one counts as 0. When
    /// the entry expires stays as it is.
    Increment {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// How much is added.
        delta: i64,
    },
}

impl Op {
    /// The entry that it changes.
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

/// A write: all checks hold and all operations take effect, in their order, in
/// one transaction of the store; or none does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteBatch {
    /// The app whose rows it touches: all of them, and no others.
    pub app_id: AppId,
    /// The time of the write, for `created_at`, `updated_at` and expiry.
    pub now: Timestamp,
    /// What must hold before.
    pub checks: Vec<Check>,
    /// What is done, in this order.
    pub ops: Vec<Op>,
    /// Written in the same transaction; for changes that an administrator makes.
    pub audit: Option<Box<Audit>>,
    /// How many handlers stand between a call and this write: the depth of the
    /// event that is being handled, 0 outside a handler.
    pub depth: u32,
    /// The most deliveries that may follow from this write: what the event that is
    /// being handled may still cause, [`FOLLOWERS_MAX`] for each change outside a
    /// handler.
    pub followers: u32,
    /// The delivery that is done with this write. Unless its lease still holds,
    /// nothing is written.
    pub acknowledge: Option<Box<Receipt>>,
    /// What ties it to batches before and after it.
    pub link: Option<Link>,
}

impl WriteBatch {
    /// The most deliveries that it may make.
    pub fn deliveries_max(&self) -> u32 {
        match self.depth {
            0 => DELIVERIES_OF_A_WRITE_MAX,
            _ => DELIVERIES_OF_A_WRITE_MAX.min(self.followers),
        }
    }

    /// A batch that does nothing yet.
    pub fn new(app_id: AppId, now: Timestamp) -> WriteBatch {
        WriteBatch {
            app_id,
            now,
            checks: Vec::new(),
            ops: Vec::new(),
            audit: None,
            depth: 0,
            followers: FOLLOWERS_MAX,
            acknowledge: None,
            link: None,
        }
    }
}

/// What a batch did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// One for each operation.
    pub applied: Vec<Applied>,
    /// How many deliveries it made.
    pub deliveries: u64,
}

/// What an operation of a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The entry was written and now has this version.
    Set(Version),
    /// The entry is gone; whether there was one.
    Deleted {
        /// True if there was an entry that had not expired.
        existed: bool,
    },
    /// The entry was added to.
    Incremented {
        /// Its new version.
        version: Version,
        /// What it holds now.
        value: i64,
    },
}
