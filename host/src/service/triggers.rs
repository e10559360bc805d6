//! Triggers, deliveries and dead letters, for administrators.

use super::{Actor, Admin, ServiceError};
use crate::model::{
    App, Capability, Change, Changed, DeadLetter, Delivery, Invalid, KeyRange, Letters, Policy,
    Subject, Timestamp, Trigger, TriggerName, Watch,
};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// The most dead letters that are read, replayed or discarded at once: so many
/// fit one transaction that does not hold up the app's other writes for long.
pub const LETTERS_MAX: u32 = 1_000;
/// The most deliveries that are read at once. The store reads them whole, so this
/// bounds the memory that a page of large values takes.
pub const DELIVERIES_MAX: u32 = 100;

/// A page ends after the row whose event takes it over this.
const PAGE_BYTES: u64 = 4 * 1024 * 1024;
/// Dead letters that are asked of the store at once, for the same reason.
const CHUNK: u32 = 16;

const ATTEMPTS_MAX: u32 = 100;
const AGE_MIN: Duration = Duration::from_secs(1);
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Some rows, and whether there may be more after them.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Whether the page ended before the rows did.
    pub more: bool,
}

impl Admin {
    /// All triggers of an app, in the order of their names.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app.
    pub async fn triggers(&self, actor: &Actor, app: &App) -> Result<Vec<Trigger>, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        Ok(self.store.triggers(app.id).await?)
    }

    /// Makes an operator's trigger, or replaces the one of its name whole: what was
    /// paused is not any more, unless `trigger` says so.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app,
    /// [`ServiceError::Invalid`] for a trigger that could never work.
    pub async fn set_trigger(
        &self,
        actor: &Actor,
        app: &App,
        trigger: Trigger,
    ) -> Result<(), ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        check(&trigger)?;
        let audit = actor.audit("trigger.set", Some(app), Timestamp::now(), shown(&trigger));
        let app = app.id;
        let change = Change::SetTrigger { app, trigger };
        self.store.change(change, audit).await?;
        Ok(())
    }

    /// Removes a trigger. Deliveries that it has made stay.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app,
    /// [`ServiceError::TriggerNotFound`].
    pub async fn delete_trigger(
        &self,
        actor: &Actor,
        app: &App,
        trigger: TriggerName,
    ) -> Result<(), ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        let detail = json!({ "trigger": trigger });
        let audit = actor.audit("trigger.delete", Some(app), Timestamp::now(), detail);
        let app = app.id;
        let change = Change::DeleteTrigger { app, trigger };
        match self.store.change(change, audit).await? {
            Changed::Nothing => Err(ServiceError::TriggerNotFound),
            Changed::Done | Changed::Plugin(_) | Changed::Letters(_) => Ok(()),
        }
    }

    /// Lets a trigger's deliveries wait, or go on.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app,
    /// [`ServiceError::TriggerNotFound`].
    pub async fn pause_trigger(
        &self,
        actor: &Actor,
        app: &App,
        trigger: TriggerName,
        paused: bool,
    ) -> Result<(), ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        let action = match paused {
            true => "trigger.pause",
            false => "trigger.resume",
        };
        let detail = json!({ "trigger": trigger });
        let audit = actor.audit(action, Some(app), Timestamp::now(), detail);
        let change = Change::PauseTrigger {
            app: app.id,
            trigger,
            paused,
        };
        self.store.change(change, audit).await?;
        Ok(())
    }

    /// Up to `limit` outstanding deliveries of an app, or of one trigger of it, in
    /// the order of triggers and keys. There is always room for one.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:read` of the app, whose values they
    /// hold; [`ServiceError::Invalid`] for more than [`DELIVERIES_MAX`].
    pub async fn deliveries(
        &self,
        actor: &Actor,
        app: &App,
        trigger: Option<&TriggerName>,
        limit: u32,
    ) -> Result<Page<Delivery>, ServiceError> {
        actor.require(Capability::AppKvRead(app.id))?;
        check_limit(limit, DELIVERIES_MAX)?;
        // One more than asked for tells whether there are more.
        let rows = self.store.deliveries(app.id, trigger, limit + 1).await?;
        let mut page = Filling::new();
        for delivery in rows {
            let bytes = delivery.event.what.bytes();
            if !page.take(delivery, bytes, limit) {
                break;
            }
        }
        Ok(page.page)
    }

    /// Up to `limit` dead letters of an app, newest first, below one if given. There
    /// is always room for one.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:read` of the app, whose values they
    /// hold; [`ServiceError::Invalid`] for more than [`LETTERS_MAX`].
    pub async fn dead_letters(
        &self,
        actor: &Actor,
        app: &App,
        letters: &Letters,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Page<DeadLetter>, ServiceError> {
        actor.require(Capability::AppKvRead(app.id))?;
        check_limit(limit, LETTERS_MAX)?;
        let mut page = Filling::new();
        let mut before = before;
        loop {
            let chunk = self.store.dead_letters(app.id, letters, before, CHUNK);
            let chunk = chunk.await?;
            let is_last = chunk.len() < CHUNK as usize;
            for letter in chunk {
                before = Some(letter.id);
                let bytes = letter.event.what.bytes();
                if !page.take(letter, bytes, limit) {
                    return Ok(page.page);
                }
            }
            if is_last {
                return Ok(page.page);
            }
        }
    }

    /// One dead letter.
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
        let this = Letters {
            ids: vec![id],
            ..Letters::default()
        };
        let found = self.store.dead_letters(app.id, &this, None, 1).await?;
        let mut found = found.into_iter();
        found.next().ok_or(ServiceError::DeadLetterNotFound)
    }

    /// Sends up to `limit` dead letters again, the oldest first; how many. A dry run
    /// only counts them. Letters without a choice are all letters.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:write` of the app, whose entries
    /// the handlers write; [`ServiceError::Invalid`] for more than [`LETTERS_MAX`].
    pub async fn replay(
        &self,
        actor: &Actor,
        app: &App,
        letters: Letters,
        limit: u32,
        dry_run: bool,
    ) -> Result<u64, ServiceError> {
        let fate = Fate::Replay;
        self.decide(actor, app, letters, limit, dry_run, fate).await
    }

    /// Throws up to `limit` dead letters away, the oldest first; how many. A dry run
    /// only counts them. Letters without a choice are all letters.
    ///
    /// # Errors
    /// As [`replay`](Admin::replay).
    pub async fn discard(
        &self,
        actor: &Actor,
        app: &App,
        letters: Letters,
        limit: u32,
        dry_run: bool,
    ) -> Result<u64, ServiceError> {
        let fate = Fate::Discard;
        self.decide(actor, app, letters, limit, dry_run, fate).await
    }

    async fn decide(
        &self,
        actor: &Actor,
        app: &App,
        letters: Letters,
        limit: u32,
        dry_run: bool,
        fate: Fate,
    ) -> Result<u64, ServiceError> {
        actor.require(Capability::AppKvWrite(app.id))?;
        check_limit(limit, LETTERS_MAX)?;
        if dry_run {
            let count = self.store.count_dead_letters(app.id, &letters, limit);
            return Ok(count.await?);
        }
        let detail = choice(&letters, limit);
        let audit = |action| actor.audit(action, Some(app), Timestamp::now(), detail);
        let app = app.id;
        let (change, audit) = match fate {
            Fate::Replay => {
                let change = Change::Replay {
                    app,
                    letters,
                    limit,
                };
                (change, audit("deadletter.replay"))
            }
            Fate::Discard => {
                let change = Change::Discard {
                    app,
                    letters,
                    limit,
                };
                (change, audit("deadletter.discard"))
            }
        };
        match self.store.change(change, audit).await? {
            Changed::Letters(count) => Ok(count),
            Changed::Done | Changed::Nothing | Changed::Plugin(_) => Ok(0),
        }
    }
}

/// What becomes of dead letters.
#[derive(Clone, Copy)]
enum Fate {
    Replay,
    Discard,
}

/// A page that is being filled.
struct Filling<T> {
    page: Page<T>,
    bytes: u64,
}

impl<T> Filling<T> {
    fn new() -> Filling<T> {
        Filling {
            page: Page {
                rows: Vec::new(),
                more: false,
            },
            bytes: 0,
        }
    }

    /// Takes a row, if there is room for it; otherwise the page is full.
    fn take(&mut self, row: T, bytes: u64, limit: u32) -> bool {
        if self.page.rows.len() >= limit as usize || self.bytes > PAGE_BYTES {
            self.page.more = true;
            return false;
        }
        self.bytes += bytes;
        self.page.rows.push(row);
        true
    }
}

fn check_limit(limit: u32, max: u32) -> Result<(), Invalid> {
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

/// Refuses a trigger that could never work.
fn check(trigger: &Trigger) -> Result<(), Invalid> {
    // Functions have the names of triggers.
    TriggerName::parse(&trigger.function).map_err(of_function)?;
    if let Watch::Changes(changes) = &trigger.watch {
        KeyRange::parse(Some(changes.prefix.clone().into_bytes()), None, None)?;
        if !changes.set && !changes.delete {
            return Err(Invalid::Malformed {
                subject: Subject::Changes,
                why: "it needs set, delete or both",
            });
        }
    }
    let Policy {
        attempts_max,
        age_max,
    } = trigger.policy;
    if !(1..=ATTEMPTS_MAX).contains(&attempts_max) {
        return Err(Invalid::OutOfRange {
            subject: Subject::Attempts,
            found: attempts_max.into(),
            min: 1,
            max: ATTEMPTS_MAX.into(),
        });
    }
    if !(AGE_MIN..=AGE_MAX).contains(&age_max) {
        return Err(Invalid::OutOfRange {
            subject: Subject::Age,
            found: ms(age_max),
            min: ms(AGE_MIN),
            max: ms(AGE_MAX),
        });
    }
    Ok(())
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The same refusal, of a function's name.
fn of_function(error: Invalid) -> Invalid {
    let subject = Subject::Function;
    match error {
        Invalid::Empty(_) => Invalid::Empty(subject),
        Invalid::TooLarge { len, limit, .. } => Invalid::TooLarge {
            subject,
            len,
            limit,
        },
        Invalid::Character { found, allowed, .. } => Invalid::Character {
            subject,
            found,
            allowed,
        },
        other => other,
    }
}

/// A trigger as the audit log has it.
fn shown(trigger: &Trigger) -> Value {
    json!({
        "trigger": trigger.name,
        "function": trigger.function,
        "watch": trigger.watch,
        "attempts_max": trigger.policy.attempts_max,
        "age_max_ms": ms(trigger.policy.age_max),
    })
}

/// A choice of letters as the audit log has it: what narrows it, and no more.
fn choice(letters: &Letters, limit: u32) -> Value {
    let Letters {
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
    // So that a row without a choice says what it was.
    if detail.is_empty() {
        detail.insert("all".to_owned(), json!(true));
    }
    detail.insert("limit".to_owned(), json!(limit));
    Value::Object(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Changes, Collection, DeadReason, Origin, Schedule};

    fn trigger() -> Trigger {
        Trigger {
            name: TriggerName::parse("t").unwrap(),
            origin: Origin::Operator,
            watch: Watch::Changes(Changes {
                collection: Collection::parse("orders").unwrap(),
                prefix: "eu/".to_owned(),
                set: true,
                delete: false,
            }),
            function: "f".to_owned(),
            policy: Policy::default(),
            paused: None,
            failures: 0,
            next_at: None,
            created_at: Timestamp(0),
        }
    }

    fn with(change: impl FnOnce(&mut Changes)) -> Trigger {
        let mut trigger = trigger();
        if let Watch::Changes(changes) = &mut trigger.watch {
            change(changes);
        }
        trigger
    }

    #[test]
    fn a_trigger_that_could_never_work_is_refused() {
        assert_eq!(check(&trigger()), Ok(()));
        let schedule = Watch::Schedule(Schedule::parse("* * * * *").unwrap());
        let scheduled = Trigger {
            watch: schedule,
            ..trigger()
        };
        assert_eq!(check(&scheduled), Ok(()));
        let function = |name: &str| Trigger {
            function: name.to_owned(),
            ..trigger()
        };
        let policy = |attempts_max, age_max_ms| Trigger {
            policy: Policy {
                attempts_max,
                age_max: Duration::from_millis(age_max_ms),
            },
            ..trigger()
        };
        for (bad, words) in [
            (with(|c| c.set = false), "set, delete or both"),
            (with(|c| c.prefix = "k".repeat(1025)), "1025 bytes"),
            (with(|c| c.prefix = "a\0".to_owned()), "NUL"),
            (function(""), "function name is empty"),
            (function(&"f".repeat(65)), "65 bytes"),
            (function("a/b"), "function name contains"),
            (policy(0, 1_000), "from 1 to 100"),
            (policy(101, 1_000), "from 1 to 100"),
            (policy(1, 999), "from 1000 to 2592000000"),
            (policy(1, 2_592_000_001), "from 1000 to 2592000000"),
        ] {
            let refusal = check(&bad).unwrap_err().to_string();
            assert!(refusal.contains(words), "{refusal}");
        }
        assert_eq!(check(&policy(100, 2_592_000_000)), Ok(()));
    }

    #[test]
    fn a_page_ends_at_its_limit_or_its_bytes() {
        let mut page = Filling::new();
        assert!(page.take(1, 10, 2) && page.take(2, 10, 2) && !page.take(3, 10, 2));
        assert!(page.page.more && page.page.rows == [1, 2]);
        let mut page = Filling::new();
        assert!(page.take(1, PAGE_BYTES + 1, 9) && !page.take(2, 0, 9));
        assert!(page.page.more && page.page.rows == [1]);
    }

    #[test]
    fn the_audit_log_says_what_was_chosen() {
        let all = choice(&Letters::default(), 5);
        assert_eq!(all, json!({ "all": true, "limit": 5 }));
        let some = Letters {
            reason: Some(DeadReason::Age),
            until: Some(Timestamp(7)),
            ..Letters::default()
        };
        let some = choice(&some, 5);
        assert_eq!(some, json!({ "reason": "age", "until": 7, "limit": 5 }));
    }
}
