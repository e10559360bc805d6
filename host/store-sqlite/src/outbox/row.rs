//! Rows of deliveries and dead letters.

use super::super::entries::{damaged, uuid_of, value};
use kvasm_core::{
    Collection, DeadLetter, Delivery, DeliveryKey, DeliveryTarget, Digest, Event, EventKind, Key,
    PluginVersion, Policy, TimerName, Timestamp, TraceContext, TriggerName, Version,
};
use rusqlite::Row;
use std::time::Duration;
use uuid::Uuid;

/// Encodes identities as one parameter for `SELECT unhex(value) FROM json_each(?)`; `None` if there
/// are none.
pub(super) fn ids_parameter(ids: &[Uuid]) -> Option<String> {
    let texts = ids.iter().map(|id| id.simple().to_string());
    (!ids.is_empty()).then(|| serde_json::Value::from_iter(texts).to_string())
}

/// Reads an event: identity, depth, time, kind, collection, key, version, value, number of
/// deliveries that may follow, trace context.
fn event(row: &Row<'_>, first: usize) -> rusqlite::Result<Event> {
    let kind: String = row.get(first + 3)?;
    let collection: Option<String> = row.get(first + 4)?;
    let key: Option<String> = row.get(first + 5)?;
    let version: Option<i64> = row.get(first + 6)?;
    let entry = collection.zip(key).zip(version);
    let entry = entry.map(|((collection, key), version)| {
        let version = Version(version.unsigned_abs());
        (Collection::stored(collection), Key::stored(key), version)
    });
    let what = match (kind.as_str(), entry) {
        ("set", Some((collection, key, version))) => EventKind::Set {
            collection,
            key,
            version,
            value: value(row, first + 7)?,
        },
        ("delete", Some((collection, key, version))) => EventKind::Deleted {
            collection,
            key,
            version,
        },
        ("schedule", None) => EventKind::Due,
        ("timer", None) => EventKind::Timer {
            name: TimerName::stored(row.get(first + 5)?),
            payload: value(row, first + 7)?,
        },
        _ => return Err(damaged(first + 3, "unknown event kind".to_owned())),
    };
    let trace: Option<Vec<u8>> = row.get(first + 9)?;
    Ok(Event {
        id: uuid_of(row, first)?,
        depth: row.get(first + 1)?,
        at: Timestamp(row.get(first + 2)?),
        followers: row.get(first + 8)?,
        // A damaged one must not hold up the delivery.
        trace: trace.and_then(|bytes| TraceContext::decode(&bytes)),
        kind: what,
    })
}

/// The columns that `delivery` reads, of deliveries `d` and their triggers `t`.
pub(super) const DELIVERY: &str = "SELECT d.trigger_name, d.chain, d.seq, d.due_at, d.lease,
       d.attempts, d.replays, d.queued_at, d.function, d.error, t.attempts_max, t.age_max_ms,
       d.event_id, d.depth, d.at, d.kind, d.collection, d.key, d.version, d.value, d.followers,
       d.trace_context
     FROM deliveries AS d
     LEFT JOIN triggers AS t ON t.app_id = d.app_id AND t.name = d.trigger_name";

pub(super) fn delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    let due_at: Option<i64> = row.get(3)?;
    let lease: Option<[u8; 16]> = row.get(4)?;
    let attempts_max: Option<u32> = row.get(10)?;
    let age_max: Option<i64> = row.get(11)?;
    let policy = attempts_max.zip(age_max);
    let policy = policy.map(|(attempts_max, age_max)| Policy {
        attempts_max,
        age_max: Duration::from_millis(age_max.unsigned_abs()),
    });
    Ok(Delivery {
        place: DeliveryKey {
            trigger: TriggerName::stored(row.get(0)?),
            ordering_key: row.get(1)?,
            seq: row.get(2)?,
        },
        due_at: due_at.map(Timestamp),
        leased: lease.is_some(),
        attempts: row.get(5)?,
        replays: row.get(6)?,
        queued_at: Timestamp(row.get(7)?),
        target: DeliveryTarget::stored(row.get(8)?),
        error: row.get(9)?,
        policy: policy.unwrap_or_default(),
        event: event(row, 12)?,
        is_probe: false,
    })
}

/// The columns that `dead_letter` reads.
pub(super) const DEAD_LETTER: &str = "id, trigger_name, function, reason, error, trace,
       plugin_version, plugin_digest, attempts, replays, dead_at,
       event_id, depth, at, kind, collection, key, version, value, followers, trace_context
     FROM dead_letters";

pub(super) fn dead_letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let reason: String = row.get(3)?;
    let version: Option<u32> = row.get(6)?;
    let digest: Option<[u8; 32]> = row.get(7)?;
    let plugin = version.map(PluginVersion).zip(digest.map(Digest));
    Ok(DeadLetter {
        id: uuid_of(row, 0)?,
        trigger: TriggerName::stored(row.get(1)?),
        target: DeliveryTarget::stored(row.get(2)?),
        reason: reason
            .parse()
            .map_err(|()| damaged(3, "unknown reason".to_owned()))?,
        error: row.get(4)?,
        trace: row.get(5)?,
        plugin,
        attempts: row.get(8)?,
        replays: row.get(9)?,
        dead_at: Timestamp(row.get(10)?),
        event: event(row, 11)?,
    })
}
