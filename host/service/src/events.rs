//! The doors for change triggers: who is woken after a commit, and where
//! deliveries end that were given up.

use super::{Caller, ServiceError};
use async_trait::async_trait;
use kvasm_core::store::Store;
use kvasm_core::{AppId, Capability, DeadLetter, Happening, Letters, Value};
use std::sync::Arc;
use uuid::Uuid;

/// Is notified of commits. A hint and no more: it is called after a commit that was
/// acknowledged, and may be lost with the process.
pub trait Events: Send + Sync {
    /// A write of this app has been committed and made deliveries. Must not block.
    fn committed(&self, app: AppId);
}

/// The dead letters of an app, as its plugin reads them.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Up to `limit` dead letters of the caller's app, newest first, below one if
    /// given; without the values, so that any number of them is small.
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

/// Dead letters that are asked of the store at once: it reads them whole, each with
/// a value that may be large.
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
        caller.gate(Capability::AppKvRead(caller.app()))?;
        let all = Letters::default();
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
    if let Happening::Set { value, .. } = &mut letter.event.what {
        *value = Value::Bytes(Vec::new());
    }
    letter
}
