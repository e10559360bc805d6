//! The quota of the app, if a test has set one.

use super::store::Store;
use crate::Error;

/// What an entry counts in addition to its names and value, in bytes. As on the host.
const ENTRY_BYTES: usize = 192;
/// The same of a delivery.
const DELIVERY_BYTES: usize = 768;

/// The maximum number of entries, and of their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Quota {
    pub(crate) entries: Option<u64>,
    pub(crate) bytes: Option<u64>,
}

impl Quota {
    pub(super) fn is_set(&self) -> bool {
        *self != Quota::default()
    }

    /// Returns an error if the change exceeds the quota. One that does not add is accepted.
    pub(super) fn check(&self, before: &Store, after: &Store) -> Result<(), Error> {
        let (before, after) = (usage(before), usage(after));
        let advice = "delete entries, or ask the operator to raise the quota";
        fits("entries", before.0, after.0, self.entries, advice)?;
        let advice = "delete entries or dead letters, or ask the operator to raise the quota";
        fits("bytes", before.1, after.1, self.bytes, advice)
    }
}

fn fits(
    resource: &str,
    before: usize,
    after: usize,
    limit: Option<u64>,
    advice: &str,
) -> Result<(), Error> {
    match limit {
        Some(limit) if after as u64 > limit && after > before => Err(Error::Quota(format!(
            "this write would exceed the app's quota of {limit} {resource}; {advice}"
        ))),
        _ => Ok(()),
    }
}

/// Returns the number of entries, and the bytes of entries, timers and deliveries.
fn usage(store: &Store) -> (usize, usize) {
    let (mut entries, mut bytes) = (0, 0);
    for (collection, key, row) in store.rows() {
        entries += 1;
        bytes += collection.len() + key.len() + row.value.len() + ENTRY_BYTES;
    }
    for timer in store.timers.values() {
        bytes += timer.name.len() + timer.payload.len() + DELIVERY_BYTES;
    }
    let deliveries = store
        .outbox
        .queue
        .values()
        .chain(store.outbox.dead.values());
    for delivery in deliveries {
        bytes += delivery.event.bytes() + DELIVERY_BYTES;
    }
    (entries, bytes)
}
