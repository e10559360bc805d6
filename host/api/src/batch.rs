//! Batches of checks and operations, and reads of several entries.

use kvasm_core::Applied;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Distinguishes `"json": null`, which is a value, from a missing field.
pub fn present<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(json).map(Some)
}

/// The address of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntryRef {
    /// Collection of the entry.
    pub collection: String,
    /// Key of the entry.
    pub key: String,
}

/// Checks and operations that are applied atomically; at most 1,000 of both, in a body of at most 4
/// MiB.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitRequest {
    /// Checks that must hold.
    #[serde(default)]
    pub checks: Vec<Precondition>,
    /// Operations, applied in this order.
    #[serde(default)]
    pub operations: Vec<Operation>,
}

/// A check that must hold for a batch to be applied.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Precondition {
    /// Collection of the entry.
    pub collection: String,
    /// Key of the entry.
    pub key: String,
    /// Required version; 0 requires that the entry does not exist.
    pub version: u64,
}

/// An operation of a batch.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Writes an entry.
    Set {
        /// Collection of the entry.
        collection: String,
        /// Key of the entry.
        key: String,
        /// The value, if it is JSON. It is stored unchanged, so that numbers keep all their digits.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = serde_json::Value)]
        json: Option<Box<RawValue>>,
        /// The value in base64, if it is bytes.
        #[serde(default)]
        bytes: Option<String>,
        /// Expire the entry after this many milliseconds.
        #[serde(default)]
        ttl_ms: Option<u64>,
    },
    /// Deletes an entry, if it exists.
    Delete {
        /// Collection of the entry.
        collection: String,
        /// Key of the entry.
        key: String,
    },
    /// Adds to an entry whose value is a JSON integer; an absent entry counts as 0.
    Increment {
        /// Collection of the entry.
        collection: String,
        /// Key of the entry.
        key: String,
        /// The amount to add.
        by: i64,
    },
}

/// The result of a batch.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommitDone {
    /// One result for each operation.
    pub results: Vec<Done>,
}

/// The result of an operation. Fields that do not apply to it are absent.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// For a set or an increment: the entry's new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// For a delete: whether the entry existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existed: Option<bool>,
    /// For an increment: the entry's new value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<i64>,
}

impl From<&Applied> for Done {
    fn from(applied: &Applied) -> Done {
        match *applied {
            Applied::Set(version) => Done {
                version: Some(version.0),
                ..Done::default()
            },
            Applied::Deleted { existed }
            | Applied::TimerCancelled { existed }
            | Applied::Replayed { existed } => Done {
                existed: Some(existed),
                ..Done::default()
            },
            Applied::Incremented { version, value } => Done {
                version: Some(version.0),
                value: Some(value),
                ..Done::default()
            },
            Applied::TimerSet => Done::default(),
        }
    }
}
/// The result of an increment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Incremented {
    /// The entry's new version.
    pub version: u64,
    /// The entry's new value.
    pub value: i64,
}

/// Entries to read from one snapshot; at most 1,000.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GetManyRequest {
    /// The entries to read.
    pub keys: Vec<EntryRef>,
}
