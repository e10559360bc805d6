//! Additions of a run whose sums it does not learn. They depend on no read, so that runs that add to
//! the same entry do not conflict: the commit adds, whatever the entry is by then. A run that reads
//! the entry afterwards depends on it like any reader, and its addition becomes a write.

use super::Transaction;
use super::key_locks::Address;
use super::view::{TransactionView, check_bytes};
use crate::{Caller, ServiceError};
use kvasm_core::{Entry, IncrementError, JsonText, Op, Timestamp, Value, Version, increment};

/// What an addition is counted as in the size of a transaction, besides its names: the longest
/// integer.
const SUM_BYTES: usize = kvasm_abi::SUM_BYTES_MAX;

/// A buffered addition.
#[derive(Clone, Copy)]
pub(super) struct Addition {
    delta: i64,
    /// Of the entry as lists of the run show it.
    version: Version,
}

impl Addition {
    pub(super) fn operation(self, (collection, key): Address) -> Op {
        Op::Increment {
            collection,
            key,
            delta: self.delta,
        }
    }

    /// Returns the entry that it makes of `before`.
    pub(super) fn apply(
        self,
        before: Option<&Entry>,
        now: Timestamp,
    ) -> Result<Entry, IncrementError> {
        let sum = increment(before.map(|entry| &entry.value), self.delta)?;
        Ok(Entry {
            value: Value::Json(JsonText::integer(sum)),
            version: self.version,
            created_at: before.map_or(now, |entry| entry.created_at),
            updated_at: now,
            expires_at: before.and_then(|entry| entry.expires_at),
        })
    }
}

impl TransactionView {
    /// Buffers an addition to an entry that has no buffered write.
    fn add(&mut self, at: Address, delta: i64, bytes_max: usize) -> Result<(), ServiceError> {
        let before = self.added.get(&at).copied();
        let delta = match before {
            Some(before) => before
                .delta
                .checked_add(delta)
                .ok_or_else(|| ServiceError::of_increment(IncrementError::Overflow, &at))?,
            None => {
                self.check_room(1)?;
                self.bytes = check_bytes(self.bytes + bytes_of(&at), bytes_max)?;
                delta
            }
        };
        let version = self.next_version();
        self.added.insert(at, Addition { delta, version });
        Ok(())
    }

    /// Returns how many bytes of the transaction an addition to an entry takes, if there is one.
    pub(super) fn addition_bytes(&self, at: &Address) -> Option<usize> {
        self.added.contains_key(at).then(|| bytes_of(at))
    }
}

fn bytes_of((collection, key): &Address) -> usize {
    collection.as_str().len() + key.as_str().len() + SUM_BYTES
}

impl Transaction {
    pub(super) async fn add_unseen(
        &self,
        caller: &Caller,
        at: Address,
        delta: i64,
    ) -> Result<(), ServiceError> {
        if self.view.lock().written.contains_key(&at) {
            return self.sum(caller, at, delta).await.map(drop);
        }
        self.view.lock().add(at, delta, self.batch_bytes)
    }

    /// Called with what the run has just read of an entry: an addition to it becomes a write.
    pub(super) fn with_addition(
        &self,
        at: &Address,
        found: Option<Entry>,
    ) -> Result<Option<Entry>, ServiceError> {
        let mut view = self.view.lock();
        let Some(addition) = view.added.get(at).copied() else {
            return Ok(found);
        };
        let now = Timestamp::now();
        let entry = addition.apply(found.as_ref(), now);
        let entry = entry.map_err(|why| ServiceError::of_increment(why, at))?;
        let write = Some((entry.value, entry.expires_at));
        view.write(at.clone(), write, now, self.batch_bytes)?;
        Ok(view.buffered(at, now).flatten())
    }

    /// Those of the keys that the run has added to.
    pub(super) fn added_among(&self, keys: &[Address]) -> Vec<Address> {
        let view = self.view.lock();
        let added = |at: &&Address| view.added.contains_key(*at);
        keys.iter().filter(added).cloned().collect()
    }
}
