//! No-op services.

use super::{Batch, Caller, CommitListener, DeadLetters, Kv, List, Listing, ServiceError, Write};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Applied, Collection, DeadLetter, Entry, Expect, Key, Version};
use uuid::Uuid;

/// Finds nothing, and rejects all writes.
pub(super) struct Noop;

fn no_store() -> ServiceError {
    ServiceError::Unavailable(StoreError::Unavailable(
        "this host was built without a store".into(),
    ))
}

#[async_trait]
impl Kv for Noop {
    async fn get(
        &self,
        _: &Caller,
        _: &Collection,
        _: &Key,
    ) -> Result<Option<Entry>, ServiceError> {
        Ok(None)
    }

    async fn has(&self, _: &Caller, _: &Collection, _: &Key) -> Result<bool, ServiceError> {
        Ok(false)
    }

    async fn get_many(
        &self,
        _: &Caller,
        keys: &[(Collection, Key)],
    ) -> Result<Vec<Option<Entry>>, ServiceError> {
        Ok(keys.iter().map(|_| None).collect())
    }

    async fn list(&self, _: &Caller, _: List) -> Result<Listing, ServiceError> {
        Ok(Listing {
            entries: Vec::new(),
            cursor: None,
        })
    }

    async fn set(&self, _: &Caller, _: Write) -> Result<Version, ServiceError> {
        Err(no_store())
    }

    async fn set_many(&self, _: &Caller, _: Vec<Write>) -> Result<(), ServiceError> {
        Err(no_store())
    }

    async fn collections(
        &self,
        _: &Caller,
        _: Option<&Collection>,
        _: u32,
    ) -> Result<Vec<Collection>, ServiceError> {
        Ok(Vec::new())
    }

    async fn delete(
        &self,
        _: &Caller,
        _: Collection,
        _: Key,
        _: Option<Expect>,
    ) -> Result<bool, ServiceError> {
        Err(no_store())
    }

    async fn increment(
        &self,
        _: &Caller,
        _: Collection,
        _: Key,
        _: i64,
    ) -> Result<(Version, i64), ServiceError> {
        Err(no_store())
    }

    async fn commit(&self, _: &Caller, _: Batch) -> Result<Vec<Applied>, ServiceError> {
        Err(no_store())
    }
}

impl CommitListener for Noop {
    fn committed(&self, _: AppId) {}
}

#[async_trait]
impl DeadLetters for Noop {
    async fn list(
        &self,
        _: &Caller,
        _: Option<Uuid>,
        _: u32,
    ) -> Result<Vec<DeadLetter>, ServiceError> {
        Ok(Vec::new())
    }
}
