//! What a transaction has read and written, within its limits.

use super::additions::Addition;
use super::store::Store;
use super::validate;
use crate::Error;
use kvasm_abi::PROVISIONAL_VERSION_MIN;
use std::collections::{BTreeMap, BTreeSet};

type Address = (String, String);

/// The state of the outermost transaction.
#[derive(Clone)]
pub(super) struct TransactionView {
    /// The last provisional version assigned.
    last_version: u64,
    read: BTreeSet<Address>,
    /// What was written, in the order in which the commit writes it.
    pub(super) written: BTreeMap<Address, Written>,
    /// What was only added to. Also in `written`.
    pub(super) added: BTreeMap<Address, Addition>,
    /// The timers that were set or cancelled, and the sizes of their payloads.
    pub(super) timers: BTreeMap<String, usize>,
    /// The dead letters to replay.
    pub(super) replays: BTreeSet<String>,
    bytes: usize,
}

/// A write of a transaction.
#[derive(Clone, Copy)]
pub(super) struct Written {
    /// The version before the transaction; `None` if there was no entry.
    pub(super) version_before: Option<u64>,
    bytes: usize,
}

impl TransactionView {
    pub(super) fn new() -> TransactionView {
        TransactionView {
            last_version: PROVISIONAL_VERSION_MIN,
            read: BTreeSet::new(),
            written: BTreeMap::new(),
            added: BTreeMap::new(),
            timers: BTreeMap::new(),
            replays: BTreeSet::new(),
            bytes: 0,
        }
    }

    pub(super) fn next_version(&mut self) -> u64 {
        self.last_version += 1;
        self.last_version
    }

    /// Returns this state after a rollback to an earlier one: reads stay, and no provisional
    /// version is assigned again.
    pub(super) fn rolled_back(self, before: TransactionView) -> TransactionView {
        TransactionView {
            last_version: self.last_version,
            read: self.read,
            ..before
        }
    }

    fn check_room(&self) -> Result<(), Error> {
        let changes = self.written.len() + self.timers.len() + self.replays.len();
        let parts = self.read.len() + changes + 1;
        validate::transaction_len(parts)
    }
}

/// Each records what a transaction does. Outside of one they do nothing.
impl Store {
    pub(super) fn note_read(
        &mut self,
        collection: &str,
        key: &str,
        now_ms: i64,
    ) -> Result<(), Error> {
        self.end_addition(collection, key, now_ms)?;
        let address = (collection.to_owned(), key.to_owned());
        match self.has_written(&address) {
            true => Ok(()),
            false => self.record_read(address),
        }
    }

    pub(super) fn has_written(&self, address: &Address) -> bool {
        let view = self.view.as_ref();
        view.is_some_and(|view| view.written.contains_key(address))
    }

    pub(super) fn record_read(&mut self, address: Address) -> Result<(), Error> {
        let Some(view) = &mut self.view else {
            return Ok(());
        };
        if view.read.contains(&address) {
            return Ok(());
        }
        view.check_room()?;
        view.read.insert(address);
        Ok(())
    }

    /// `bytes` is the size of the value; `None` for a deletion.
    pub(super) fn note_write(
        &mut self,
        collection: &str,
        key: &str,
        bytes: Option<usize>,
        now_ms: i64,
    ) -> Result<(), Error> {
        let live = self.live(collection, key, now_ms).map(|row| row.version);
        let Some(view) = &mut self.view else {
            return Ok(());
        };
        let address = (collection.to_owned(), key.to_owned());
        let earlier = view.written.get(&address).copied();
        if earlier.is_none() {
            view.check_room()?;
        }
        let is_deletion = bytes.is_none();
        let bytes = bytes.map_or(0, |bytes| collection.len() + key.len() + bytes);
        let total = view.bytes - earlier.map_or(0, |earlier| earlier.bytes) + bytes;
        validate::transaction_bytes(total)?;
        view.bytes = total;
        if is_deletion {
            // It takes a version too.
            view.next_version();
        }
        let version_before = earlier.map_or(live, |earlier| earlier.version_before);
        let written = Written {
            version_before,
            bytes,
        };
        view.added.remove(&address);
        view.written.insert(address, written);
        Ok(())
    }

    /// `bytes` is the size of the payload; 0 for a cancellation.
    pub(super) fn note_timer(&mut self, name: &str, bytes: usize) -> Result<(), Error> {
        let Some(view) = &mut self.view else {
            return Ok(());
        };
        if !view.timers.contains_key(name) {
            view.check_room()?;
        }
        let earlier = view.timers.get(name).copied().unwrap_or(0);
        let total = view.bytes - earlier + bytes;
        validate::transaction_bytes(total)?;
        view.bytes = total;
        view.timers.insert(name.to_owned(), bytes);
        Ok(())
    }

    /// Returns whether the transaction did not replay this dead letter before.
    pub(super) fn note_replay(&mut self, id: &str) -> Result<bool, Error> {
        let Some(view) = self.view.as_mut().filter(|view| !view.replays.contains(id)) else {
            return Ok(false);
        };
        view.check_room()?;
        Ok(view.replays.insert(id.to_owned()))
    }
}
