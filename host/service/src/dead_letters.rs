//! Administration of dead letters.

use super::{Actor, Admin, ServiceError};
use kvasm_core::{App, Capability, DeadLetter, DeadLetterFilter, Invalid, Subject, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

/// Maximum number of dead letters that are read, replayed or discarded at once. One transaction
/// handles this many without blocking the app's other writes for long.
pub const DEAD_LETTERS_MAX: u32 = 1_000;
/// A page ends after the row whose event exceeds this size.
const PAGE_BYTES: u64 = 4 * 1024 * 1024;
/// Number of dead letters read from the store at once, to bound memory.
const CHUNK: u32 = 16;

/// A page of rows.
#[derive(Debug, Clone)]
pub struct RowPage<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Whether there are more rows after the page.
    pub more: bool,
}

impl Admin {
    /// Returns up to `limit` dead letters of an app, newest first, starting below `before`. A
    /// page has at least one, however large, if there is any.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:read` of the app, because they contain values;
    /// [`ServiceError::Invalid`] for more than [`DEAD_LETTERS_MAX`].
    pub async fn dead_letters(
        &self,
        actor: &Actor,
        app: &App,
        letters: &DeadLetterFilter,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<RowPage<DeadLetter>, ServiceError> {
        actor.require(Capability::AppKvRead(app.id))?;
        check_limit(limit, DEAD_LETTERS_MAX)?;
        let mut page = PageBuilder::new();
        let mut before = before;
        loop {
            let chunk = self.store.dead_letters(app.id, letters, before, CHUNK);
            let chunk = chunk.await?;
            let is_last = chunk.len() < CHUNK as usize;
            for letter in chunk {
                before = Some(letter.id);
                let bytes = letter.event.kind.bytes();
                if !page.push(letter, bytes, limit) {
                    return Ok(page.page);
                }
            }
            if is_last {
                return Ok(page.page);
            }
        }
    }

    /// Returns one dead letter.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] as [`dead_letters`](Admin::dead_letters);
    /// [`ServiceError::DeadLetterNotFound`].
    pub async fn dead_letter(
        &self,
        actor: &Actor,
        app: &App,
        id: Uuid,
    ) -> Result<DeadLetter, ServiceError> {
        actor.require(Capability::AppKvRead(app.id))?;
        let this = DeadLetterFilter::of(id);
        let found = self.store.dead_letters(app.id, &this, None, 1).await?;
        let mut found = found.into_iter();
        found.next().ok_or(ServiceError::DeadLetterNotFound)
    }

    /// Replays up to `limit` dead letters, oldest first, and returns their number. A dry run
    /// only counts them. An empty filter selects all dead letters.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:write` of the app, whose entries
    /// the handlers write; [`ServiceError::Invalid`] for more than [`DEAD_LETTERS_MAX`].
    pub async fn replay(
        &self,
        actor: &Actor,
        app: &App,
        letters: DeadLetterFilter,
        limit: u32,
        dry_run: bool,
    ) -> Result<u64, ServiceError> {
        let fate = DeadLetterAction::Replay;
        self.decide(actor, app, letters, limit, dry_run, fate).await
    }

    /// Permanently deletes up to `limit` dead letters, oldest first, and returns their number. A
    /// dry run only counts them. An empty filter selects all dead letters.
    ///
    /// # Errors
    /// As [`replay`](Admin::replay).
    pub async fn discard(
        &self,
        actor: &Actor,
        app: &App,
        letters: DeadLetterFilter,
        limit: u32,
        dry_run: bool,
    ) -> Result<u64, ServiceError> {
        let fate = DeadLetterAction::Discard;
        self.decide(actor, app, letters, limit, dry_run, fate).await
    }

    async fn decide(
        &self,
        actor: &Actor,
        app: &App,
        letters: DeadLetterFilter,
        limit: u32,
        dry_run: bool,
        fate: DeadLetterAction,
    ) -> Result<u64, ServiceError> {
        actor.require(Capability::AppKvWrite(app.id))?;
        check_limit(limit, DEAD_LETTERS_MAX)?;
        if dry_run {
            let count = self.store.count_dead_letters(app.id, &letters, limit);
            return Ok(count.await?);
        }
        let detail = filter_detail(&letters, limit);
        let audit = |action| actor.audit(action, Some(app), Timestamp::now(), detail);
        Ok(match fate {
            DeadLetterAction::Replay => {
                let audit = audit("deadletter.replay");
                self.store.replay(app.id, letters, limit, audit).await?
            }
            DeadLetterAction::Discard => {
                let audit = audit("deadletter.discard");
                self.store.discard(app.id, letters, limit, audit).await?
            }
        })
    }
}

/// What to do with dead letters.
#[derive(Clone, Copy)]
enum DeadLetterAction {
    Replay,
    Discard,
}

/// A page that is being filled.
pub(super) struct PageBuilder<T> {
    pub(super) page: RowPage<T>,
    bytes: u64,
}

impl<T> PageBuilder<T> {
    pub(super) fn new() -> PageBuilder<T> {
        PageBuilder {
            page: RowPage {
                rows: Vec::new(),
                more: false,
            },
            bytes: 0,
        }
    }

    /// Adds a row unless the page is full. Returns whether it was added.
    pub(super) fn push(&mut self, row: T, bytes: u64, limit: u32) -> bool {
        if self.page.rows.len() >= limit as usize || self.bytes > PAGE_BYTES {
            self.page.more = true;
            return false;
        }
        self.bytes += bytes;
        self.page.rows.push(row);
        true
    }
}

pub(super) fn check_limit(limit: u32, max: u32) -> Result<(), Invalid> {
    if (1..=max).contains(&limit) {
        return Ok(());
    }
    Err(Invalid::OutOfRange {
        subject: Subject::PageLimit,
        found: limit.into(),
        min: 1,
        max: max.into(),
    })
}

/// The filter as recorded in the audit log: only the fields that are set.
fn filter_detail(letters: &DeadLetterFilter, limit: u32) -> Value {
    let DeadLetterFilter {
        ids,
        trigger,
        reason,
        from,
        until,
    } = letters;
    let mut detail = serde_json::Map::new();
    if !ids.is_empty() {
        detail.insert("ids".to_owned(), json!(ids));
    }
    let parts = [
        ("trigger", trigger.as_ref().map(|name| json!(name))),
        ("reason", reason.map(|reason| json!(reason.as_str()))),
        ("from", from.map(|at| json!(at.0))),
        ("until", until.map(|at| json!(at.0))),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            detail.insert(name.to_owned(), value);
        }
    }
    // Marks a row without a filter explicitly.
    if detail.is_empty() {
        detail.insert("all".to_owned(), json!(true));
    }
    detail.insert("limit".to_owned(), json!(limit));
    Value::Object(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::DeadReason;

    #[test]
    fn page_ends_at_row_or_byte_limit() {
        let mut page = PageBuilder::new();
        assert!(page.push(1, 10, 2) && page.push(2, 10, 2) && !page.push(3, 10, 2));
        assert!(page.page.more && page.page.rows == [1, 2]);
        let mut page = PageBuilder::new();
        assert!(page.push(1, PAGE_BYTES + 1, 9) && !page.push(2, 0, 9));
        assert!(page.page.more && page.page.rows == [1]);
    }

    #[test]
    fn audit_row_records_dead_letter_filter() {
        let all = filter_detail(&DeadLetterFilter::default(), 5);
        assert_eq!(all, json!({ "all": true, "limit": 5 }));
        let some = DeadLetterFilter {
            reason: Some(DeadReason::Age),
            until: Some(Timestamp(7)),
            ..DeadLetterFilter::default()
        };
        let some = filter_detail(&some, 5);
        assert_eq!(some, json!({ "reason": "age", "until": 7, "limit": 5 }));
    }
}
