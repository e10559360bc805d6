//! The reads and buffered writes of one run of a transaction.

use super::BATCH_MAX;
use super::key_locks::Address;
use super::transaction_adds::Addition;
use super::transaction_timers::BufferedTimer;
use kvasm_core::{
    Check, CommitId, Entry, Expect, Invalid, Op, Subject, TimerName, Timestamp, Value, Version,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The lowest version returned by writes within a transaction. Versions in a store never get
/// this high.
const PROVISIONAL: u64 = kvasm_abi::PROVISIONAL_VERSION_MIN;

#[derive(Default, Clone)]
pub(super) struct TransactionView {
    /// The versions in the store when each entry was first read.
    pub(super) read: BTreeMap<Address, Option<Version>>,
    /// Buffered writes: an entry, or `None` if deleted.
    pub(super) written: BTreeMap<Address, Option<Entry>>,
    /// Buffered additions, to entries that have no buffered write.
    pub(super) added: BTreeMap<Address, Addition>,
    /// Entries read from commits that are still in progress.
    pub(super) follows: BTreeMap<Address, (CommitId, Option<Entry>)>,
    /// Changes of timers.
    pub(super) timers: BTreeMap<TimerName, BufferedTimer>,
    /// Dead letters to replay. They exist, which the commit checks.
    pub(super) replays: BTreeSet<Uuid>,
    pub(super) bytes: usize,
    pub(super) writes: u64,
    /// An entry was read twice with different results. The run cannot commit then: checking only
    /// the first version would miss an entry that was created and deleted in between.
    pub(super) stale: bool,
}

impl TransactionView {
    pub(super) fn remember(&mut self, at: &Address, found: Option<Version>) -> Result<(), Invalid> {
        match self.read.get(at) {
            Some(before) if *before == found => Ok(()),
            Some(_) => {
                self.stale = true;
                Ok(())
            }
            None => {
                self.check_room(1)?;
                self.read.insert(at.clone(), found);
                Ok(())
            }
        }
    }

    /// Returns the entry that the run has read from a commit in progress.
    pub(super) fn followed(&self, at: &Address, now: Timestamp) -> Option<Option<Entry>> {
        let (_, entry) = self.follows.get(at)?;
        Some(live(entry, now))
    }

    /// Records that the run has read an entry from a commit in progress.
    pub(super) fn follow(
        &mut self,
        at: &Address,
        (commit, entry): (CommitId, Option<Entry>),
        now: Timestamp,
    ) -> Result<Option<Entry>, Invalid> {
        // The run had already read the entry's previous state.
        self.stale |= self.read.contains_key(at);
        self.check_room(1)?;
        let seen = live(&entry, now);
        self.follows.insert(at.clone(), (commit, entry));
        Ok(seen)
    }

    /// Whether the run has written nothing, and its reads are trivially consistent.
    pub(super) fn is_consistent_snapshot(&self) -> bool {
        // A commit in progress may still fail.
        self.written.is_empty()
            && self.added.is_empty()
            && self.timers.is_empty()
            && self.replays.is_empty()
            && self.follows.is_empty()
            && self.read.len() <= 1
    }

    /// All keys that the run has read or written, without those that it has only added to.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Address> {
        let seen = self.read.keys().chain(self.follows.keys());
        seen.chain(self.written.keys())
    }

    pub(super) fn check_room(&self, more: usize) -> Result<(), Invalid> {
        let changes = self.timers.len() + self.replays.len();
        let writes = self.written.len() + self.added.len() + changes;
        let all = self.read.len() + self.follows.len() + writes + more;
        Invalid::check_count(Subject::Transaction, all, BATCH_MAX)
    }

    /// Buffers a write or a deletion, and returns its provisional version.
    pub(super) fn write(
        &mut self,
        at: Address,
        value: Option<(Value, Option<Timestamp>)>,
        now: Timestamp,
        bytes_max: usize,
    ) -> Result<Version, Invalid> {
        let bytes =
            |value: &Value| at.0.as_str().len() + at.1.as_str().len() + value.as_bytes().len();
        let before = self.written.get(&at);
        let addition = self.addition_bytes(&at);
        if before.is_none() && addition.is_none() {
            self.check_room(1)?;
        }
        let freed = before
            .and_then(Option::as_ref)
            .map_or(addition.unwrap_or(0), |e| bytes(&e.value));
        let added = value.as_ref().map_or(0, |(value, _)| bytes(value));
        let total = self.bytes - freed + added;
        self.bytes = check_bytes(total, bytes_max)?;
        // The write includes it, or replaces it.
        self.added.remove(&at);
        let version = self.next_version();
        let entry = value.map(|(value, expires_at)| Entry {
            value,
            version,
            created_at: now,
            updated_at: now,
            expires_at,
        });
        self.written.insert(at, entry);
        Ok(version)
    }

    pub(super) fn next_version(&mut self) -> Version {
        self.writes += 1;
        Version(PROVISIONAL + self.writes)
    }

    /// Returns the run's buffered write of an entry; `None` if there is none.
    pub(super) fn buffered(&self, at: &Address, now: Timestamp) -> Option<Option<Entry>> {
        Some(live(self.written.get(at)?, now))
    }
}

/// Returns the size of a transaction.
pub(super) fn check_bytes(bytes: usize, bytes_max: usize) -> Result<usize, Invalid> {
    match bytes <= bytes_max {
        true => Ok(bytes),
        false => Err(Invalid::TooLarge {
            subject: Subject::Transaction,
            len: bytes as u64,
            limit: bytes_max as u64,
        }),
    }
}

/// Subtracts the size of an entry's value from the remaining size of an answer.
pub(super) fn take_bytes(
    left: &mut usize,
    limit: usize,
    entry: Option<&Entry>,
) -> Result<(), Invalid> {
    let bytes = entry.map_or(0, |entry| entry.value.as_bytes().len());
    *left = left.checked_sub(bytes).ok_or(Invalid::OverTogether {
        subject: Subject::Answer,
        limit: limit as u64,
    })?;
    Ok(())
}

pub(super) fn checks(read: &BTreeMap<Address, Option<Version>>) -> Vec<Check> {
    let check = |((collection, key), version): (&Address, &Option<Version>)| Check {
        collection: collection.clone(),
        key: key.clone(),
        expect: version.map_or(Expect::Absent, Expect::Version),
    };
    read.iter().map(check).collect()
}

impl TransactionView {
    /// Takes what the commit writes, in the order of the keys, which are kept for a rerun.
    pub(super) fn take_ops(&mut self) -> Vec<Op> {
        let writes = self.written.iter_mut();
        let writes = writes.map(|(at, entry)| (at, operation(at.clone(), entry.take())));
        let additions = self.added.iter();
        let additions = additions.map(|(at, addition)| (at, addition.operation(at.clone())));
        let ops: BTreeMap<_, _> = writes.chain(additions).collect();
        ops.into_values().collect()
    }
}

/// Converts a buffered write into an operation.
fn operation((collection, key): Address, entry: Option<Entry>) -> Op {
    match entry {
        None => Op::Delete { collection, key },
        Some(entry) => Op::Set {
            collection,
            key,
            value: entry.value,
            // Written even if it has expired by now, so that its version advances.
            expires_at: entry.expires_at,
        },
    }
}

/// Returns an entry, unless it has expired.
fn live(entry: &Option<Entry>, now: Timestamp) -> Option<Entry> {
    let entry = entry.as_ref();
    let live = entry.filter(|entry| entry.expires_at.is_none_or(|at| at > now));
    live.cloned()
}
