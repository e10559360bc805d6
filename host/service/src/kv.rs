//! The key-value service interface.

use super::{Caller, ServiceError};
use async_trait::async_trait;
use kvasm_core::{
    AppId, Applied, Capability, Check, Collection, Cursor, Entry, Expect, Key, KeyRange,
    LeaseToken, Link, Value, Version,
};

/// A write of one entry.
#[derive(Debug, Clone)]
pub struct Write {
    /// Its collection.
    pub collection: Collection,
    /// Its key.
    pub key: Key,
    /// Its new value.
    pub value: Value,
    /// Time to live in milliseconds; at least 1.
    pub ttl_ms: Option<u64>,
    /// A precondition; if it does not hold, nothing is written.
    pub expect: Option<Expect>,
}

/// Checks and operations that take effect together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Preconditions.
    pub checks: Vec<Check>,
    /// The changes, applied in this order.
    pub operations: Vec<Operation>,
    /// The delivery that the commit acknowledges.
    pub acknowledge: Option<Box<LeaseToken>>,
    /// Its dependency on preceding and following batches.
    pub link: Option<Link>,
}

impl Batch {
    /// Returns the required capability. A batch of checks alone changes nothing, so it is a
    /// read.
    pub(super) fn needs(&self, app: AppId) -> Capability {
        match self.operations.is_empty() {
            true => Capability::AppKvRead(app),
            false => Capability::AppKvWrite(app),
        }
    }
}

/// One change of a batch.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Writes an entry.
    Set {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// Its new value.
        value: Value,
        /// Time to live in milliseconds; at least 1.
        ttl_ms: Option<u64>,
    },
    /// Removes an entry, if there is one.
    Delete {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
    },
    /// Adds to an entry that holds a JSON integer; an absent entry counts as 0.
    Increment {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// The amount to add.
        delta: i64,
    },
}

/// Maximum number of checks and operations in a batch, and of keys in one `get_many`.
pub const BATCH_MAX: usize = 1_000;
/// Maximum size in bytes of a batch, and of the values returned by one `get_many`.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A query for a page of a collection.
#[derive(Debug, Clone)]
pub struct List {
    /// The collection.
    pub collection: Collection,
    /// The keys.
    pub range: KeyRange,
    /// Where the previous page ended.
    pub cursor: Option<Cursor>,
    /// Maximum number of entries, from 1 to
    /// [`Limits::page_entries`](crate::model::Limits::page_entries), which is the default.
    pub limit: Option<u32>,
    /// In descending order of keys.
    pub reverse: bool,
    /// Whether to read the values too.
    pub with_values: bool,
}

impl List {
    /// All keys of a collection, ascending, without values.
    pub fn all(collection: Collection) -> List {
        List {
            collection,
            range: KeyRange::ALL,
            cursor: None,
            limit: None,
            reverse: false,
            with_values: false,
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The keys in order, with their entries if requested.
    pub entries: Vec<(Key, Option<Entry>)>,
    /// The cursor of the next page; none at the end of the collection.
    pub cursor: Option<Cursor>,
}

/// The key-value service.
#[async_trait]
pub trait Kv: Send + Sync {
    /// Returns the value of an entry, if it exists.
    ///
    /// # Errors
    /// As [`get`](Kv::get).
    async fn get_value(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<Option<Value>, ServiceError> {
        let entry = self.get(caller, collection, key).await?;
        Ok(entry.map(|entry| entry.value))
    }

    /// Returns the entry, if it exists.
    ///
    /// # Errors
    /// [`ServiceError::Denied`], or a store error.
    async fn get(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<Option<Entry>, ServiceError>;

    /// Returns whether an entry exists.
    ///
    /// # Errors
    /// As [`get`](Kv::get).
    async fn has(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<bool, ServiceError>;

    /// Returns entries in the order of `keys`, from one consistent snapshot.
    ///
    /// # Errors
    /// As [`get`](Kv::get), and [`ServiceError::Invalid`] for more than
    /// [`BATCH_MAX`] keys, or more than [`BATCH_BYTES_MAX`] bytes of values.
    async fn get_many(
        &self,
        caller: &Caller,
        keys: &[(Collection, Key)],
    ) -> Result<Vec<Option<Entry>>, ServiceError>;

    /// Returns a page of a collection.
    ///
    /// # Errors
    /// As [`get`](Kv::get), and [`ServiceError::Invalid`] for a limit out of range or a cursor
    /// of another query.
    async fn list(&self, caller: &Caller, list: List) -> Result<Listing, ServiceError>;

    /// Writes one entry and returns its new version, once it is durable.
    ///
    /// # Errors
    /// As [`get`](Kv::get), [`ServiceError::Conflict`] if the precondition does not hold, and
    /// [`ServiceError::Invalid`] for a time to live of 0.
    async fn set(&self, caller: &Caller, write: Write) -> Result<Version, ServiceError>;

    /// Writes entries atomically, for an import. Preconditions of the writes are ignored.
    ///
    /// # Errors
    /// As [`set`](Kv::set).
    async fn set_many(&self, caller: &Caller, writes: Vec<Write>) -> Result<(), ServiceError>;

    /// Returns up to `limit` names of collections in order, starting after `after`.
    ///
    /// # Errors
    /// As [`get`](Kv::get).
    async fn collections(
        &self,
        caller: &Caller,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, ServiceError>;

    /// Deletes an entry, and returns whether it existed.
    ///
    /// # Errors
    /// As [`set`](Kv::set).
    async fn delete(
        &self,
        caller: &Caller,
        collection: Collection,
        key: Key,
        expect: Option<Expect>,
    ) -> Result<bool, ServiceError>;

    /// Adds to an entry that holds a JSON integer, and returns its new version and value. An
    /// absent entry counts as 0.
    ///
    /// # Errors
    /// As [`set`](Kv::set), [`ServiceError::NotInteger`], [`ServiceError::Overflow`].
    async fn increment(
        &self,
        caller: &Caller,
        collection: Collection,
        key: Key,
        delta: i64,
    ) -> Result<(Version, i64), ServiceError>;

    /// Commits a batch and returns one [`Applied`] for each operation. A batch of checks alone
    /// is a read, and requires only read access.
    ///
    /// # Errors
    /// As [`increment`](Kv::increment), and [`ServiceError::Invalid`] for more than
    /// [`BATCH_MAX`] checks and operations; [`ServiceError::Conflict`] names the
    /// checks that failed; [`ServiceError::LeaseLost`].
    async fn commit(&self, caller: &Caller, batch: Batch) -> Result<Vec<Applied>, ServiceError>;
}
