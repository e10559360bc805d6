//! What an app uses, as its quota counts.

use super::AppData;
use super::commit::EntryChange;
use kvasm_core::store::StoreError;
use kvasm_core::{
    Collection, DELIVERIES_MAX, ENTRY_BYTES, Entry, Event, EventKind, Key, Quota, Resource, Usage,
    Value,
};
use std::collections::HashMap;

/// Returns the app's usage after the changes, if its quota allows it. A write that does not
/// increase the usage of an exhausted resource is always allowed. `after` is the usage without the
/// acknowledged delivery, and with the kept answer.
pub(super) fn usage_after(
    tenant: &AppData,
    changes: &[EntryChange],
    mut after: Usage,
) -> Result<Usage, StoreError> {
    let before = tenant.usage;
    // The sizes after the operations so far.
    let mut sizes: HashMap<(&Collection, &Key), u64> = HashMap::new();
    for change in changes {
        let EntryChange {
            collection, key, ..
        } = change;
        let size = |entry: &Entry| size(collection, key, &entry.value);
        let stored = tenant
            .entries
            .get(collection)
            .and_then(|keys| keys.get(key));
        let now = change.after.as_ref().map_or(0, size);
        let last = sizes.insert((collection, key), now);
        let last = last.unwrap_or_else(|| stored.map_or(0, size));
        after.entries = after.entries + u64::from(now > 0) - u64::from(last > 0);
        after.bytes = after.bytes + now - last;
        for (_, _, event) in &change.deliveries {
            count_delivery(&mut after, event);
        }
    }
    let Quota { entries, bytes } = tenant.app.limits.quota;
    let fits = |resource, before, after, limit: Option<u64>| match limit {
        Some(limit) if after > limit && after > before => {
            Err(StoreError::Quota { resource, limit })
        }
        _ => Ok(()),
    };
    fits(Resource::Entries, before.entries, after.entries, entries)?;
    fits(Resource::Bytes, before.bytes, after.bytes, bytes)?;
    let (queued, queue_max) = (after.deliveries, Some(DELIVERIES_MAX));
    fits(Resource::Deliveries, before.deliveries, queued, queue_max)?;
    Ok(after)
}

/// Adds a delivery to what its app uses. Runs of schedules are not counted.
pub(super) fn count_delivery(usage: &mut Usage, event: &Event) {
    usage.bytes += event.bytes();
    usage.deliveries += u64::from(event.kind != EventKind::Due);
}

/// Removes a delivery from what its app uses.
pub(super) fn uncount_delivery(usage: &mut Usage, event: &Event) {
    usage.bytes -= event.bytes();
    usage.deliveries -= u64::from(event.kind != EventKind::Due);
}

/// Returns the size of an entry as counted in quotas; never 0.
pub(super) fn size(collection: &Collection, key: &Key, value: &Value) -> u64 {
    let names = collection.as_str().len() + key.as_str().len();
    (names + value.as_bytes().len()) as u64 + ENTRY_BYTES
}
