//! The doors for change triggers: who is woken after a commit, and where
//! deliveries end that were given up.

use super::{Caller, ServiceError};
use crate::model::{AppId, Capability, DeadLetter, Letters};
use crate::store::Store;
use async_trait::async_trait;
use std::sync::Arc;
use uuid::Uuid;

/// Hears of commits. A hint and no more: it is called after a commit that was
/// acknowledged, and may be lost with the process.
pub trait Events: Send + Sync {
    /// A write of this app has been committed and made deliveries. Must not block.
    fn committed(&self, app: AppId);
}

/// The dead letters of an app, as its plugin reads them.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Up to `limit` dead letters of the caller's app, newest first, below one if
    /// given.
    ///
    /// # Errors
    /// [`ServiceError::Denied`], or the store's failure.
    async fn list(
        &self,
        caller: &Caller,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, ServiceError>;
}

/// [`DeadLetters`] over a [`Store`].
pub(crate) struct StoredDeadLetters(pub(crate) Arc<dyn Store>);

#[async_trait]
impl DeadLetters for StoredDeadLetters {
    async fn list(
        &self,
        caller: &Caller,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, ServiceError> {
        caller.gate(Capability::AppKvRead(caller.app()))?;
        let all = Letters::default();
        Ok(self
            .0
            .dead_letters(caller.app(), &all, before, limit)
            .await?)
    }
}
