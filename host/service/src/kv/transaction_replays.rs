//! Replays of dead letters within a run of a transaction: buffered until its commit, which checks
//! that the letters still exist.

use super::Transaction;
use super::view::TransactionView;
use crate::{Caller, ServiceError};
use kvasm_core::{Applied, Replay};
use uuid::Uuid;

impl TransactionView {
    /// Returns the replays of a run's commit, and forgets them.
    pub(super) fn take_replays(&mut self) -> Vec<Replay> {
        let letters = std::mem::take(&mut self.replays);
        let replay = |letter| Replay {
            letter,
            is_required: true,
        };
        letters.into_iter().map(replay).collect()
    }
}

impl Transaction {
    /// Returns whether the app has a dead letter that the run does not replay.
    pub(super) async fn sees_dead_letter(
        &self,
        caller: &Caller,
        letter: Uuid,
    ) -> Result<bool, ServiceError> {
        if self.view.lock().replays.contains(&letter) {
            return Ok(false);
        }
        self.kv.has_dead_letter(caller, letter).await
    }

    pub(super) async fn replay(
        &self,
        caller: &Caller,
        Replay {
            letter,
            is_required,
        }: Replay,
    ) -> Result<Applied, ServiceError> {
        let caller = caller.without_access_checks();
        let existed = self.sees_dead_letter(&caller, letter).await?;
        if is_required && !existed {
            return Err(ServiceError::Conflict { failed: Vec::new() });
        }
        if existed {
            let mut view = self.view.lock();
            view.check_room(1)?;
            view.replays.insert(letter);
        }
        Ok(Applied::Replayed { existed })
    }
}
