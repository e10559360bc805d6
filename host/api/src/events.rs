//! Triggers, deliveries and dead letters.

use super::batch::present;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kvasm_core::{
    Changes, DeadLetter, DeclaredTrigger, Delivery, DeliveryTarget, Event, EventKind, Origin,
    Pause, Policy, TraceContext, Trigger, Value, Watch,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A trigger: it watches `collection`, runs on `schedule`, or, without both, is that of the timers
/// which the plugin sets.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TriggerView {
    /// Name.
    pub name: String,
    /// Who created it: `plugin` or `operator`.
    pub origin: String,
    /// Name of the function that it calls; `null` for a webhook.
    pub function: Option<String>,
    /// For webhooks: the URL that its events are sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// For webhooks: the name of the secret that signs the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// For changes: the collection.
    pub collection: Option<String>,
    /// For changes: the prefix of the keys; empty for all keys.
    pub prefix: Option<String>,
    /// For changes: `set`, `delete` or both.
    pub on: Option<Vec<String>>,
    /// For schedules: the cron expression, in UTC.
    pub schedule: Option<String>,
    /// Maximum number of attempts of a delivery.
    pub attempts_max: u32,
    /// Maximum age of a delivery, in milliseconds.
    pub age_max_ms: u64,
    /// Why it is paused: `operator`, or `failures` after ten deliveries in a row that failed
    /// deterministically; `null` if it is not paused.
    pub paused: Option<String>,
    /// Number of deliveries that failed deterministically since the last success.
    pub failures: u32,
    /// When the next delivery is tried, if it is paused after failures.
    #[serde(default)]
    pub probe_at: Option<i64>,
    /// When the schedule is next due, once known.
    pub next_at: Option<i64>,
    /// When it was created.
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
            ..
        } = DeclaredView::new(trigger.name.to_string(), &trigger.watch);
        let webhook = trigger.target.webhook();
        TriggerView {
            name,
            origin: match trigger.origin {
                Origin::Plugin => "plugin",
                Origin::Operator => "operator",
            }
            .to_owned(),
            function: function(&trigger.target.of_delivery()),
            url: webhook.map(|webhook| webhook.url.to_string()),
            secret: webhook.map(|webhook| webhook.secret.to_string()),
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

fn function(target: &DeliveryTarget) -> Option<String> {
    target.function().map(str::to_owned)
}

fn age_ms(policy: Policy) -> u64 {
    u64::try_from(policy.age_max.as_millis()).unwrap_or(u64::MAX)
}

/// All triggers of an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TriggerPage {
    /// Ordered by name.
    pub triggers: Vec<TriggerView>,
}

/// A trigger that a plugin declares. It has the name of its function. With neither `collection` nor
/// `schedule` it is that of timers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeclaredView {
    /// Name.
    pub name: String,
    /// For changes: the collection.
    pub collection: Option<String>,
    /// For changes: the prefix of the keys; empty for all keys.
    pub prefix: Option<String>,
    /// For changes: `set`, `delete` or both.
    pub on: Option<Vec<String>>,
    /// For schedules: the cron expression, in UTC.
    pub schedule: Option<String>,
    /// The maximum number of attempts of a delivery, if declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// The maximum age of a failed delivery, in milliseconds, if declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_max_ms: Option<u64>,
}

impl DeclaredView {
    fn new(name: String, watch: &Watch) -> DeclaredView {
        let (changes, schedule) = match watch {
            Watch::Changes(changes) => (Some(changes), None),
            Watch::Schedule(schedule) => (None, Some(schedule)),
            Watch::Timers => (None, None),
        };
        DeclaredView {
            name,
            collection: changes.map(|changes| changes.collection.to_string()),
            prefix: changes.map(|changes| changes.prefix.clone()),
            on: changes.map(kinds),
            schedule: schedule.map(|schedule| schedule.as_str().to_owned()),
            attempts_max: None,
            age_max_ms: None,
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
        DeclaredView {
            attempts_max: declared.attempts_max,
            age_max_ms: declared.age_max_ms,
            ..DeclaredView::new(declared.name.to_string(), &declared.watch)
        }
    }
}

/// A trigger to create, with either `collection` or `schedule`. It replaces an existing trigger of
/// the same name completely.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerPut {
    /// Name of the function to call; the trigger's name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Send the events to this URL instead; requires `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Name of the app's secret that signs the requests. It must be set: lines of `whsec_` and 24
    /// to 64 bytes in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Watch changes of this collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Only keys with this prefix; all keys by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// `set`, `delete` or both; both by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<String>>,
    /// A cron expression of five fields, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Maximum number of attempts of a delivery, 1 to 100; 12 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Maximum age of a delivery in milliseconds, from 1 s to 30 days; 24 h by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_max_ms: Option<u64>,
}

/// An event: a change of an entry, or a schedule or a timer that became due.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Id: the same for each trigger, attempt and replay.
    pub id: String,
    /// `set`, `delete`, `schedule` or `timer`.
    pub kind: String,
    /// When it happened; for a schedule or a timer, when it was due.
    pub at: i64,
    /// 1 for a change made by a call, plus one for each handler in between.
    pub depth: u32,
    /// Id of the trace of its handlers: that of the request which caused it, or its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The `traceparent` of what caused it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The `tracestate` of what caused it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// For a change: the entry's collection.
    pub collection: Option<String>,
    /// For a change: the entry's key.
    pub key: Option<String>,
    /// For a set: the entry's new version. For a delete: the version that it had.
    pub version: Option<u64>,
    /// For a timer: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<String>,
    /// For a set: the value, if it is JSON.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schema(value_type = serde_json::Value)]
    pub json: Option<Box<RawValue>>,
    /// For a set: the value in base64, if it is bytes. For a timer: its payload in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

impl EventView {
    fn new(event: &Event) -> Result<EventView, serde_json::Error> {
        let (version, value) = match &event.kind {
            EventKind::Set { version, value, .. } => (Some(version.0), Some(value)),
            EventKind::Deleted { version, .. } => (Some(version.0), None),
            EventKind::Due => (None, None),
            EventKind::Timer { payload, .. } => (None, Some(payload)),
        };
        let (json, bytes) = match value {
            None => (None, None),
            Some(Value::Json(text)) => {
                (Some(RawValue::from_string(text.as_str().to_owned())?), None)
            }
            Some(Value::Bytes(bytes)) => (None, Some(STANDARD.encode(bytes))),
        };
        let entry = event.kind.entry();
        let trace = event.trace.as_ref();
        Ok(EventView {
            id: event.id.to_string(),
            kind: event.kind.kind().to_owned(),
            at: event.at.0,
            depth: event.depth,
            trace_id: event.trace_id().map(|id| id.to_string()),
            traceparent: trace.map(TraceContext::parent),
            tracestate: trace.and_then(TraceContext::state).map(str::to_owned),
            collection: entry.map(|(collection, _)| collection.to_string()),
            key: entry.map(|(_, key)| key.to_string()),
            version,
            timer: match &event.kind {
                EventKind::Timer { name, .. } => Some(name.to_string()),
                _ => None,
            },
            json,
            bytes,
        })
    }
}

/// An outstanding delivery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeliveryView {
    /// Name of the trigger.
    pub trigger: String,
    /// Name of the function that is called; `null` for a webhook.
    pub function: Option<String>,
    /// `waiting` behind an earlier delivery of the same key, `pending` until its next attempt, or
    /// `leased` while a handler runs.
    pub state: String,
    /// Number of attempts so far, including the current one.
    pub attempts: u32,
    /// Maximum number of attempts.
    pub attempts_max: u32,
    /// Number of times it was replayed from the dead letters.
    pub replays: u32,
    /// When it was queued, by the event or a replay; for a timer, when it is due.
    pub queued_at: i64,
    /// When its next attempt is due; if leased, when the lease expires.
    pub due_at: Option<i64>,
    /// Error of the last attempt.
    pub error: Option<String>,
    /// The event.
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
            function: function(&delivery.target),
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

/// A page of outstanding deliveries.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeliveryPage {
    /// Ordered by trigger; those of one key are in the order of the changes.
    pub deliveries: Vec<DeliveryView>,
    /// Whether there are more.
    pub more: bool,
    /// Cursor of the next page, to pass as `after` with the same parameters; absent on the last
    /// page.
    #[serde(default)]
    pub next: Option<String>,
}

/// A selection of outstanding deliveries to discard. Each field narrows the selection; to select
/// all, set `all`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeliveriesRequest {
    /// Select all deliveries of the app; cannot be combined with other conditions.
    #[serde(default)]
    pub all: bool,
    /// Ids of events, 1 to 1,000. An event has one delivery for each trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    /// Only those of this trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Only those queued at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// Only those queued before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// Maximum number, 1 to 1,000; 1,000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only count them.
    #[serde(default)]
    pub dry_run: bool,
}

/// The result of discarding outstanding deliveries.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeliveriesDone {
    /// Number of deliveries.
    pub deliveries: u64,
    /// Whether they were only counted.
    pub dry_run: bool,
}

/// A dead letter: a delivery that is no longer tried.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// Id.
    pub id: String,
    /// Name of the trigger.
    pub trigger: String,
    /// Name of the function that was called; `null` for a webhook.
    pub function: Option<String>,
    /// Why it became a dead letter: `attempts`, `age`, `deterministic` or `depth`.
    pub reason: String,
    /// Error of the last attempt.
    pub error: String,
    /// Stack trace in the plugin, if known.
    pub trace: Option<String>,
    /// The plugin version of the last attempt, if any.
    pub plugin_version: Option<u32>,
    /// SHA-256 of its module.
    pub plugin_digest: Option<String>,
    /// Number of attempts since the event or the last replay.
    pub attempts: u32,
    /// Number of previous replays.
    pub replays: u32,
    /// When it became a dead letter.
    pub dead_at: i64,
    /// The event.
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
            function: function(&letter.target),
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
    /// Cursor of the next page, to pass as `before` with the same parameters; absent on the last
    /// page.
    pub next: Option<String>,
}

/// A selection of dead letters to replay or discard, oldest first. Each field narrows the
/// selection; to select all, set `all`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LettersRequest {
    /// Select all dead letters of the app; cannot be combined with other conditions.
    #[serde(default)]
    pub all: bool,
    /// Ids of dead letters, 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// Only those of this trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Only those with this reason: `attempts`, `age`, `deterministic` or `depth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only those that became dead letters at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// Only those that became dead letters before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// Maximum number, 1 to 1,000; 1,000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only count them.
    #[serde(default)]
    pub dry_run: bool,
}

/// The result of replaying or discarding dead letters.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LettersDone {
    /// Number of dead letters.
    pub letters: u64,
    /// Whether they were only counted.
    pub dry_run: bool,
}
