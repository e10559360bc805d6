//! Triggers: which changes, or which times, call which function of a plugin.

use super::{Collection, Invalid, Key, Queue, Schedule, Standing, Subject, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The name of a trigger within its app: 1 to 64 bytes of `a-z`, `A-Z`, `0-9`,
/// `_`, `-` and `.`, as the names of functions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TriggerName(String);

impl TriggerName {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// Parses a name.
    ///
    /// # Errors
    /// [`Invalid`] for an empty or over-long name, or another character.
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
        // As a part of a path, dots alone would mean another place.
        if name.chars().all(|c| c == '.') {
            return Err(Invalid::Character {
                subject: Subject::Trigger,
                found: '.',
                allowed: "names that are not of dots alone",
            });
        }
        Ok(TriggerName(name.to_owned()))
    }

    /// Takes text that a store read back: it was parsed when it was written.
    pub fn stored(name: String) -> TriggerName {
        TriggerName(name)
    }

    /// The name as text.
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

/// What a trigger waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// Changes of entries.
    Changes(Changes),
    /// Times.
    Schedule(Schedule),
}

/// Which changes of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Of this collection.
    pub collection: Collection,
    /// Of keys that start with this; all if it is empty.
    #[serde(default)]
    pub prefix: String,
    /// Whether writes count.
    pub set: bool,
    /// Whether deletions count. That an entry expires is no change.
    pub delete: bool,
}

impl Changes {
    /// Whether a write of this entry is meant.
    pub fn on_set(&self, collection: &Collection, key: &Key) -> bool {
        self.set && self.covers(collection, key)
    }

    /// Whether a deletion of this entry is meant.
    pub fn on_delete(&self, collection: &Collection, key: &Key) -> bool {
        self.delete && self.covers(collection, key)
    }

    fn covers(&self, collection: &Collection, key: &Key) -> bool {
        self.collection == *collection && key.as_str().starts_with(&self.prefix)
    }
}

/// A trigger as a plugin declares it. Its name is that of the function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredTrigger {
    /// Its name, and that of the function.
    pub name: TriggerName,
    /// What it waits for.
    pub watch: Watch,
}

/// Who has made a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The active plugin declares it; it comes and goes with its version.
    Plugin,
    /// An operator made it. It takes the place of a declared one of its name.
    Operator,
}

/// How often and for how long a delivery is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Attempts before it is given up. Default 12.
    pub attempts_max: u32,
    /// The age at which a delivery that has failed is given up, from the event or
    /// the last replay on. Default 24 h.
    pub age_max: Duration,
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
    /// Who has made it.
    pub origin: Origin,
    /// What it waits for.
    pub watch: Watch,
    /// The function of the active plugin that is called.
    pub function: String,
    /// How often a delivery is tried.
    pub policy: Policy,
    /// Its failures in a row, and its pause.
    pub standing: Standing,
    /// When a schedule is due next, once that is known.
    pub next_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A trigger as an operator asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTrigger {
    /// Its name.
    pub name: TriggerName,
    /// What it waits for.
    pub watch: Watch,
    /// The function of the active plugin that is called.
    pub function: String,
    /// How often a delivery is tried.
    pub policy: Policy,
}

impl NewTrigger {
    /// Returns the operator's trigger that takes the place of `before`, the one of
    /// its name. It is not paused and has not failed. When `before` was made stays,
    /// and so does when its schedule is due next, if that is the same schedule.
    pub fn replacing(self, before: Option<&Trigger>, now: Timestamp) -> Trigger {
        let is_scheduled = matches!(self.watch, Watch::Schedule(_));
        let planned = before.filter(|before| is_scheduled && before.watch == self.watch);
        Trigger {
            name: self.name,
            origin: Origin::Operator,
            function: self.function,
            policy: self.policy,
            standing: Standing {
                series: before.map_or(0, |before| before.standing.series.saturating_add(1)),
                ..Standing::default()
            },
            next_at: planned.and_then(|before| before.next_at),
            created_at: before.map_or(now, |before| before.created_at),
            watch: self.watch,
        }
    }
}

impl Trigger {
    /// The trigger that a declaration makes.
    pub fn declared(declaration: &DeclaredTrigger, at: Timestamp) -> Trigger {
        Trigger {
            name: declaration.name.clone(),
            origin: Origin::Plugin,
            watch: declaration.watch.clone(),
            function: declaration.name.as_str().to_owned(),
            policy: Policy::default(),
            standing: Standing::default(),
            next_at: None,
            created_at: at,
        }
    }
}

/// Where a schedule stands in the order in which schedules are due: by time, app and
/// name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulePlace {
    /// The trigger.
    pub queue: Queue,
    /// When it is due; `None`, which comes first, if it is not planned yet.
    pub next_at: Option<Timestamp>,
}

/// A schedule that is due, as a store has found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueSchedule {
    /// Which one, and where to go on behind it.
    pub place: SchedulePlace,
    /// The trigger, or why this build cannot read it. Another version of Kvasm may
    /// have written it.
    pub trigger: Result<Trigger, String>,
}

/// The most triggers of an app. Each one that watches an entry makes a row of each
/// write to it.
pub const TRIGGERS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_functions() {
        assert!(TriggerName::parse("on_order.v2-b").is_ok());
        for bad in ["", "a b", "é", "a/b", ".", "..", &"x".repeat(65)] {
            assert!(TriggerName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn changes_are_told_by_collection_prefix_and_kind() {
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
