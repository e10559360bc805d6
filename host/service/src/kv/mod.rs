//! The key-value service: its interface, over a store directly (`direct`), and for one run of a
//! transactional function (`transactional`).

mod direct;
mod key_locks;
mod lock_policy;
mod lock_set;
mod transaction_adds;
mod transaction_locking;
mod transaction_replays;
mod transaction_timers;
mod transactional;
mod view;

use crate::{Caller, ServiceError};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Applied, Batch, Capability, Check, Collection, Cursor, Entry, Expect, Key, KeyRange, Op,
    TimerName, Timestamp, Value, Version,
};
use uuid::Uuid;

pub use direct::KvService;
pub(crate) use key_locks::LockSetId;
pub use key_locks::{Address, KeyLocks};
pub use lock_policy::{LockPolicy, PendingCommitGuard};
pub use lock_set::{LockSet, LockSetGuard};
pub use transactional::{Transaction, WriteSavepoint};

/// Maximum number of checks, operations, changes of timers and replays in a batch, and of keys in one `get_many`.
pub const BATCH_MAX: usize = kvasm_abi::BATCH_OPS_MAX;
/// Maximum size in bytes of a batch, and of the values returned by one `get_many`.
pub const BATCH_BYTES_MAX: usize = kvasm_abi::BATCH_BYTES_MAX;

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
    /// [`Limits::page_entries`](kvasm_core::Limits::page_entries), which is the default.
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

/// The key-value service. Six methods are required; the others are defined by them.
#[async_trait]
pub trait Kv: Send + Sync {
    /// Returns entries in the order of `keys`, from one consistent snapshot.
    ///
    /// # Errors
    /// [`ServiceError::Denied`], [`ServiceError::Invalid`] for more than [`BATCH_MAX`] keys or
    /// more than [`BATCH_BYTES_MAX`] bytes of values, or a store error.
    async fn get_many(
        &self,
        caller: &Caller,
        keys: &[Address],
    ) -> Result<Vec<Option<Entry>>, ServiceError>;

    /// Returns a page of a collection.
    ///
    /// # Errors
    /// As [`get`](Kv::get), and [`ServiceError::Invalid`] for a limit out of range or a cursor
    /// of another query.
    async fn list(&self, caller: &Caller, list: List) -> Result<Listing, ServiceError>;

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

    /// Returns the event of the timer that is set under a name, which identifies this setting.
    ///
    /// # Errors
    /// As [`get`](Kv::get).
    async fn timer(&self, caller: &Caller, name: &TimerName) -> Result<Option<Uuid>, ServiceError>;

    /// Returns whether an app has a dead letter.
    ///
    /// # Errors
    /// As [`get`](Kv::get).
    async fn has_dead_letter(&self, caller: &Caller, letter: Uuid) -> Result<bool, ServiceError>;

    /// Commits a batch and returns one [`Applied`] for each operation, then one for each change of a
    /// timer and then one for each replay, once they are durable. A batch of checks alone is a read, and requires only read access.
    ///
    /// # Errors
    /// [`ServiceError::Denied`], [`ServiceError::Invalid`] for more than [`BATCH_MAX`] checks and
    /// operations, [`ServiceError::Conflict`] with the checks that failed,
    /// [`ServiceError::NotInteger`] and [`ServiceError::Overflow`] of an increment,
    /// [`ServiceError::LeaseLost`], or a store error.
    async fn commit(&self, caller: &Caller, batch: Batch) -> Result<Vec<Applied>, ServiceError>;

    /// Returns the entry, if it exists.
    ///
    /// # Errors
    /// [`ServiceError::Denied`], or a store error.
    async fn get(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<Option<Entry>, ServiceError> {
        let keys = [(collection.clone(), key.clone())];
        match self.get_many(caller, &keys).await?.pop() {
            Some(entry) => Ok(entry),
            None => Err(broken_store()),
        }
    }

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

    /// Returns whether an entry exists.
    ///
    /// # Errors
    /// As [`get`](Kv::get).
    async fn has(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<bool, ServiceError> {
        let value = self.get_value(caller, collection, key).await?;
        Ok(value.is_some())
    }

    /// Commits one operation, with a precondition on its entry.
    ///
    /// # Errors
    /// As [`commit`](Kv::commit).
    async fn apply(
        &self,
        caller: &Caller,
        op: Op,
        expect: Option<Expect>,
    ) -> Result<Applied, ServiceError> {
        let (collection, key) = op.address();
        let check = expect.map(|expect| Check {
            collection: collection.clone(),
            key: key.clone(),
            expect,
        });
        let batch = Batch {
            checks: check.into_iter().collect(),
            ..Batch::of(vec![op])
        };
        match self.commit(caller, batch).await?.as_slice() {
            [applied] => Ok(*applied),
            _ => Err(broken_store()),
        }
    }

    /// Writes an entry that expires at `expires_at`, and returns its new version.
    ///
    /// # Errors
    /// As [`commit`](Kv::commit).
    async fn set(
        &self,
        caller: &Caller,
        (collection, key): Address,
        value: Value,
        expires_at: Option<Timestamp>,
        expect: Option<Expect>,
    ) -> Result<Version, ServiceError> {
        let op = Op::Set {
            collection,
            key,
            value,
            expires_at,
        };
        match self.apply(caller, op, expect).await? {
            Applied::Set(version) => Ok(version),
            _ => Err(broken_store()),
        }
    }

    /// Deletes an entry, and returns whether it existed.
    ///
    /// # Errors
    /// As [`commit`](Kv::commit).
    async fn delete(
        &self,
        caller: &Caller,
        (collection, key): Address,
        expect: Option<Expect>,
    ) -> Result<bool, ServiceError> {
        let op = Op::Delete { collection, key };
        match self.apply(caller, op, expect).await? {
            Applied::Deleted { existed } => Ok(existed),
            _ => Err(broken_store()),
        }
    }

    /// Adds to an entry that holds a JSON integer, and returns its new version and value. An
    /// absent entry counts as 0.
    ///
    /// # Errors
    /// As [`commit`](Kv::commit).
    async fn increment(
        &self,
        caller: &Caller,
        (collection, key): Address,
        delta: i64,
    ) -> Result<(Version, i64), ServiceError> {
        let op = Op::Increment {
            collection,
            key,
            delta,
        };
        match self.apply(caller, op, None).await? {
            Applied::Incremented { version, value } => Ok((version, value)),
            _ => Err(broken_store()),
        }
    }

    /// Like [`increment`](Kv::increment), without the sum. In a transaction it depends on no read:
    /// transactions that add to one entry do not conflict, and the errors of an increment are those
    /// of the commit.
    ///
    /// # Errors
    /// As [`commit`](Kv::commit).
    async fn add(&self, caller: &Caller, at: Address, delta: i64) -> Result<(), ServiceError> {
        self.increment(caller, at, delta).await.map(drop)
    }
}

/// Returns the number of parts of a batch.
fn parts(batch: &Batch) -> usize {
    batch.checks.len() + batch.results()
}

/// Returns the required capability of a batch. A batch of checks alone changes nothing, so it is a
/// read.
fn capability(batch: &Batch, app: AppId) -> Capability {
    match batch.only_checks() {
        true => Capability::AppKvRead(app),
        false => Capability::AppKvWrite(app),
    }
}

/// The store returned an unexpected result.
fn broken_store() -> ServiceError {
    ServiceError::Internal(StoreError::Failed(
        "the store did not return one result for each request".into(),
    ))
}
