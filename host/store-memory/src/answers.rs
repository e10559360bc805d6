//! Kept answers of idempotent calls.

use super::AppData;
use kvasm_core::store::StoreError;
use kvasm_core::{
    ANSWERS_MAX, ANSWERS_OF_RANGE_MAX, AnswerId, KeptAnswer, Resource, Timestamp, Usage,
};

impl AppData {
    /// Returns an answer that has not expired.
    pub(super) fn answer(&self, id: AnswerId, now: Timestamp) -> Option<&KeptAnswer> {
        let answer = self.answers.get(&id);
        answer.filter(|answer| answer.expires_at > now)
    }

    /// Adds an answer to the app's usage, in place of an expired one of the same identity.
    pub(super) fn count_answer(
        &self,
        answer: &KeptAnswer,
        usage: &mut Usage,
    ) -> Result<(), StoreError> {
        let (first, last) = answer.id.range();
        match self.answers.get(&answer.id) {
            Some(expired) => usage.bytes -= expired.bytes(),
            None if self.answers.range(first..=last).count() as u64 >= ANSWERS_OF_RANGE_MAX => {
                return Err(StoreError::Quota {
                    resource: Resource::Answers,
                    limit: ANSWERS_MAX,
                });
            }
            None => {}
        }
        usage.bytes += answer.bytes();
        Ok(())
    }

    /// Removes up to `limit` expired answers. Returns the number removed.
    pub(super) fn sweep_answers(&mut self, now: Timestamp, limit: u32) -> u64 {
        let expired = self.answers.values().filter(|a| a.expires_at <= now);
        let expired: Vec<_> = expired.map(|a| a.id).take(limit as usize).collect();
        for id in &expired {
            if let Some(answer) = self.answers.remove(id) {
                self.usage.bytes -= answer.bytes();
            }
        }
        expired.len() as u64
    }
}
