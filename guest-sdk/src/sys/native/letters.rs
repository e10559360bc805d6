//! The dead letters of the in-process host.

use super::faults::{Check, operate};
use super::store::Store;
use super::{Delivery, Host, copy, cost, validate, with, write_store};
use crate::Error;
use crate::dead_letters::DeadLetter;
use crate::testing::remote;

/// Returns the dead letters before this one, or from the newest, ordered by id.
pub(crate) fn dead_letters(before: &str, limit: i32) -> Result<Vec<u8>, Error> {
    operate(Check::Nothing, || letters(before, limit))
}

fn letters(before: &str, limit: i32) -> Result<Vec<u8>, Error> {
    let limit = validate::dead_letters_limit(limit)?;
    remote::sync_all();
    with(|host| {
        host.dead_letters.sort_by(|a, b| b.id.cmp(&a.id));
        let letters = host.dead_letters.iter();
        let mut letters = letters.filter(|letter| before.is_empty() || letter.id.as_str() < before);
        let page: Vec<&DeadLetter> = letters.by_ref().take(limit).collect();
        let last = page.last().map(|letter| &letter.id);
        let next = last.filter(|_| letters.next().is_some());
        serde_json::to_vec(&serde_json::json!({"letters": page, "next": next}))
    })
    .map_err(|e| Error::Internal(e.to_string()))
}

/// Queues the delivery of a dead letter again. Returns whether there was such a letter.
pub(crate) fn dead_letter_replay(id: &str) -> Result<bool, Error> {
    let result = operate(Check::Nothing, || {
        remote::sync_all();
        if !with(|host| host.dead_letters.iter().any(|letter| letter.id == id)) {
            validate::letter_id(id)?;
            return Ok(false);
        }
        write_store(|store, now_ms| store.replay(id, now_ms))
    });
    cost::count_write(&result, 0);
    result
}

impl Store {
    /// Replays a dead letter that exists: in a transaction once it ends.
    fn replay(&mut self, id: &str, now_ms: i64) -> Result<bool, Error> {
        if self.view.is_some() {
            return self.note_replay(id);
        }
        self.end_replay(id.to_owned(), now_ms);
        Ok(true)
    }

    pub(super) fn end_replay(&mut self, id: String, now_ms: i64) {
        if let Some(Delivery { handler, event, .. }) = self.outbox.dead.remove(&id) {
            self.outbox.enqueue(&handler, &event, now_ms);
        }
        self.record(|| copy::Written::Replay(id.clone()));
        self.outbox.replayed.push(id);
    }
}

/// Removes the dead letters that were replayed.
pub(super) fn remove_replayed(host: &mut Host) {
    let replayed = std::mem::take(&mut host.store.outbox.replayed);
    if !replayed.is_empty() {
        host.dead_letters
            .retain(|letter| !replayed.contains(&letter.id));
    }
}

pub(crate) fn add_dead_letter(letter: DeadLetter) {
    with(|host| host.dead_letters.push(letter));
}

/// Returns the dead letters, oldest first.
pub(crate) fn all_dead_letters() -> Vec<DeadLetter> {
    let mut letters = with(|host| host.dead_letters.clone());
    letters.sort_by(|a, b| a.id.cmp(&b.id));
    letters
}

/// Removes the dead letters that were not added by a test, and returns their deliveries.
pub(crate) fn take_dead() -> Vec<Delivery> {
    with(|host| {
        let dead = std::mem::take(&mut host.store.outbox.dead);
        host.dead_letters
            .retain(|letter| !dead.contains_key(&letter.id));
        dead.into_values().collect()
    })
}
