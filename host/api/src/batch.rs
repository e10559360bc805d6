//! Batches of checks and operations, and entries that are asked for together.

use kvasm_core::Applied;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// `"json": null` is a value, not a field that is missing.
pub fn present<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(json).map(Some)
}

/// Where an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntryRef {
    /// Its collection.
    pub collection: String,
    /// Its key.
    pub key: String,
}

/// Checks and operations that take effect together or not at all; at most 1,000
/// of both, and 4 MiB of body.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitRequest {
    /// What must hold before.
    #[serde(default)]
    pub checks: Vec<Precondition>,
    /// What is done, in this order.
    #[serde(default)]
    pub operations: Vec<Operation>,
}

/// What an entry must be like before a batch.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Precondition {
    /// Its collection.
    pub collection: String,
    /// Its key.
    pub key: String,
    /// The version that it must have; 0: there must be none.
    pub version: u64,
}

/// One change of a batch.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Writes an entry.
    Set {
        /// Its collection.
        collection: String,
        /// Its key.
        key: String,
        /// Its value, if that is JSON. To the letter, so that no digit of a number
        /// is lost.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = serde_json::Value)]
        json: Option<Box<RawValue>>,
        /// Its value in base64, if that is bytes.
        #[serde(default)]
        bytes: Option<String>,
        /// The entry is absent this many milliseconds from now.
        #[serde(default)]
        ttl_ms: Option<u64>,
    },
    /// Removes an entry, if there is one.
    Delete {
        /// Its collection.
        collection: String,
        /// Its key.
        key: String,
    },
    /// Adds to an entry that holds a JSON integer; an absent one counts as 0.
    Increment {
        /// Its collection.
        collection: String,
        /// Its key.
        key: String,
        /// How much is added.
        by: i64,
    },
}

/// What a batch did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommitDone {
    /// One for each operation.
    pub results: Vec<Done>,
}

/// What an operation did: what is not there does not apply to it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Of a set and an increment: the entry's new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Of a delete: whether there was an entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existed: Option<bool>,
    /// Of an increment: what the entry holds now.
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
            Applied::Deleted { existed } => Done {
                existed: Some(existed),
                ..Done::default()
            },
            Applied::Incremented { version, value } => Done {
                version: Some(version.0),
                value: Some(value),
                ..Done::default()
            },
        }
    }
}

/// What an increment did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Incremented {
    /// The entry's new version.
    pub version: u64,
    /// What it holds now.
    pub value: i64,
}

/// Entries to read together; at most 1,000.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GetManyRequest {
    /// Where they are.
    pub keys: Vec<EntryRef>,
}
