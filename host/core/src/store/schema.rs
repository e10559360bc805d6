//! The schema version of a store, and when it may be migrated.

use super::StoreError;
use thiserror::Error;

/// When the schema of a store may be migrated. Hosts of an older version that use the store would
/// not know of the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Migrate {
    /// Whenever it is older than that of this library.
    #[default]
    Always,
    /// Only if no other host can be using the store: a SQLite file that no other process has open,
    /// or a Postgres database without a schema. Otherwise opening the store fails.
    Alone,
}

/// The schema of a store, and the one that this library requires, each as the number of its last
/// migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// The schema of the store; `None` if it is empty.
    pub found: Option<i64>,
    /// The schema that this library requires.
    pub needed: i64,
}

/// How a store's schema compares with the required one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// The store is empty.
    Empty,
    /// It must be migrated.
    Older,
    /// It is the required one.
    Current,
    /// It was created by a newer version of this library, which cannot use it.
    Newer,
}

/// Why a store's schema cannot be used.
#[derive(Debug, Error)]
pub enum SchemaError {
    #[error(
        "the store has schema {found} and this version requires {needed}; servers of an older \
         version may be using it. Stop them, then run `kvasm migrate`"
    )]
    Older { found: i64, needed: i64 },
    #[error(
        "the store has schema {found}, from a newer version; this version requires \
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

    /// Compares the two.
    pub fn state(&self) -> SchemaState {
        match self.found {
            None => SchemaState::Empty,
            Some(found) if found < self.needed => SchemaState::Older,
            Some(found) if found > self.needed => SchemaState::Newer,
            Some(_) => SchemaState::Current,
        }
    }

    /// Returns why an older schema was not migrated.
    pub fn refused(&self) -> StoreError {
        let (found, needed) = (self.found.unwrap_or(0), self.needed);
        StoreError::Failed(SchemaError::Older { found, needed }.into())
    }

    /// Fails if the schema is newer.
    pub fn check(&self) -> Result<(), StoreError> {
        match (self.found, self.needed) {
            (Some(found), needed) if found > needed => Err(StoreError::Failed(
                SchemaError::Newer { found, needed }.into(),
            )),
            _ => Ok(()),
        }
    }
}
