//! Room for instances: as many at once as the engine has slots for.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Slots of the pooling allocator, counted before they are taken, so that a
/// call waits where the allocator would fail.
pub(super) struct Pool {
    free: Arc<Semaphore>,
}

impl Pool {
    pub(super) fn new(instances: u32) -> Pool {
        Pool {
            free: Arc::new(Semaphore::new(instances as usize)),
        }
    }

    /// Waits for `slots` slots.
    pub(super) async fn take(&self, slots: u32) -> Option<OwnedSemaphorePermit> {
        // None only if the semaphore were closed, which nothing does.
        Arc::clone(&self.free).acquire_many_owned(slots).await.ok()
    }
}
