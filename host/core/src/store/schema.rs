//! The schema of a store: which one it has, and when it may be changed.

use super::StoreError;
use thiserror::Error;

/// When a store's schema may be brought up to date. Hosts of an older version that are
/// using the store would not know of the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Migrate {
    /// Whenever it is older than this library's.
    #[default]
    Always,
    /// Only if no other host can be using the store: a SQLite file that no other process
    /// has open, or a Postgres database without a schema. Else opening it fails.
    Alone,
}

/// The schema that a store has, and the one that this library needs. Each is the number
/// of its last migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// What the store has; `None` if it is empty.
    pub found: Option<i64>,
    /// What this library needs.
    pub needed: i64,
}

/// How a store's schema compares with what this library needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// The store is empty.
    Empty,
    /// It has to be brought up to date.
    Older,
    /// It is the one that is needed.
    Current,
    /// A newer version of the library has made it. This one cannot use it.
    Newer,
}

/// Why a store's schema cannot be used.
#[derive(Debug, Error)]
pub enum SchemaError {
    #[error(
        "the schema of the store is {found} and this version needs {needed}; servers of an older \
         version may be using it. Stop them, then run `kvasm migrate`"
    )]
    Older { found: i64, needed: i64 },
    #[error(
        "the schema of the store is {found}, which a newer version has made; this one needs \
         {needed}. Use the newer version"
    )]
    Newer { found: i64, needed: i64 },
}

impl Schema {
    /// Compares what a store has with the versions of the migrations that there are.
    pub fn new(found: Option<i64>, migrations: impl Iterator<Item = i64>) -> Schema {
        let needed = migrations.max().unwrap_or(0);
        Schema { found, needed }
    }

    /// How the two compare.
    pub fn state(&self) -> SchemaState {
        match self.found {
            None => SchemaState::Empty,
            Some(found) if found < self.needed => SchemaState::Older,
            Some(found) if found > self.needed => SchemaState::Newer,
            Some(_) => SchemaState::Current,
        }
    }

    /// Why an older schema is left as it is.
    pub fn refused(&self) -> StoreError {
        let (found, needed) = (self.found.unwrap_or(0), self.needed);
        StoreError::Failed(SchemaError::Older { found, needed }.into())
    }

    /// Refuses a schema that is newer.
    pub fn check(&self) -> Result<(), StoreError> {
        match (self.found, self.needed) {
            (Some(found), needed) if found > needed => Err(StoreError::Failed(
                SchemaError::Newer { found, needed }.into(),
            )),
            _ => Ok(()),
        }
    }
}
