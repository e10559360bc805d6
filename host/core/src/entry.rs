//! Entries and their parts.

use super::{Integer, Invalid, JsonText, Subject};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The first time that has no date of four digits for its year, which is how people
    /// and most programs write a time: the end of the year 9999.
    pub const END: Timestamp = Timestamp(253_402_300_800_000);

    /// The host's clock. A clock before 1970 counts as 1970.
    pub fn now() -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    /// This time and `ms` milliseconds; the end of time at most.
    pub fn plus_ms(self, ms: u64) -> Timestamp {
        Timestamp(self.0.saturating_add_unsigned(ms))
    }
}

/// The version of an entry: at least 1, grows with each write of the entry, and
/// never comes back, not even after the entry was deleted and created again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// JSON. Equal as a value after a round trip, not always to the letter:
    /// Postgres does not keep the order of object keys.
    Json(JsonText),
    /// Bytes, to the letter.
    Bytes(Vec<u8>),
}

impl Value {
    /// Checks bytes of at most `limit` bytes.
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

    /// Checks JSON text of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Invalid`] as [`JsonText::parse`] says.
    pub fn json(text: impl Into<Vec<u8>>, limit: usize) -> Result<Value, Invalid> {
        JsonText::parse(text.into(), limit).map(Value::Json)
    }

    /// The value's bytes; of JSON, its text.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Value::Json(text) => text.as_str().as_bytes(),
            Value::Bytes(bytes) => bytes,
        }
    }
}

/// Why a value cannot be added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSum {
    /// It is no JSON integer.
    NotInteger,
    /// It, or the sum, is out of the range of 64 bits.
    Overflow,
}

/// What an entry holds after something was added to it; an absent one counts as 0.
/// The same on every store.
///
/// # Errors
/// [`NoSum`].
pub fn sum(value: Option<&Value>, delta: i64) -> Result<i64, NoSum> {
    let before = match value {
        None => Integer::Value(0),
        Some(Value::Json(text)) => text.as_integer(),
        Some(Value::Bytes(_)) => Integer::Not,
    };
    match before {
        Integer::Value(before) => before.checked_add(delta).ok_or(NoSum::Overflow),
        Integer::TooLarge => Err(NoSum::Overflow),
        Integer::Not => Err(NoSum::NotInteger),
    }
}

/// One entry as a read found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it holds.
    pub value: Value,
    /// Its version.
    pub version: Version,
    /// When the entry was created; a write keeps it, delete and re-create do not.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
    /// When it becomes absent, if ever.
    pub expires_at: Option<Timestamp>,
}
