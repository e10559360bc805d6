//! Triggers, deliveries and dead letters.

use super::batch::present;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kvasm_core::{
    Changes, DeadLetter, DeclaredTrigger, Delivery, Event, Happening, Origin, Pause, Policy,
    Trigger, Value, Watch,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A trigger: it waits for changes of `collection`, or for the times of `schedule`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TriggerView {
    /// Its name.
    pub name: String,
    /// Who has made it: `plugin` or `operator`.
    pub origin: String,
    /// The function that it calls.
    pub function: String,
    /// Of changes: the collection.
    pub collection: Option<String>,
    /// Of changes: what the keys start with; empty: all keys.
    pub prefix: Option<String>,
    /// Of changes: `set`, `delete` or both.
    pub on: Option<Vec<String>>,
    /// Of times: the cron expression, in UTC.
    pub schedule: Option<String>,
    /// How often a delivery is tried.
    pub attempts_max: u32,
    /// The age at which a delivery is given up, in milliseconds.
    pub age_max_ms: u64,
    /// Why its deliveries wait: `operator`, or `failures` after ten deliveries in a row
    /// that failed deterministically; null: they do not.
    pub paused: Option<String>,
    /// Deliveries that have failed deterministically since the last success.
    pub failures: u32,
    /// Of a trigger that failures have paused: when the next delivery is tried.
    #[serde(default)]
    pub probe_at: Option<i64>,
    /// When the schedule is due next, once that is known.
    pub next_at: Option<i64>,
    /// When it was made.
    pub created_at: i64,
}

impl From<&Trigger> for TriggerView {
    fn from(trigger: &Trigger) -> TriggerView {
        let DeclaredView {
            name,
            collection,
            prefix,
            on,
            schedule,
        } = DeclaredView::new(trigger.name.to_string(), &trigger.watch);
        TriggerView {
            name,
            origin: match trigger.origin {
                Origin::Plugin => "plugin",
                Origin::Operator => "operator",
            }
            .to_owned(),
            function: trigger.function.clone(),
            collection,
            prefix,
            on,
            schedule,
            attempts_max: trigger.policy.attempts_max,
            age_max_ms: age_ms(trigger.policy),
            paused: trigger.standing.paused.map(|pause| {
                match pause {
                    Pause::Operator => "operator",
                    Pause::Failures => "failures",
                }
                .to_owned()
            }),
            failures: trigger.standing.failures,
            probe_at: trigger.standing.probe_at.map(|at| at.0),
            next_at: trigger.next_at.map(|at| at.0),
            created_at: trigger.created_at.0,
        }
    }
}

fn age_ms(policy: Policy) -> u64 {
    u64::try_from(policy.age_max.as_millis()).unwrap_or(u64::MAX)
}

/// All triggers of an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TriggerPage {
    /// In the order of their names.
    pub triggers: Vec<TriggerView>,
}

/// A trigger that a plugin declares. Its name is that of the function.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeclaredView {
    /// Its name.
    pub name: String,
    /// Of changes: the collection.
    pub collection: Option<String>,
    /// Of changes: what the keys start with; empty: all keys.
    pub prefix: Option<String>,
    /// Of changes: `set`, `delete` or both.
    pub on: Option<Vec<String>>,
    /// Of times: the cron expression, in UTC.
    pub schedule: Option<String>,
}

impl DeclaredView {
    fn new(name: String, watch: &Watch) -> DeclaredView {
        let (changes, schedule) = match watch {
            Watch::Changes(changes) => (Some(changes), None),
            Watch::Schedule(schedule) => (None, Some(schedule)),
        };
        DeclaredView {
            name,
            collection: changes.map(|changes| changes.collection.to_string()),
            prefix: changes.map(|changes| changes.prefix.clone()),
            on: changes.map(kinds),
            schedule: schedule.map(|schedule| schedule.as_str().to_owned()),
        }
    }
}

fn kinds(changes: &Changes) -> Vec<String> {
    let kinds = [("set", changes.set), ("delete", changes.delete)];
    let meant = kinds.into_iter().filter(|(_, meant)| *meant);
    meant.map(|(kind, _)| kind.to_owned()).collect()
}

impl From<&DeclaredTrigger> for DeclaredView {
    fn from(declared: &DeclaredTrigger) -> DeclaredView {
        DeclaredView::new(declared.name.to_string(), &declared.watch)
    }
}

/// A trigger to make: `collection`, or `schedule`. What is there under its name is
/// replaced whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerPut {
    /// The function that it calls; by default that of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Changes of this collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Of keys that start with this; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// `set`, `delete` or both; by default both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<String>>,
    /// A cron expression of five fields, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// How often a delivery is tried, 1 to 100; by default 12.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// The age at which a delivery is given up, 1 s to 30 days; by default 24 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_max_ms: Option<u64>,
}

/// What has happened.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Its identity: the same for each trigger, each attempt and each replay.
    pub id: String,
    /// `set`, `delete` or `schedule`.
    pub kind: String,
    /// When; for a schedule, when it was due.
    pub at: i64,
    /// 1 for a change that a call made, one more for each handler on the way.
    pub depth: u32,
    /// Of a change: the entry's collection.
    pub collection: Option<String>,
    /// Of a change: the entry's key.
    pub key: Option<String>,
    /// Of a set: the version that the entry got; of a delete: that it had.
    pub version: Option<u64>,
    /// Of a set: the value, if it is JSON.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schema(value_type = serde_json::Value)]
    pub json: Option<Box<RawValue>>,
    /// Of a set: the value in base64, if it is bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

impl EventView {
    fn new(event: &Event) -> Result<EventView, serde_json::Error> {
        let (version, value) = match &event.what {
            Happening::Set { version, value, .. } => (Some(version.0), Some(value)),
            Happening::Deleted { version, .. } => (Some(version.0), None),
            Happening::Due => (None, None),
        };
        let (json, bytes) = match value {
            None => (None, None),
            Some(Value::Json(text)) => {
                (Some(RawValue::from_string(text.as_str().to_owned())?), None)
            }
            Some(Value::Bytes(bytes)) => (None, Some(STANDARD.encode(bytes))),
        };
        let entry = event.what.entry();
        Ok(EventView {
            id: event.id.to_string(),
            kind: event.what.kind().to_owned(),
            at: event.at.0,
            depth: event.depth,
            collection: entry.map(|(collection, _)| collection.to_string()),
            key: entry.map(|(_, key)| key.to_string()),
            version,
            json,
            bytes,
        })
    }
}

/// A delivery that is not done yet.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeliveryView {
    /// Its trigger.
    pub trigger: String,
    /// The function that is called.
    pub function: String,
    /// `waiting` behind an earlier one of its key, `pending` to be tried, now or
    /// when its retry is due, or `leased` while a handler runs.
    pub state: String,
    /// The attempts so far, that under way included.
    pub attempts: u32,
    /// How often it is tried.
    pub attempts_max: u32,
    /// How often it was a dead letter.
    pub replays: u32,
    /// When it came into the queue: with the event, or by a replay.
    pub queued_at: i64,
    /// When it may be tried; of a leased one, when the lease runs out.
    pub due_at: Option<i64>,
    /// How the last attempt failed.
    pub error: Option<String>,
    /// What has happened.
    pub event: EventView,
}

impl DeliveryView {
    /// The JSON of the value.
    ///
    /// # Errors
    /// The event cannot be written as JSON.
    pub fn new(delivery: &Delivery) -> Result<DeliveryView, serde_json::Error> {
        Ok(DeliveryView {
            trigger: delivery.place.trigger.to_string(),
            function: delivery.function.clone(),
            state: delivery.state().as_str().to_owned(),
            attempts: delivery.attempts,
            attempts_max: delivery.policy.attempts_max,
            replays: delivery.replays,
            queued_at: delivery.queued_at.0,
            due_at: delivery.due_at.map(|at| at.0),
            error: delivery.error.clone(),
            event: EventView::new(&delivery.event)?,
        })
    }
}

/// Deliveries that are not done yet.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeliveryPage {
    /// In the order of their triggers; those of one key in that of the changes.
    pub deliveries: Vec<DeliveryView>,
    /// Whether there are more.
    pub more: bool,
    /// Pass it as `after`, with the same parameters, for the next page; absent at the
    /// end.
    #[serde(default)]
    pub next: Option<String>,
}

/// Which outstanding deliveries to discard. Each part that is there narrows the choice;
/// one that is empty must be said with `all`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeliveriesRequest {
    /// All of the app; then nothing else may narrow the choice.
    #[serde(default)]
    pub all: bool,
    /// Of the events with these ids; 1 to 1,000. Each trigger has a delivery of its own
    /// of an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    /// Of this trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Queued at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// Queued before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// At most so many, 1 to 1,000; by default 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only count them.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of outstanding deliveries.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeliveriesDone {
    /// How many there were.
    pub deliveries: u64,
    /// Whether they were only counted.
    pub dry_run: bool,
}

/// A delivery that was given up.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// Its identity.
    pub id: String,
    /// Its trigger.
    pub trigger: String,
    /// The function that was called.
    pub function: String,
    /// Why it was given up: `attempts`, `age`, `deterministic` or `depth`.
    pub reason: String,
    /// How the last attempt failed.
    pub error: String,
    /// Where in the plugin, if that is known.
    pub trace: Option<String>,
    /// The plugin version that was run last, if any.
    pub plugin_version: Option<u32>,
    /// The SHA-256 of its module.
    pub plugin_digest: Option<String>,
    /// The attempts since the event, or since the last replay.
    pub attempts: u32,
    /// How often it was replayed before.
    pub replays: u32,
    /// When it was given up.
    pub dead_at: i64,
    /// What has happened.
    pub event: EventView,
}

impl DeadLetterView {
    /// The JSON of the value.
    ///
    /// # Errors
    /// The event cannot be written as JSON.
    pub fn new(letter: &DeadLetter) -> Result<DeadLetterView, serde_json::Error> {
        Ok(DeadLetterView {
            id: letter.id.to_string(),
            trigger: letter.trigger.to_string(),
            function: letter.function.clone(),
            reason: letter.reason.to_string(),
            error: letter.error.clone(),
            trace: letter.trace.clone(),
            plugin_version: letter.plugin.map(|(version, _)| version.0),
            plugin_digest: letter.plugin.map(|(_, digest)| digest.to_string()),
            attempts: letter.attempts,
            replays: letter.replays,
            dead_at: letter.dead_at.0,
            event: EventView::new(&letter.event)?,
        })
    }
}

/// A page of dead letters.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterPage {
    /// Newest first.
    pub dead_letters: Vec<DeadLetterView>,
    /// Pass it as `before`, with the same parameters, for the next page; absent at
    /// the end.
    pub next: Option<String>,
}

/// Which dead letters to replay or to discard, the oldest first. Each part that is
/// there narrows the choice; one that is empty must be said with `all`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LettersRequest {
    /// All of the app; then nothing else may narrow the choice.
    #[serde(default)]
    pub all: bool,
    /// These; 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// Of this trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// For this reason: `attempts`, `age`, `deterministic` or `depth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Given up at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// Given up before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// At most so many, 1 to 1,000; by default 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only count them.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of dead letters.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LettersDone {
    /// How many there were.
    pub letters: u64,
    /// Whether they were only counted.
    pub dry_run: bool,
}
