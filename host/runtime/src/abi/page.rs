//! The packed page that `kv_list` answers with; `kvasm_abi::Page` reads it.

use super::kv::header;
use kvasm_service::Listing;

/// Returns the size of its keys.
pub(super) fn key_bytes(listing: &Listing) -> usize {
    let keys = listing.entries.iter().map(|(key, _)| key.as_str().len());
    keys.sum()
}

/// Returns the size of its values; 0 if it has only keys.
pub(super) fn value_bytes(listing: &Listing) -> usize {
    let entries = listing
        .entries
        .iter()
        .filter_map(|(_, entry)| entry.as_ref());
    entries.map(|entry| entry.value.as_bytes().len()).sum()
}

pub(super) fn encode(listing: &Listing) -> Vec<u8> {
    let mut out = Vec::new();
    let cursor = listing.cursor.as_ref().map_or(&[][..], |c| c.as_bytes());
    put_len(&mut out, listing.entries.len());
    put_sized(&mut out, cursor);
    for (key, entry) in &listing.entries {
        put_sized(&mut out, key.as_str().as_bytes());
        if let Some(entry) = entry {
            out.extend_from_slice(&header(entry).encode());
            put_sized(&mut out, entry.value.as_bytes());
        }
    }
    out
}

fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Counts and lengths in a page are bounded by the limits of values and pages,
/// far below `u32::MAX`.
fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}
