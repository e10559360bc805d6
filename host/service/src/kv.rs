//! The key-value service as its callers see it.

use super::{Caller, ServiceError};
use async_trait::async_trait;
use kvasm_core::{
    AppId, Applied, Capability, Check, Collection, Cursor, Entry, Expect, Key, KeyRange, Link,
    Receipt, Value, Version,
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
    /// The entry is absent this many milliseconds from now; at least 1.
    pub ttl_ms: Option<u64>,
    /// What the entry must be like; otherwise nothing is written.
    pub expect: Option<Expect>,
}

/// Checks and operations that take effect together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// What must hold before.
    pub checks: Vec<Check>,
    /// What is done, in this order.
    pub operations: Vec<Operation>,
    /// The delivery that is done with it.
    pub acknowledge: Option<Box<Receipt>>,
    /// What ties it to batches before and after it.
    pub link: Option<Link>,
}

impl Batch {
    /// What it needs of its app. Checks alone change nothing: they are a read.
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
        /// The entry is absent this many milliseconds from now; at least 1.
        ttl_ms: Option<u64>,
    },
    /// Removes an entry, if there is one.
    Delete {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
    },
    /// Adds to an entry that holds a JSON integer; an absent one counts as 0.
    Increment {
        /// Its collection.
        collection: Collection,
        /// Its key.
        key: Key,
        /// How much is added.
        delta: i64,
    },
}

/// The most checks and operations of a batch together, and the most keys that are
/// asked for at once.
pub const BATCH_MAX: usize = 1_000;
/// The most bytes of a batch, and of the values that are asked for at once.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What is asked of a list.
#[derive(Debug, Clone)]
pub struct List {
    /// The collection.
    pub collection: Collection,
    /// The keys.
    pub range: KeyRange,
    /// Where the page before ended.
    pub cursor: Option<Cursor>,
    /// The most entries, 1 to [`Limits::page_entries`](kvasm_core::Limits::page_entries); by default
    /// that.
    pub limit: Option<u32>,
    /// Descending keys.
    pub reverse: bool,
    /// Read the values too.
    pub with_values: bool,
}

impl List {
    /// Every key of a collection, ascending, without values.
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
    /// The keys in order, with their entries if they were asked for.
    pub entries: Vec<(Key, Option<Entry>)>,
    /// Pass it back for the next page; none at the end of the list.
    pub cursor: Option<Cursor>,
}

/// The key-value service as host functions see it.
#[async_trait]
pub trait Kv: Send + Sync {
    /// The value of an entry, if there is one.
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

    /// The entry, if there is one.
    ///
    /// # Errors
    /// [`ServiceError::Denied`], or the store's failure.
    async fn get(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<Option<Entry>, ServiceError>;

    /// Whether there is an entry.
    ///
    /// # Errors
    /// As [`get`](Kv::get).
    async fn has(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<bool, ServiceError>;

    /// Entries in the order of their keys, all as they were at one moment.
    ///
    /// # Errors
    /// As [`get`](Kv::get), and [`ServiceError::Invalid`] for more than
    /// [`BATCH_MAX`] keys, or more than [`BATCH_BYTES_MAX`] bytes of values.
    async fn get_many(
        &self,
        caller: &Caller,
        keys: &[(Collection, Key)],
    ) -> Result<Vec<Option<Entry>>, ServiceError>;

    /// A page of a collection.
    ///
    /// # Errors
    /// As [`get`](Kv::get), and [`ServiceError::Invalid`] for a limit out of
    /// range or a cursor of another list.
    async fn list(&self, caller: &Caller, list: List) -> Result<Listing, ServiceError>;

    /// Writes one entry and returns its new version. It is durable then.
    ///
    /// # Errors
    /// As [`get`](Kv::get), [`ServiceError::Conflict`] when the entry is not as
    /// expected, and [`ServiceError::Invalid`] for a time to live of 0.
    async fn set(&self, caller: &Caller, write: Write) -> Result<Version, ServiceError>;

    /// Writes entries together or not at all, for an import. What the writes
    /// expect is not looked at.
    ///
    /// # Errors
    /// As [`set`](Kv::set).
    async fn set_many(&self, caller: &Caller, writes: Vec<Write>) -> Result<(), ServiceError>;

    /// Up to `limit` names of collections in order, after one if given.
    ///
    /// # Errors
    /// As [`get`](Kv::get).
    async fn collections(
        &self,
        caller: &Caller,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, ServiceError>;

    /// Removes an entry; whether there was one.
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

    /// Adds to an entry that holds a JSON integer, and returns its new version and
    /// what it holds now. An absent entry counts as 0.
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

    /// Carries out a batch and answers one [`Applied`] for each operation. One of
    /// checks alone is a read, and needs no more than that.
    ///
    /// # Errors
    /// As [`increment`](Kv::increment), and [`ServiceError::Invalid`] for more than
    /// [`BATCH_MAX`] checks and operations; [`ServiceError::Conflict`] names the
    /// checks that failed; [`ServiceError::LeaseLost`].
    async fn commit(&self, caller: &Caller, batch: Batch) -> Result<Vec<Applied>, ServiceError>;
}
