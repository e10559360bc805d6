//! Dead letters: deliveries that were given up.

use super::{
    DELIVERY_BYTES, DeadReason, DeliveryTarget, Digest, Event, EventKind, PluginVersion, Timestamp,
    TriggerName,
};
use uuid::Uuid;

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its identity, which sorts by the time at which it was given up.
    pub id: Uuid,
    /// The whole event.
    pub event: Event,
    /// The trigger.
    pub trigger: TriggerName,
    /// Where it went.
    pub target: DeliveryTarget,
    /// Why it was given up.
    pub reason: DeadReason,
    /// The error of the last attempt.
    pub error: String,
    /// The stack trace in the plugin, if known.
    pub trace: Option<String>,
    /// The plugin version that was run last, if any.
    pub plugin: Option<(PluginVersion, Digest)>,
    /// The attempts since the event, or since the last replay.
    pub attempts: u32,
    /// How often it had been replayed.
    pub replays: u32,
    /// When it was given up.
    pub dead_at: Timestamp,
}

impl DeadLetter {
    /// Returns the bytes that it counts against its app's quota: those of its delivery, and the
    /// texts of its failure.
    pub fn bytes(&self) -> u64 {
        let texts = self.error.len() + self.trace.as_ref().map_or(0, String::len);
        self.event.bytes().max(DELIVERY_BYTES) + texts as u64
    }

    /// Returns it as its plugin sees it: without the value, which may be large.
    pub fn to_plugin_json(&self) -> serde_json::Value {
        let entry = self.event.kind.entry();
        let version = match &self.event.kind {
            EventKind::Set { version, .. } | EventKind::Deleted { version, .. } => Some(version.0),
            EventKind::Due | EventKind::Timer { .. } => None,
        };
        serde_json::json!({
            "id": self.id,
            "event_id": self.event.id,
            "trigger": self.trigger,
            "function": self.target.column(),
            "kind": self.event.kind.kind(),
            "collection": entry.map(|(collection, _)| collection),
            "key": entry.map(|(_, key)| key),
            "version": version,
            "reason": self.reason.as_str(),
            "error": self.error,
            "attempts": self.attempts,
            "at_ms": self.event.at,
            "dead_at_ms": self.dead_at,
        })
    }
}

/// A replay of a dead letter in a batch: it becomes a delivery again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// Its identity.
    pub letter: Uuid,
    /// Whether the batch fails as a conflict if the app has no such dead letter. Otherwise nothing
    /// happens then.
    pub is_required: bool,
}

/// A filter of an app's dead letters. Each field that is set narrows the selection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetterFilter {
    /// These identities; any if empty.
    pub ids: Vec<Uuid>,
    /// For this trigger.
    pub trigger: Option<TriggerName>,
    /// With this reason.
    pub reason: Option<DeadReason>,
    /// Given up at this time or later.
    pub from: Option<Timestamp>,
    /// Given up before this time.
    pub until: Option<Timestamp>,
}

impl DeadLetterFilter {
    /// Selects one dead letter.
    pub fn of(letter: Uuid) -> DeadLetterFilter {
        DeadLetterFilter {
            ids: vec![letter],
            ..DeadLetterFilter::default()
        }
    }

    /// Returns whether the filter selects a dead letter.
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        (self.ids.is_empty() || self.ids.contains(&letter.id))
            && self.trigger.as_ref().is_none_or(|t| *t == letter.trigger)
            && self.reason.is_none_or(|reason| reason == letter.reason)
            && self.from.is_none_or(|from| from <= letter.dead_at)
            && self.until.is_none_or(|until| letter.dead_at < until)
    }
}
