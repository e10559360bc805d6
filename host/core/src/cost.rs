//! What a row costs an app, and what one write may cause.

use super::Failed;

/// The bytes that each entry counts against its app's quota besides those of its
/// collection, key and value: its other columns and its index entries. A row
/// measures 95 bytes on SQLite and about 160 on Postgres; pages are not full.
pub const ENTRY_BYTES: u64 = 192;

/// The same for a delivery and for a dead letter, which have more columns and two
/// indexes, and the short text of the last failure. A row measures 250 bytes on
/// SQLite and about 500 on Postgres without that text.
pub const DELIVERY_BYTES: u64 = 768;

/// The most deliveries that one write may make. A write that would make more is
/// refused: it holds up the writes of others while it runs.
pub const DELIVERIES_OF_A_WRITE_MAX: u32 = 10_000;

/// The most deliveries of an app that may be outstanding. Runs of schedules are
/// not counted: each schedule has at most one.
pub const DELIVERIES_MAX: u64 = 100_000;

/// The most deliveries that may follow from one change of an entry, over all
/// handlers that it calls and that their changes call. The deliveries that a
/// write makes share what is left equally.
pub const FOLLOWERS_MAX: u32 = 10_000;

/// The longest text of a failure that a delivery keeps between two attempts, in
/// bytes: [`DELIVERY_BYTES`] has room for it. A dead letter has all of it.
const NOTE_BYTES_MAX: usize = 256;

impl Failed {
    /// How it failed, as the delivery keeps it until the next attempt.
    pub fn note(&self) -> &str {
        let end = self.error.floor_char_boundary(NOTE_BYTES_MAX);
        self.error.get(..end).unwrap_or_default()
    }
}

/// What each of `siblings` deliveries may cause, of `left` that they may cause
/// together, themselves included. Zero siblings cause nothing.
pub const fn share(left: u32, siblings: u32) -> u32 {
    match left.checked_div(siblings) {
        Some(each) => each.saturating_sub(1),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_add_up_to_more_than_was_left() {
        for left in [0, 1, 9, 100, FOLLOWERS_MAX] {
            for siblings in 1..=left {
                let all = siblings + siblings * share(left, siblings);
                assert!(all <= left, "{siblings} of {left}");
            }
        }
        assert_eq!(share(FOLLOWERS_MAX, 1), FOLLOWERS_MAX - 1);
        assert_eq!(share(10, 0), 0);
    }
}
