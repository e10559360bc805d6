//! Entries and their parts.

use super::{Integer, Invalid, JsonText, Subject};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the process's clock stands still, or [`RUNNING`].
static STOPPED_AT: AtomicI64 = AtomicI64::new(RUNNING);
const RUNNING: i64 = i64::MIN;

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Returns when an entry written now with this time to live expires, in milliseconds.
    ///
    /// # Errors
    /// [`Invalid::OutOfRange`] for 0.
    pub fn expiry(self, ttl_ms: Option<u64>) -> Result<Option<Timestamp>, Invalid> {
        match ttl_ms {
            None => Ok(None),
            Some(0) => Err(Invalid::OutOfRange {
                subject: Subject::TimeToLive,
                found: 0,
                min: 1,
                max: u64::MAX,
            }),
            Some(ttl) => Ok(Some(self.plus_ms(ttl))),
        }
    }

    /// The first time whose year does not have four digits: the end of the year 9999. People and
    /// most programs write years with four digits.
    pub const END: Timestamp = Timestamp(253_402_300_800_000);

    /// Returns the time of the host's clock. A clock before 1970 counts as 1970.
    pub fn now() -> Timestamp {
        let stopped_at = STOPPED_AT.load(Ordering::Relaxed);
        if stopped_at != RUNNING {
            return Timestamp(stopped_at);
        }
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    /// Stops the clock of this process at a time, or moves a stopped one, also back. For a process
    /// that runs the tests of a plugin, and nothing else: all of its apps, stores and dispatchers
    /// have this time. Deadlines do not; they are of the monotonic clock.
    pub fn stop_clock(at: Timestamp) {
        STOPPED_AT.store(at.0, Ordering::Relaxed);
    }

    /// Returns this time plus `ms` milliseconds, saturating.
    pub fn plus_ms(self, ms: u64) -> Timestamp {
        Timestamp(self.0.saturating_add_unsigned(ms))
    }
}

/// The version of an entry: at least 1. It grows with each write and is never reused, not even
/// after the entry is deleted and created again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// The value of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// JSON. A round trip preserves the value but not always the text: Postgres does not keep the
    /// order of object keys.
    Json(JsonText),
    /// Bytes, stored unchanged.
    Bytes(Vec<u8>),
}

impl Value {
    /// Creates a value from at most `limit` bytes.
    ///
    /// # Errors
    /// [`Invalid::TooLarge`].
    pub fn bytes(bytes: Vec<u8>, limit: usize) -> Result<Value, Invalid> {
        if bytes.len() > limit {
            return Err(Invalid::TooLarge {
                subject: Subject::Value,
                len: bytes.len() as u64,
                limit: limit as u64,
            });
        }
        Ok(Value::Bytes(bytes))
    }

    /// Parses JSON text of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Invalid`] as for [`JsonText::parse`].
    pub fn json(text: impl Into<Vec<u8>>, limit: usize) -> Result<Value, Invalid> {
        JsonText::parse(text.into(), limit).map(Value::Json)
    }

    /// Returns the bytes of the value; for JSON, its text.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Value::Json(text) => text.as_str().as_bytes(),
            Value::Bytes(bytes) => bytes,
        }
    }
}

/// Why a value cannot be incremented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncrementError {
    /// It is not a JSON integer.
    NotInteger,
    /// It, or the sum, exceeds the range of 64 bits.
    Overflow,
}

/// Returns the value of an entry after an increment. An absent entry counts as 0. Every store gives
/// the same result.
///
/// # Errors
/// [`IncrementError`].
pub fn increment(value: Option<&Value>, delta: i64) -> Result<i64, IncrementError> {
    let before = match value {
        None => Integer::Value(0),
        Some(Value::Json(text)) => text.as_integer(),
        Some(Value::Bytes(_)) => Integer::Not,
    };
    match before {
        Integer::Value(before) => before.checked_add(delta).ok_or(IncrementError::Overflow),
        Integer::TooLarge => Err(IncrementError::Overflow),
        Integer::Not => Err(IncrementError::NotInteger),
    }
}

/// An entry, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its value.
    pub value: Value,
    /// Its version.
    pub version: Version,
    /// When it was created. A write keeps it; deleting and recreating the entry does not.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
    /// When it expires, if ever.
    pub expires_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_ttl_is_rejected() {
        let now = Timestamp(1_000);
        assert_eq!(now.expiry(None), Ok(None));
        assert_eq!(now.expiry(Some(1)), Ok(Some(Timestamp(1_001))));
        let error = now.expiry(Some(0)).unwrap_err();
        assert!(matches!(
            error,
            Invalid::OutOfRange {
                found: 0,
                min: 1,
                ..
            }
        ));
    }
}
