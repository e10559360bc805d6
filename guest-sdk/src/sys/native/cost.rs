//! What calls of the in-process host use.

use super::with;
use crate::Error;
use kvasm_abi::{Address, Batch, BatchOp, Page, Records, Slot};
use std::ops::Sub;

/// What a plugin used of its host. The host itself reports CPU time and memory too, which
/// a native build does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Cost {
    /// Number of entries read: each key that was looked up, whether it exists or not, and each
    /// entry of a listed page.
    pub entries_read: u64,
    /// Number of entries written: each set, deletion and increment that was accepted. An
    /// increment does not count as a read.
    pub entries_written: u64,
    /// Size of the values read, in bytes.
    pub bytes_read: u64,
    /// Size of the values set, in bytes. Deletions and increments count none.
    pub bytes_written: u64,
    /// Number of host functions called. On the host it is larger if the plugin logs, if results
    /// are larger than the SDK's buffers, and after errors, whose messages are read separately.
    pub host_calls: u64,
}

impl Cost {
    fn read(&mut self, entries: usize, bytes: usize) {
        self.entries_read += entries as u64;
        self.bytes_read += bytes as u64;
    }

    fn write(&mut self, entries: usize, bytes: usize) {
        self.entries_written += entries as u64;
        self.bytes_written += bytes as u64;
    }
}

impl Sub for Cost {
    type Output = Cost;

    fn sub(self, earlier: Cost) -> Cost {
        Cost {
            entries_read: self.entries_read - earlier.entries_read,
            entries_written: self.entries_written - earlier.entries_written,
            bytes_read: self.bytes_read - earlier.bytes_read,
            bytes_written: self.bytes_written - earlier.bytes_written,
            host_calls: self.host_calls - earlier.host_calls,
        }
    }
}

/// Returns what this thread has used so far.
pub(crate) fn cost() -> Cost {
    with(|host| host.cost)
}

/// Counts a host call that reads and writes no entries.
pub(super) fn count_call() {
    with(|host| host.cost.host_calls += 1);
}

/// Counts the lookup of one key whose value has this size, unless its arguments were invalid.
pub(super) fn count_lookup<T>(result: &Result<T, Error>, bytes: usize) {
    if let Ok(_) | Err(Error::NotFound(_) | Error::Type(_)) = result {
        with(|host| host.cost.read(1, bytes));
    }
}

/// Counts an accepted write of one entry.
pub(super) fn count_write<T, E>(result: &Result<T, E>, bytes: usize) {
    if result.is_ok() {
        with(|host| host.cost.write(1, bytes));
    }
}

/// Counts the entries of a page.
pub(super) fn count_page(page: &Result<Vec<u8>, Error>, with_values: bool) {
    let Some(page) = page
        .as_ref()
        .ok()
        .and_then(|page| Page::decode(page, with_values).ok())
    else {
        return;
    };
    with(|host| {
        for entry in page.entries.flatten() {
            let bytes = entry.value.map_or(0, |(_, value)| value.len());
            host.cost.read(1, bytes);
        }
    });
}

/// Counts the keys of `kv_get_many`, and their values.
pub(super) fn count_lookups(keys: &[u8], slots: &Result<Vec<u8>, Error>) {
    let (Ok(keys), Ok(slots)) = (Records::<Address<'_>>::decode(keys), slots) else {
        return;
    };
    let slots = Records::<Slot<'_>>::decode(slots).into_iter().flatten();
    let bytes = slots
        .filter_map(|slot| slot.0)
        .map(|(_, value)| value.len());
    let bytes = bytes.sum();
    with(|host| host.cost.read(keys.len(), bytes));
}

/// Counts the operations of a batch, if it was committed.
pub(super) fn count_batch<T, E>(batch: &[u8], result: &Result<T, E>) {
    let (Ok(batch), Ok(_)) = (Batch::decode(batch), result) else {
        return;
    };
    let bytes = batch.ops.clone().map(|op| match op {
        BatchOp::Set { value, .. } | BatchOp::TimerSet { payload: value, .. } => value.len(),
        BatchOp::Delete { .. } | BatchOp::Increment { .. } | BatchOp::TimerCancel { .. } => 0,
    });
    let bytes = bytes.sum();
    with(|host| host.cost.write(batch.ops.len(), bytes));
}
