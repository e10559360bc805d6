//! What a row costs an app, and the deliveries that one write may cause.

use super::FailedAttempt;

/// The bytes that each entry counts against its app's quota in addition to its collection, key and
/// value, for its other columns and index entries. A row measures 95 bytes on SQLite and about 160
/// on Postgres, but pages are not full.
pub const ENTRY_BYTES: u64 = 192;

/// The same for a delivery and for a dead letter, which have more columns, two indexes and the
/// short text of the last failure. Without that text, a row measures 250 bytes on SQLite and about
/// 500 on Postgres.
pub const DELIVERY_BYTES: u64 = 768;

/// The maximum number of deliveries that one write may create. A larger write is refused because it
/// would block the writes of others while it runs.
pub const DELIVERIES_PER_WRITE_MAX: u32 = 10_000;

/// The maximum number of outstanding deliveries of an app. Runs of schedules do not count: each
/// schedule has at most one.
pub const DELIVERIES_MAX: u64 = 100_000;

/// The maximum number of deliveries that may follow from one change of an entry, over all handlers
/// that it triggers, directly or indirectly. The deliveries of a write share the remaining budget
/// equally.
pub const TRIGGERED_DELIVERIES_MAX: u32 = 10_000;

/// The maximum length of the failure text that a delivery keeps between two attempts, in bytes.
/// [`DELIVERY_BYTES`] includes it. A dead letter keeps the full text.
const NOTE_BYTES_MAX: usize = 256;

impl FailedAttempt {
    /// Returns the failure text that the delivery keeps until the next attempt.
    pub fn truncated_error(&self) -> &str {
        let end = self.error.floor_char_boundary(NOTE_BYTES_MAX);
        self.error.get(..end).unwrap_or_default()
    }
}

/// Returns the budget of each of `siblings` deliveries that share `left`, the deliveries themselves
/// included. The share of zero siblings is 0.
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
    fn delivery_shares_never_exceed_the_budget() {
        for left in [0, 1, 9, 100, TRIGGERED_DELIVERIES_MAX] {
            for siblings in 1..=left {
                let all = siblings + siblings * share(left, siblings);
                assert!(all <= left, "{siblings} of {left}");
            }
        }
        assert_eq!(
            share(TRIGGERED_DELIVERIES_MAX, 1),
            TRIGGERED_DELIVERIES_MAX - 1
        );
        assert_eq!(share(10, 0), 0);
    }
}
