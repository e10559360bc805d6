//! What a harness and its host say to each other: one JSON object a line, bytes in hexadecimal. The
//! host's side is in `host/cli/src/test/messages.rs`.

use crate::Error;
use crate::testing::Cost;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::fmt::Write as _;

/// What the host sends. `Done` and `Refused` end a request.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Log(String),
    Fetch(Fetch),
    Started(String),
    Succeeded,
    Failed(String),
    /// The host has ended, as the test asked for; the time of its clock.
    Crashed(i64),
    Done(Box<Answer>),
    Refused(String),
}

/// A request of the plugin to another server.
#[derive(Deserialize)]
pub(super) struct Fetch {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    #[serde(deserialize_with = "bytes")]
    pub(super) body: Vec<u8>,
    pub(super) timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Answer {
    pub(super) now_ms: i64,
    pub(super) operations: u64,
    pub(super) conflicts: u32,
    /// For each batch, the versions of the entries that it has set.
    #[serde(default)]
    pub(super) versions: Vec<Vec<u64>>,
    pub(super) call: Option<Called>,
    pub(super) state: Option<State>,
}

/// How a call ended.
#[derive(Deserialize)]
pub(super) struct Called {
    pub(super) how: String,
    #[serde(deserialize_with = "bytes")]
    pub(super) output: Vec<u8>,
    pub(super) message: String,
    pub(super) error: String,
    pub(super) cost: UsedCost,
}

/// What a call used.
#[derive(Deserialize)]
pub(super) struct UsedCost {
    entries_read: u64,
    entries_written: u64,
    bytes_read: u64,
    bytes_written: u64,
    host_calls: u64,
    fetches: u64,
}

impl UsedCost {
    pub(super) fn to_cost(&self) -> Cost {
        Cost {
            entries_read: self.entries_read,
            entries_written: self.entries_written,
            bytes_read: self.bytes_read,
            bytes_written: self.bytes_written,
            host_calls: self.host_calls,
            fetches: self.fetches,
        }
    }
}

/// What the store holds.
#[derive(Deserialize)]
pub(crate) struct State {
    pub(crate) entries: Vec<Entry>,
    pub(crate) queue: Vec<Queued>,
    pub(crate) timers: Vec<Timer>,
    pub(crate) dead: Vec<crate::dead_letters::DeadLetter>,
}

#[derive(Deserialize)]
pub(crate) struct Entry {
    pub(crate) collection: String,
    pub(crate) key: String,
    #[serde(deserialize_with = "bytes")]
    pub(crate) value: Vec<u8>,
    pub(crate) is_json: bool,
    pub(crate) version: u64,
    pub(crate) expires_at_ms: Option<i64>,
}

/// A delivery that is not done.
#[derive(Deserialize)]
pub(crate) struct Queued {
    pub(crate) handler: String,
    pub(crate) event_id: String,
    /// The entry that has changed, unless a schedule or a timer is due.
    pub(crate) changed: Option<(String, String, u64)>,
}

#[derive(Deserialize)]
pub(crate) struct Timer {
    pub(crate) name: String,
    pub(crate) at_ms: i64,
    #[serde(deserialize_with = "bytes")]
    pub(crate) payload: Vec<u8>,
    pub(crate) attempts: u32,
}

/// Returns bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    let bytes: Option<Vec<u8>> = pairs.collect();
    bytes.ok_or_else(|| D::Error::custom("not in hexadecimal"))
}

/// Returns the name of an error's variant.
pub(crate) fn kind(error: &Error) -> &'static str {
    match error {
        Error::NotFound(_) => "NotFound",
        Error::Conflict(_) => "Conflict",
        Error::Denied(_) => "Denied",
        Error::Invalid(_) => "Invalid",
        Error::TooLarge(_) => "TooLarge",
        Error::Quota(_) => "Quota",
        Error::RateLimited(_) => "RateLimited",
        Error::Type(_) => "Type",
        Error::Unavailable(_) => "Unavailable",
        Error::Internal(_) => "Internal",
        Error::Unsupported(_) => "Unsupported",
        Error::Remote(_) => "Remote",
        Error::Encode(_) => "Encode",
        Error::Decode(_) => "Decode",
        Error::BadRequest(_) => "BadRequest",
    }
}

/// Returns the error of a failed commit.
pub(super) fn error(kind: &str, message: String) -> Error {
    match kind {
        "Conflict" => Error::Conflict(message),
        "Denied" => Error::Denied(message),
        "Invalid" => Error::Invalid(message),
        "Quota" => Error::Quota(message),
        "Type" => Error::Type(message),
        "Unavailable" => Error::Unavailable(message),
        _ => Error::Internal(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_as_hexadecimal() {
        let all: Vec<u8> = (0..=255).collect();
        let json = serde_json::json!(hex(&all));
        assert_eq!(bytes(json).unwrap(), all);
        for bad in ["0", "0g", "é"] {
            assert!(bytes(serde_json::json!(bad)).is_err(), "{bad}");
        }
    }
}
