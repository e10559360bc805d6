//! The number of responses without an end.

use super::problem::{Kind, Problem};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// When a refused client may try again.
const RETRY: Duration = Duration::from_secs(5);

/// Responses without an end, watched changes and followed logs, occupy at most half of an address's
/// connections: a reader of one app could otherwise keep operators and health checks out.
pub(super) struct EndlessResponses {
    permits: Arc<Semaphore>,
    max: usize,
}

impl EndlessResponses {
    /// For an address with this many connections.
    pub(super) fn new(connections: usize) -> EndlessResponses {
        let max = (connections / 2).clamp(1, Semaphore::MAX_PERMITS);
        EndlessResponses {
            permits: Arc::new(Semaphore::new(max)),
            max,
        }
    }

    /// Begins one, which ends when the permit is dropped.
    ///
    /// # Errors
    /// 429 if there are too many.
    pub(super) fn begin(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        permit.map_err(|_| {
            let detail = format!(
                "{} requests watch changes or follow logs at this address, half of its connections; no \
                 more are accepted",
                self.max
            );
            Problem::new(Kind::RateLimited, detail).retry_after(RETRY)
        })
    }
}
