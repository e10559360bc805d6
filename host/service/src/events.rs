//! Interfaces for change triggers: notifications after commits, and dead letters.

use super::{Caller, ServiceError};
use async_trait::async_trait;
use kvasm_core::store::Store;
use kvasm_core::{AppId, Capability, DeadLetter, DeadLetterFilter, EventKind, Timestamp, Value};
use std::sync::Arc;
use uuid::Uuid;

/// Receives notifications of commits. They are only hints: they follow the acknowledgement of a
/// commit, and are lost if the process dies.
pub trait CommitListener: Send + Sync {
    /// A committed write of this app has created deliveries. Must not block.
    fn committed(&self, app: AppId);

    /// A committed write has set timers, of which the first is due at `at`. Must not block.
    fn timers_set(&self, at: Timestamp) {
        let _ = at;
    }
}

/// The dead letters of an app, as read by its plugin.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Returns up to `limit` dead letters of the caller's app, newest first, starting below
    /// `before`. Values are left out, to keep the result small.
    ///
    /// # Errors
    /// [`ServiceError::Denied`], or a store error.
    async fn list(
        &self,
        caller: &Caller,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, ServiceError>;
}

/// Number of dead letters read from the store at once, to bound memory: it returns them with
/// their values, which may be large.
const CHUNK: u32 = 16;

/// [`DeadLetters`] over a [`Store`].
pub struct StoredDeadLetters(pub Arc<dyn Store>);

#[async_trait]
impl DeadLetters for StoredDeadLetters {
    async fn list(
        &self,
        caller: &Caller,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let all = DeadLetterFilter::default();
        let mut letters: Vec<DeadLetter> = Vec::new();
        let mut left = limit;
        while left > 0 {
            let before = letters.last().map(|letter| letter.id).or(before);
            let some = left.min(CHUNK);
            let chunk = self.0.dead_letters(caller.app(), &all, before, some);
            let chunk = chunk.await?;
            let is_last = chunk.len() < some as usize;
            letters.extend(chunk.into_iter().map(without_value));
            left = if is_last { 0 } else { left - some };
        }
        Ok(letters)
    }
}

fn without_value(mut letter: DeadLetter) -> DeadLetter {
    match &mut letter.event.kind {
        EventKind::Set { value, .. } | EventKind::Timer { payload: value, .. } => {
            *value = Value::Bytes(Vec::new());
        }
        EventKind::Deleted { .. } | EventKind::Due => {}
    }
    letter
}
