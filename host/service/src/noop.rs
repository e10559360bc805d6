//! No-op services.

use super::{
    Address, Caller, CommitListener, DeadLetters, Kv, List, Listing, Outbound, OutboundCaller,
    OutboundError, OutboundRequest, OutboundResponse, ServiceError,
};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Applied, Batch, Collection, DeadLetter, Entry, TimerName};
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
    async fn get_many(
        &self,
        _: &Caller,
        keys: &[Address],
    ) -> Result<Vec<Option<Entry>>, ServiceError> {
        Ok(keys.iter().map(|_| None).collect())
    }

    async fn list(&self, _: &Caller, _: List) -> Result<Listing, ServiceError> {
        Ok(Listing {
            entries: Vec::new(),
            cursor: None,
        })
    }

    async fn collections(
        &self,
        _: &Caller,
        _: Option<&Collection>,
        _: u32,
    ) -> Result<Vec<Collection>, ServiceError> {
        Ok(Vec::new())
    }

    async fn timer(&self, _: &Caller, _: &TimerName) -> Result<Option<Uuid>, ServiceError> {
        Ok(None)
    }

    async fn has_dead_letter(&self, _: &Caller, _: Uuid) -> Result<bool, ServiceError> {
        Ok(false)
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

#[async_trait]
impl Outbound for Noop {
    async fn fetch(
        &self,
        _: OutboundCaller<'_>,
        _: OutboundRequest,
    ) -> Result<OutboundResponse, OutboundError> {
        Err(OutboundError::Off)
    }
}
