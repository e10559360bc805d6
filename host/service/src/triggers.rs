//! Triggers, for administrators.

use super::letters::LETTERS_MAX;
use super::{Actor, Admin, ServiceError};
use kvasm_core::{
    App, Capability, Invalid, KeyRange, NewTrigger, Outstanding, Policy, Subject, Timestamp,
    Trigger, TriggerDeletion, TriggerName, Watch,
};
use serde_json::{Value, json};
use std::time::Duration;

const ATTEMPTS_MAX: u32 = 100;
const AGE_MIN: Duration = Duration::from_secs(1);
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Admin {
    /// All triggers of an app, in the order of their names.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app.
    pub async fn triggers(&self, actor: &Actor, app: &App) -> Result<Vec<Trigger>, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        Ok(self.store.triggers(app.id).await?)
    }

    /// Makes an operator's trigger, or replaces the one of its name whole: it is not
    /// paused then. Returns it as it is then.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app,
    /// [`ServiceError::Invalid`] for a trigger that could never work, and for one
    /// more than an app may have; [`ServiceError::AppNotFound`].
    pub async fn set_trigger(
        &self,
        actor: &Actor,
        app: &App,
        trigger: NewTrigger,
    ) -> Result<Trigger, ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        check(&trigger)?;
        let audit = actor.audit("trigger.set", Some(app), Timestamp::now(), shown(&trigger));
        Ok(self.store.set_trigger(app.id, trigger, audit).await?)
    }

    /// Removes a trigger, and does with its outstanding deliveries what `fate` says.
    /// Returns how many were discarded. Those whose handlers run meanwhile may be done
    /// instead.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app, and to discard
    /// deliveries, without `script:write`; [`ServiceError::TriggerNotFound`];
    /// [`ServiceError::TriggerHasDeliveries`], if the fate is [`Fate::Refuse`] and there
    /// are some.
    pub async fn delete_trigger(
        &self,
        actor: &Actor,
        app: &App,
        trigger: TriggerName,
        fate: Fate,
    ) -> Result<u64, ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        if fate == Fate::Discard {
            actor.require(Capability::AppKvWrite(app.id))?;
        }
        let detail = json!({ "trigger": trigger, "deliveries": fate.as_str() });
        let audit = actor.audit("trigger.delete", Some(app), Timestamp::now(), detail);
        let must_be_idle = fate == Fate::Refuse;
        let deleted = self
            .store
            .delete_trigger(app.id, trigger.clone(), must_be_idle, audit);
        let its_own = Outstanding::of(trigger);
        match deleted.await? {
            TriggerDeletion::Absent => return Err(ServiceError::TriggerNotFound),
            TriggerDeletion::Outstanding => {
                let count = self.store.count_deliveries(app.id, &its_own, LETTERS_MAX);
                let count = count.await?;
                return Err(ServiceError::TriggerHasDeliveries { count });
            }
            TriggerDeletion::Deleted => {}
        }
        match fate {
            Fate::Discard => self.discard_all(actor, app, its_own).await,
            Fate::Refuse | Fate::Keep => Ok(0),
        }
    }

    /// Discards all deliveries of a trigger that is gone, and so makes no new ones.
    async fn discard_all(
        &self,
        actor: &Actor,
        app: &App,
        which: Outstanding,
    ) -> Result<u64, ServiceError> {
        let mut discarded = 0;
        loop {
            let some = self.discard_deliveries(actor, app, which.clone(), LETTERS_MAX, false);
            let some = some.await?;
            discarded += some;
            if some < u64::from(LETTERS_MAX) {
                return Ok(discarded);
            }
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
        let set = self.store.pause_trigger(app.id, trigger, paused, audit);
        found(set.await?)
    }
}

/// What becomes of the outstanding deliveries of a trigger that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// If there are some, the trigger is not deleted.
    #[default]
    Refuse,
    /// They are kept: the function that they name is called.
    Keep,
    /// They are discarded.
    Discard,
}

impl Fate {
    /// Every fate.
    pub const ALL: [Fate; 3] = [Fate::Refuse, Fate::Keep, Fate::Discard];

    /// The fate in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fate::Refuse => "refuse",
            Fate::Keep => "keep",
            Fate::Discard => "discard",
        }
    }
}

impl std::str::FromStr for Fate {
    type Err = ();

    fn from_str(word: &str) -> Result<Fate, ()> {
        Fate::ALL
            .into_iter()
            .find(|fate| fate.as_str() == word)
            .ok_or(())
    }
}

/// Whether there was the trigger.
fn found(is_there: bool) -> Result<(), ServiceError> {
    match is_there {
        true => Ok(()),
        false => Err(ServiceError::TriggerNotFound),
    }
}

/// Refuses a trigger that could never work.
fn check(trigger: &NewTrigger) -> Result<(), Invalid> {
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
fn shown(trigger: &NewTrigger) -> Value {
    json!({
        "trigger": trigger.name,
        "function": trigger.function,
        "watch": trigger.watch,
        "attempts_max": trigger.policy.attempts_max,
        "age_max_ms": ms(trigger.policy.age_max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{Changes, Collection, Schedule};

    fn trigger() -> NewTrigger {
        NewTrigger {
            name: TriggerName::parse("t").unwrap(),
            watch: Watch::Changes(Changes {
                collection: Collection::parse("orders").unwrap(),
                prefix: "eu/".to_owned(),
                set: true,
                delete: false,
            }),
            function: "f".to_owned(),
            policy: Policy::default(),
        }
    }

    fn with(change: impl FnOnce(&mut Changes)) -> NewTrigger {
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
        let scheduled = NewTrigger {
            watch: schedule,
            ..trigger()
        };
        assert_eq!(check(&scheduled), Ok(()));
        let function = |name: &str| NewTrigger {
            function: name.to_owned(),
            ..trigger()
        };
        let policy = |attempts_max, age_max_ms| NewTrigger {
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
}
