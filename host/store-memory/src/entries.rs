//! Reads of entries.

use super::Collections;
use kvasm_core::{Collection, Entry, Key, KeyRange, ListPage, ListQuery, Timestamp};
use std::ops::Bound;

pub(super) fn live(entry: &Entry, now: Timestamp) -> bool {
    entry.expires_at.is_none_or(|at| at > now)
}

pub(super) fn find<'a>(
    collections: &'a Collections,
    collection: &Collection,
    key: &Key,
    now: Timestamp,
) -> Option<&'a Entry> {
    let entry = collections.get(collection)?.get(key)?;
    live(entry, now).then_some(entry)
}

fn key_bounds(range: &KeyRange) -> (Bound<Key>, Bound<Key>) {
    let key = |bound: &Bound<String>| bound.as_ref().map(|text| Key::stored(text.clone()));
    (key(&range.lower), key(&range.upper))
}

/// Takes entries up to the query's limits, and peeks at the next one for `more`.
fn page<'a>(mut rest: impl Iterator<Item = (&'a Key, &'a Entry)>, query: &ListQuery) -> ListPage {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for (key, entry) in rest.by_ref() {
        bytes += key.as_str().len();
        if query.with_values {
            bytes += entry.value.as_bytes().len();
        }
        entries.push((key.clone(), query.with_values.then(|| entry.clone())));
        if entries.len() >= query.limit as usize || bytes >= query.bytes_max {
            break;
        }
    }
    let more = rest.next().is_some();
    ListPage { entries, more }
}

/// Returns a page of the collection of `query`.
pub(super) fn list(collections: &Collections, query: &ListQuery, now: Timestamp) -> ListPage {
    let keys = collections.get(&query.collection);
    let (Some(keys), false) = (keys, query.range.is_empty()) else {
        return ListPage {
            entries: Vec::new(),
            more: false,
        };
    };
    let in_range = keys
        .range(key_bounds(&query.range))
        .filter(|(_, entry)| live(entry, now));
    match query.reverse {
        true => page(in_range.rev(), query),
        false => page(in_range, query),
    }
}
