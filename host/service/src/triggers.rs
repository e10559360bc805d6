//! Administration of triggers.

use super::dead_letters::DEAD_LETTERS_MAX;
use super::webhook::SigningKeys;
use super::{Actor, Admin, ServiceError, snapshot};
use kvasm_core::{
    App, Capability, DeliveryFilter, Invalid, KeyRange, NewTrigger, SettingName, Subject,
    TIMER_TRIGGER, Target, Timestamp, Trigger, TriggerDeletion, TriggerName, Watch,
};
use serde_json::{Value, json};
use std::time::Duration;

impl Admin {
    /// Returns all triggers of an app, in the order of their names.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app.
    pub async fn triggers(&self, actor: &Actor, app: &App) -> Result<Vec<Trigger>, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        Ok(self.store.triggers(app.id).await?)
    }

    /// Creates an operator's trigger, or replaces the one of that name completely, which resumes
    /// it. Returns the stored trigger.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app,
    /// [`ServiceError::Invalid`] for a trigger that could never fire, and above the app's limit
    /// of triggers; [`ServiceError::SigningKey`] for a webhook whose secret is not set or cannot
    /// sign, [`ServiceError::Secrets`] if this host cannot open it; [`ServiceError::AppNotFound`].
    pub async fn set_trigger(
        &self,
        actor: &Actor,
        app: &App,
        trigger: NewTrigger,
    ) -> Result<Trigger, ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        check(&trigger)?;
        if let Target::Webhook(webhook) = &trigger.target {
            self.check_signing_key(app, &webhook.secret).await?;
        }
        let audit = actor.audit(
            "trigger.set",
            Some(app),
            Timestamp::now(),
            audit_detail(&trigger),
        );
        Ok(self.store.set_trigger(app.id, trigger, audit).await?)
    }

    /// Checks that a secret can sign webhooks now. It may change later, so each attempt checks again.
    async fn check_signing_key(&self, app: &App, name: &SettingName) -> Result<(), ServiceError> {
        let settings = self.store.settings(app.id).await?;
        let secret = snapshot::open(&self.keyring, app.id, &settings, name)?;
        let checked = SigningKeys::of(secret.as_ref()).map(drop);
        checked.map_err(|error| ServiceError::SigningKey {
            name: name.clone(),
            error,
        })
    }

    /// Deletes a trigger, and handles its outstanding deliveries according to `fate`. Returns
    /// how many were discarded. Deliveries whose handlers are running may complete instead.
    ///
    /// The deliveries are discarded after the deletion. If that fails, another call discards the
    /// rest, although the trigger is gone by then.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app, or without `script:write` to
    /// discard deliveries; [`ServiceError::TriggerNotFound`], also if there is nothing to discard;
    /// [`ServiceError::TriggerHasDeliveries`] if `fate` is [`OnTriggerDelete::Refuse`] and there are
    /// deliveries.
    pub async fn delete_trigger(
        &self,
        actor: &Actor,
        app: &App,
        trigger: TriggerName,
        fate: OnTriggerDelete,
    ) -> Result<u64, ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        if fate == OnTriggerDelete::Discard {
            actor.require(Capability::AppKvWrite(app.id))?;
        }
        let detail = json!({ "trigger": trigger, "deliveries": fate.as_str() });
        let audit = actor.audit("trigger.delete", Some(app), Timestamp::now(), detail);
        let must_be_idle = fate == OnTriggerDelete::Refuse;
        let deleted = self
            .store
            .delete_trigger(app.id, trigger.clone(), must_be_idle, audit);
        let its_own = DeliveryFilter::of(trigger);
        let is_absent = match deleted.await? {
            TriggerDeletion::Absent => true,
            TriggerDeletion::Outstanding => {
                let count = self
                    .store
                    .count_deliveries(app.id, &its_own, DEAD_LETTERS_MAX);
                let count = count.await?;
                return Err(ServiceError::TriggerHasDeliveries { count });
            }
            TriggerDeletion::Deleted => false,
        };
        let discarded = match fate {
            OnTriggerDelete::Discard => self.discard_all(actor, app, its_own).await?,
            OnTriggerDelete::Refuse | OnTriggerDelete::Keep => 0,
        };
        match is_absent && discarded == 0 {
            true => Err(ServiceError::TriggerNotFound),
            false => Ok(discarded),
        }
    }

    /// Discards all deliveries of a deleted trigger, which creates no new ones.
    async fn discard_all(
        &self,
        actor: &Actor,
        app: &App,
        which: DeliveryFilter,
    ) -> Result<u64, ServiceError> {
        let mut discarded = 0;
        loop {
            let some = self.discard_deliveries(actor, app, which.clone(), DEAD_LETTERS_MAX, false);
            let some = some.await?;
            discarded += some;
            if some < u64::from(DEAD_LETTERS_MAX) {
                return Ok(discarded);
            }
        }
    }

    /// Pauses or resumes a trigger's deliveries.
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

/// What to do with the outstanding deliveries of a deleted trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnTriggerDelete {
    /// If there are any, do not delete the trigger.
    #[default]
    Refuse,
    /// Keep them: their function is still called.
    Keep,
    /// Discard them.
    Discard,
}

impl OnTriggerDelete {
    /// All values.
    pub const ALL: [OnTriggerDelete; 3] = [
        OnTriggerDelete::Refuse,
        OnTriggerDelete::Keep,
        OnTriggerDelete::Discard,
    ];

    /// Returns the name of the value.
    pub const fn as_str(self) -> &'static str {
        match self {
            OnTriggerDelete::Refuse => "refuse",
            OnTriggerDelete::Keep => "keep",
            OnTriggerDelete::Discard => "discard",
        }
    }
}

impl std::str::FromStr for OnTriggerDelete {
    type Err = ();

    fn from_str(word: &str) -> Result<OnTriggerDelete, ()> {
        OnTriggerDelete::ALL
            .into_iter()
            .find(|fate| fate.as_str() == word)
            .ok_or(())
    }
}

/// Returns an error if the trigger does not exist.
fn found(is_there: bool) -> Result<(), ServiceError> {
    match is_there {
        true => Ok(()),
        false => Err(ServiceError::TriggerNotFound),
    }
}

/// Returns an error for a trigger that could never fire.
fn check(trigger: &NewTrigger) -> Result<(), Invalid> {
    if let Target::Function(name) = &trigger.target {
        // Function names follow the rules of trigger names.
        TriggerName::parse(name).map_err(of_function)?;
    }
    if trigger.name.as_str() == TIMER_TRIGGER {
        return Err(Invalid::Malformed {
            subject: Subject::Trigger,
            why: "it is that of the plugin's timers",
        });
    }
    if let Watch::Changes(changes) = &trigger.watch {
        KeyRange::parse(Some(changes.prefix.clone().into_bytes()), None, None)?;
        if !changes.set && !changes.delete {
            return Err(Invalid::Malformed {
                subject: Subject::Changes,
                why: "it needs set, delete or both",
            });
        }
    }
    trigger.policy.check()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Converts an error about a trigger name to one about a function name.
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

/// Formats a trigger for the audit log.
fn audit_detail(trigger: &NewTrigger) -> Value {
    json!({
        "trigger": trigger.name,
        "target": trigger.target,
        "watch": trigger.watch,
        "attempts_max": trigger.policy.attempts_max,
        "age_max_ms": ms(trigger.policy.age_max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{Changes, Collection, Policy, Schedule};

    fn trigger() -> NewTrigger {
        NewTrigger {
            name: TriggerName::parse("t").unwrap(),
            watch: Watch::Changes(Changes {
                collection: Collection::parse("orders").unwrap(),
                prefix: "eu/".to_owned(),
                set: true,
                delete: false,
            }),
            target: Target::function("f"),
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
    fn invalid_trigger_is_rejected() {
        assert_eq!(check(&trigger()), Ok(()));
        let schedule = Watch::Schedule(Schedule::parse("* * * * *").unwrap());
        let scheduled = NewTrigger {
            watch: schedule,
            ..trigger()
        };
        assert_eq!(check(&scheduled), Ok(()));
        let function = |name: &str| NewTrigger {
            target: Target::function(name),
            ..trigger()
        };
        let named = |name: &str| NewTrigger {
            name: TriggerName::parse(name).unwrap(),
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
            (named(TIMER_TRIGGER), "the plugin's timers"),
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
