//! Unsigned numbers in the columns of databases, which are signed.

/// Returns a number as a column holds it: one beyond its range is as good as its maximum.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
