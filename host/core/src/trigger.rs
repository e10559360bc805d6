//! Triggers: which changes or times call which function of a plugin, or which URL.

use super::{Collection, Invalid, Key, Queue, Schedule, Subject, Target, Timestamp, TriggerHealth};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The name of a trigger within its app: 1 to 64 bytes of `a-z`, `A-Z`, `0-9`, `_`, `-` and `.`,
/// like the name of a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TriggerName(String);

impl TriggerName {
    /// The maximum length of a name, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// Parses a name.
    ///
    /// # Errors
    /// [`Invalid`] if the name is empty or too long, or contains another character.
    pub fn parse(name: &str) -> Result<TriggerName, Invalid> {
        if name.is_empty() {
            return Err(Invalid::Empty(Subject::Trigger));
        }
        if name.len() > Self::BYTES_MAX {
            return Err(Invalid::TooLarge {
                subject: Subject::Trigger,
                len: name.len() as u64,
                limit: Self::BYTES_MAX as u64,
            });
        }
        let allowed = |c: &char| c.is_ascii_alphanumeric() || "_-.".contains(*c);
        if let Some(found) = name.chars().find(|c| !allowed(c)) {
            return Err(Invalid::Character {
                subject: Subject::Trigger,
                found,
                allowed: "a-z, A-Z, 0-9, '_', '-' and '.'",
            });
        }
        // As a path segment, a name of dots would refer to another path.
        if name.chars().all(|c| c == '.') {
            return Err(Invalid::Character {
                subject: Subject::Trigger,
                found: '.',
                allowed: "names that do not consist only of dots",
            });
        }
        Ok(TriggerName(name.to_owned()))
    }

    /// Wraps text read from a store, which was parsed when it was written.
    pub fn stored(name: String) -> TriggerName {
        TriggerName(name)
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TriggerName {
    type Error = Invalid;

    fn try_from(name: String) -> Result<TriggerName, Invalid> {
        TriggerName::parse(&name)
    }
}

impl From<TriggerName> for String {
    fn from(name: TriggerName) -> String {
        name.0
    }
}

impl fmt::Display for TriggerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a trigger reacts to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// Changes of entries.
    Changes(Changes),
    /// A schedule.
    Schedule(Schedule),
    /// The timers of the app, which only [`TIMER_TRIGGER`](crate::TIMER_TRIGGER) handles.
    Timers,
}

/// The changes of entries that a trigger reacts to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// In this collection.
    pub collection: Collection,
    /// Of keys that start with this prefix; all keys if it is empty.
    #[serde(default)]
    pub prefix: String,
    /// Whether it reacts to writes.
    pub set: bool,
    /// Whether it reacts to deletions. The expiry of an entry is not a change.
    pub delete: bool,
}

impl Changes {
    /// Returns whether it reacts to a write of this entry.
    pub fn on_set(&self, collection: &Collection, key: &Key) -> bool {
        self.set && self.covers(collection, key)
    }

    /// Returns whether it reacts to a deletion of this entry.
    pub fn on_delete(&self, collection: &Collection, key: &Key) -> bool {
        self.delete && self.covers(collection, key)
    }

    fn covers(&self, collection: &Collection, key: &Key) -> bool {
        self.collection == *collection && key.as_str().starts_with(&self.prefix)
    }
}

/// A trigger that a plugin declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredTrigger {
    /// Its name, which is also that of its function.
    pub name: TriggerName,
    /// What it reacts to.
    pub watch: Watch,
    /// The maximum number of attempts, if declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// The maximum age of a failed delivery, in milliseconds, if declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_max_ms: Option<u64>,
}

impl DeclaredTrigger {
    /// Returns a declaration with the default policy.
    pub fn new(name: TriggerName, watch: Watch) -> DeclaredTrigger {
        DeclaredTrigger {
            name,
            watch,
            attempts_max: None,
            age_max_ms: None,
        }
    }

    /// Returns the retry policy of the trigger, unless an operator replaces the trigger.
    pub fn policy(&self) -> Policy {
        let default = Policy::default();
        Policy {
            attempts_max: self.attempts_max.unwrap_or(default.attempts_max),
            age_max: self
                .age_max_ms
                .map_or(default.age_max, Duration::from_millis),
        }
    }
}

/// Who created a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Declared by the active plugin, and tied to its version.
    Plugin,
    /// Created by an operator. It overrides a declared trigger of the same name.
    Operator,
}

/// The retry policy of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The maximum number of attempts. Default 12.
    pub attempts_max: u32,
    /// The maximum age of a delivery that has failed, counted from the event or the last replay.
    /// Default 24 h.
    pub age_max: Duration,
}

impl Policy {
    const ATTEMPTS_MAX: u32 = 100;
    const AGE_MIN: Duration = Duration::from_secs(1);
    const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

    /// Checks that both are within their limits: 1 to 100 attempts, 1 s to 30 days.
    ///
    /// # Errors
    /// [`Invalid::OutOfRange`].
    pub fn check(&self) -> Result<(), Invalid> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        if !(1..=Self::ATTEMPTS_MAX).contains(&self.attempts_max) {
            return Err(Invalid::OutOfRange {
                subject: Subject::Attempts,
                found: self.attempts_max.into(),
                min: 1,
                max: Self::ATTEMPTS_MAX.into(),
            });
        }
        if !(Self::AGE_MIN..=Self::AGE_MAX).contains(&self.age_max) {
            return Err(Invalid::OutOfRange {
                subject: Subject::Age,
                found: ms(self.age_max),
                min: ms(Self::AGE_MIN),
                max: ms(Self::AGE_MAX),
            });
        }
        Ok(())
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            attempts_max: 12,
            age_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// A trigger of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Its name.
    pub name: TriggerName,
    /// Who created it.
    pub origin: Origin,
    /// What it reacts to.
    pub watch: Watch,
    /// Where its events go.
    pub target: Target,
    /// Its retry policy.
    pub policy: Policy,
    /// Its failures and its pause.
    pub standing: TriggerHealth,
    /// When its schedule is due next, once that is known.
    pub next_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// A trigger that an operator creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTrigger {
    /// Its name.
    pub name: TriggerName,
    /// What it reacts to.
    pub watch: Watch,
    /// Where its events go.
    pub target: Target,
    /// Its retry policy.
    pub policy: Policy,
}

impl NewTrigger {
    /// Returns the operator's trigger that replaces `before`, the trigger of the same name. It is
    /// not paused and has no failures. It keeps the creation time of `before`, and the next due
    /// time if the schedule is the same.
    pub fn replacing(self, before: Option<&Trigger>, now: Timestamp) -> Trigger {
        let is_scheduled = matches!(self.watch, Watch::Schedule(_));
        let planned = before.filter(|before| is_scheduled && before.watch == self.watch);
        Trigger {
            name: self.name,
            origin: Origin::Operator,
            target: self.target,
            policy: self.policy,
            standing: TriggerHealth {
                series: before.map_or(0, |before| before.standing.series.saturating_add(1)),
                ..TriggerHealth::default()
            },
            next_at: planned.and_then(|before| before.next_at),
            created_at: before.map_or(now, |before| before.created_at),
            watch: self.watch,
        }
    }
}

impl Trigger {
    /// Creates a trigger from a declaration.
    pub fn declared(declaration: &DeclaredTrigger, at: Timestamp) -> Trigger {
        Trigger {
            name: declaration.name.clone(),
            origin: Origin::Plugin,
            watch: declaration.watch.clone(),
            target: Target::function(declaration.name.as_str()),
            policy: declaration.policy(),
            standing: TriggerHealth::default(),
            next_at: None,
            created_at: at,
        }
    }
}

/// The position of a schedule in the order in which schedules become due: by time, app and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulePosition {
    /// The trigger.
    pub queue: Queue,
    /// When it is due; `None`, which sorts first, if it is not planned yet.
    pub next_at: Option<Timestamp>,
}

/// A schedule that is due, as read from a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueSchedule {
    /// Its position, from which the next search continues.
    pub place: SchedulePosition,
    /// The trigger, or why this build cannot read it: another version of Kvasm may have written it.
    pub trigger: Result<Trigger, String>,
}

/// The maximum number of triggers of an app. Each trigger that watches an entry adds a row to every
/// write of it.
pub const TRIGGERS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigger_names_allow_function_names() {
        assert!(TriggerName::parse("on_order.v2-b").is_ok());
        for bad in ["", "a b", "é", "a/b", ".", "..", &"x".repeat(65)] {
            assert!(TriggerName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn changes_match_by_collection_prefix_and_kind() {
        let orders = Collection::parse("orders").unwrap();
        let changes = Changes {
            collection: orders.clone(),
            prefix: "eu/".to_owned(),
            set: true,
            delete: false,
        };
        let key = |key| Key::parse(key).unwrap();
        assert!(changes.on_set(&orders, &key("eu/1")));
        assert!(!changes.on_set(&orders, &key("us/1")));
        assert!(!changes.on_set(&Collection::parse("other").unwrap(), &key("eu/1")));
        assert!(!changes.on_delete(&orders, &key("eu/1")));
    }
}
