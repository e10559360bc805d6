//! The doors for change triggers: who is woken after a commit, and where
//! deliveries end that were given up.

use super::ServiceError;
use crate::model::AppId;
use async_trait::async_trait;

/// Hears of commits. A hint and no more: it is called after a commit that was
/// acknowledged, and may be lost with the process.
pub trait Events: Send + Sync {
    /// A write of this app has been committed. Must not block.
    fn committed(&self, app: AppId);
}

/// Deliveries that were given up.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// How many an app has.
    ///
    /// # Errors
    /// [`ServiceError`] when the store fails.
    async fn count(&self, app: AppId) -> Result<u64, ServiceError>;
}
