//! Decoding of triggers, deliveries and dead letters.

use super::entries;
use super::registry::{damaged, narrow, optional_version};
use kvasm_core::{
    AppId, Changes, Collection, DeadLetter, Delivery, DeliveryKey, DeliveryTarget, Digest,
    DueSchedule, Event, EventKind, HttpUrl, JsonText, Key, Origin, Pause, Policy, Queue, Schedule,
    SchedulePosition, SettingName, Target, TimerName, Timestamp, TraceContext, Trigger,
    TriggerHealth, TriggerName, Value, Watch, Webhook,
};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::time::Duration;

fn number(row: &PgRow, column: usize) -> Result<u32, Error> {
    narrow(row.try_get(column)?)
}

fn time(row: &PgRow, column: usize) -> Result<Timestamp, Error> {
    row.try_get(column).map(Timestamp)
}

fn optional_time(row: &PgRow, column: usize) -> Result<Option<Timestamp>, Error> {
    let at: Option<i64> = row.try_get(column)?;
    Ok(at.map(Timestamp))
}

fn name(row: &PgRow, column: usize) -> Result<TriggerName, Error> {
    row.try_get(column).map(TriggerName::stored)
}

/// Decodes the policy that starts at `first`; the default if the trigger was deleted.
fn policy(row: &PgRow, first: usize) -> Result<Policy, Error> {
    let attempts: Option<i64> = row.try_get(first)?;
    let age: Option<i64> = row.try_get(first + 1)?;
    Ok(match attempts.zip(age) {
        Some((attempts, age)) => Policy {
            attempts_max: narrow(attempts)?,
            age_max: Duration::from_millis(age.unsigned_abs()),
        },
        None => Policy::default(),
    })
}

/// Returns the stored word for an origin.
pub(super) const fn origin_word(origin: Origin) -> &'static str {
    match origin {
        Origin::Plugin => "plugin",
        Origin::Operator => "operator",
    }
}

/// Returns the stored word for a pause.
pub(super) const fn pause_word(pause: Pause) -> &'static str {
    match pause {
        Pause::Operator => "operator",
        Pause::Failures => "failures",
    }
}

/// Decodes the columns of `trigger_columns!`, starting at `first`.
pub(super) fn trigger(row: &PgRow, first: usize) -> Result<Trigger, Error> {
    let origin: &str = row.try_get(first + 1)?;
    let origins = [Origin::Plugin, Origin::Operator];
    Ok(Trigger {
        name: name(row, first)?,
        origin: origins
            .into_iter()
            .find(|o| origin_word(*o) == origin)
            .ok_or_else(|| damaged("unknown trigger origin"))?,
        target: target(row, first)?,
        watch: watch(row, first + 3)?,
        next_at: optional_time(row, first + 8)?,
        policy: policy(row, first + 9)?,
        created_at: time(row, first + 11)?,
        standing: standing(row, first + 12)?,
    })
}

/// Decodes where the events of a trigger go, from the columns of `trigger_columns!`, starting at
/// `first`.
fn target(row: &PgRow, first: usize) -> Result<Target, Error> {
    let url: Option<&str> = row.try_get(first + 18)?;
    let secret: Option<&str> = row.try_get(first + 19)?;
    let Some((url, secret)) = url.zip(secret) else {
        return Ok(Target::Function(row.try_get(first + 2)?));
    };
    Ok(Target::Webhook(Webhook {
        url: HttpUrl::parse(url).map_err(|e| damaged(Box::new(e)))?,
        secret: SettingName::parse(secret).map_err(|e| damaged(Box::new(e)))?,
    }))
}

/// Decodes the health of a trigger, starting at `first`.
pub(super) fn standing(row: &PgRow, first: usize) -> Result<TriggerHealth, Error> {
    let paused: Option<&str> = row.try_get(first)?;
    let pauses = [Pause::Operator, Pause::Failures];
    let pause = |word| pauses.into_iter().find(|pause| pause_word(*pause) == word);
    Ok(TriggerHealth {
        paused: paused.and_then(pause),
        failures: number(row, first + 1)?,
        series: row.try_get(first + 2)?,
        probe_at: optional_time(row, first + 3)?,
        probe: row.try_get(first + 4)?,
        probes_failed: number(row, first + 5)?,
    })
}

/// Decodes a row of `SCHEDULES`.
pub(super) fn schedule(row: &PgRow) -> Result<DueSchedule, Error> {
    let app: uuid::Uuid = row.try_get(0)?;
    Ok(DueSchedule {
        place: SchedulePosition {
            queue: Queue {
                app: AppId::from(app),
                trigger: name(row, 1)?,
            },
            next_at: optional_time(row, 9)?,
        },
        trigger: trigger(row, 1).map_err(|error| error.to_string()),
    })
}

fn watch(row: &PgRow, first: usize) -> Result<Watch, Error> {
    let collection: Option<String> = row.try_get(first)?;
    let schedule: Option<&str> = row.try_get(first + 4)?;
    match (collection, schedule) {
        (Some(collection), None) => Ok(Watch::Changes(Changes {
            collection: Collection::stored(collection),
            prefix: row.try_get(first + 1)?,
            set: row.try_get(first + 2)?,
            delete: row.try_get(first + 3)?,
        })),
        (None, Some(schedule)) => {
            let schedule = Schedule::parse(schedule).map_err(|e| damaged(Box::new(e)))?;
            Ok(Watch::Schedule(schedule))
        }
        (None, None) => Ok(Watch::Timers),
        (Some(_), Some(_)) => Err(damaged("a trigger with two watches")),
    }
}

/// Decodes the columns of `event_columns!`, starting at `first`.
fn event(row: &PgRow, first: usize) -> Result<Event, Error> {
    let kind: &str = row.try_get(first + 3)?;
    let entry = || -> Result<(Collection, Key), Error> {
        Ok((
            Collection::stored(row.try_get(first + 4)?),
            Key::stored(row.try_get(first + 5)?),
        ))
    };
    let what = match kind {
        "set" => {
            let (collection, key) = entry()?;
            let json: Option<String> = row.try_get(first + 7)?;
            EventKind::Set {
                collection,
                key,
                version: entries::version(row, first + 6)?,
                value: match json {
                    Some(json) => Value::Json(JsonText::stored(json)),
                    None => Value::Bytes(row.try_get(first + 8)?),
                },
            }
        }
        "delete" => {
            let (collection, key) = entry()?;
            let version = entries::version(row, first + 6)?;
            EventKind::Deleted {
                collection,
                key,
                version,
            }
        }
        "timer" => EventKind::Timer {
            name: TimerName::stored(row.try_get(first + 5)?),
            payload: Value::Bytes(row.try_get(first + 8)?),
        },
        _ => EventKind::Due,
    };
    let trace: Option<&[u8]> = row.try_get(first + 10)?;
    Ok(Event {
        id: row.try_get(first)?,
        depth: number(row, first + 1)?,
        at: time(row, first + 2)?,
        followers: number(row, first + 9)?,
        // A damaged one must not hold up the delivery.
        trace: trace.and_then(TraceContext::decode),
        kind: what,
    })
}

/// Decodes the columns of `delivery_columns!`, and the policy after them.
pub(super) fn delivery(row: &PgRow) -> Result<Delivery, Error> {
    Ok(Delivery {
        place: DeliveryKey {
            trigger: name(row, 0)?,
            ordering_key: row.try_get(1)?,
            seq: row.try_get(2)?,
        },
        due_at: optional_time(row, 3)?,
        leased: row.try_get(4)?,
        attempts: number(row, 5)?,
        replays: number(row, 6)?,
        queued_at: time(row, 7)?,
        target: DeliveryTarget::stored(row.try_get(8)?),
        error: row.try_get(9)?,
        event: event(row, 10)?,
        policy: policy(row, 21)?,
        is_probe: false,
    })
}

/// Decodes a row of `DEAD_LETTERS`.
pub(super) fn letter(row: &PgRow) -> Result<DeadLetter, Error> {
    let reason: &str = row.try_get(3)?;
    let digest: Option<[u8; 32]> = row.try_get(7)?;
    let plugin = optional_version(row, 6)?.zip(digest);
    Ok(DeadLetter {
        id: row.try_get(0)?,
        trigger: name(row, 1)?,
        target: DeliveryTarget::stored(row.try_get(2)?),
        reason: reason.parse().map_err(|()| damaged("unknown reason"))?,
        error: row.try_get(4)?,
        trace: row.try_get(5)?,
        plugin: plugin.map(|(version, digest)| (version, Digest(digest))),
        attempts: number(row, 8)?,
        replays: number(row, 9)?,
        dead_at: time(row, 10)?,
        event: event(row, 11)?,
    })
}
