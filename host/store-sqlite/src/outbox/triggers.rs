//! Triggers.

use super::super::entries::damaged;
use super::super::error;
use super::trigger_health::{self, pause_word, standing};
use kvasm_core::store::StoreError;
use kvasm_core::store::backend::check_triggers;
use kvasm_core::{
    AppId, Changes, Collection, Exports, HttpUrl, NewTrigger, Origin, Policy, Schedule,
    SettingName, Target, Timestamp, Trigger, TriggerDeletion, TriggerName, Watch, Webhook,
};
use rusqlite::{Connection, Row, params};
use std::time::Duration;
use uuid::Uuid;

/// The columns that `trigger` reads.
pub(super) const TRIGGER: &str = "name, origin, function, collection, prefix, on_set, on_delete,
   schedule, next_at, attempts_max, age_max_ms, created_at,
   paused, failures, series, probe_at, probe, probes_failed, url, secret";

pub(super) fn trigger(row: &Row<'_>) -> rusqlite::Result<Trigger> {
    let origin: String = row.get(1)?;
    let next_at: Option<i64> = row.get(8)?;
    let age_max: i64 = row.get(10)?;
    Ok(Trigger {
        name: TriggerName::stored(row.get(0)?),
        origin: match origin.as_str() {
            "plugin" => Origin::Plugin,
            _ => Origin::Operator,
        },
        watch: watch(row)?,
        target: target(row)?,
        policy: Policy {
            attempts_max: row.get(9)?,
            age_max: Duration::from_millis(age_max.unsigned_abs()),
        },
        standing: standing(row, 12)?,
        next_at: next_at.map(Timestamp),
        created_at: Timestamp(row.get(11)?),
    })
}

fn target(row: &Row<'_>) -> rusqlite::Result<Target> {
    let url: Option<String> = row.get(18)?;
    let secret: Option<String> = row.get(19)?;
    let Some((url, secret)) = url.zip(secret) else {
        return Ok(Target::Function(row.get(2)?));
    };
    Ok(Target::Webhook(Webhook {
        url: HttpUrl::parse(&url).map_err(|e| damaged(18, e.to_string()))?,
        secret: SettingName::parse(&secret).map_err(|e| damaged(19, e.to_string()))?,
    }))
}

fn watch(row: &Row<'_>) -> rusqlite::Result<Watch> {
    let collection: Option<String> = row.get(3)?;
    let schedule: Option<String> = row.get(7)?;
    match (collection, schedule) {
        (Some(collection), _) => Ok(Watch::Changes(Changes {
            collection: Collection::stored(collection),
            prefix: row.get(4)?,
            set: row.get(5)?,
            delete: row.get(6)?,
        })),
        (None, Some(schedule)) => {
            let schedule = Schedule::parse(&schedule).map_err(|e| damaged(7, e.to_string()))?;
            Ok(Watch::Schedule(schedule))
        }
        (None, None) => Ok(Watch::Timers),
    }
}

/// Returns all triggers of an app, by name.
pub(crate) fn triggers(connection: &Connection, app: AppId) -> rusqlite::Result<Vec<Trigger>> {
    connection
        .prepare_cached(&format!(
            "SELECT {TRIGGER} FROM triggers WHERE app_id = ?1 ORDER BY name"
        ))?
        .query_map([app.uuid().as_bytes()], trigger)?
        .collect()
}

/// Advances the generation of the app's triggers, by which writers of all processes notice the
/// change. Returns whether the app exists.
fn bump_trigger_generation(connection: &Connection, app: AppId) -> Result<(), StoreError> {
    let told = connection
        .prepare_cached(
            "UPDATE apps SET triggers = triggers + 1 WHERE id = ?1 AND deleted_at IS NULL",
        )
        .and_then(|mut statement| statement.execute([app.uuid().as_bytes()]))
        .map_err(error::store)?;
    match told {
        0 => Err(StoreError::AppNotFound),
        _ => Ok(()),
    }
}

/// Creates an operator's trigger, or replaces the trigger of the same name.
pub(crate) fn set(
    connection: &Connection,
    app: AppId,
    trigger: NewTrigger,
    at: Timestamp,
) -> Result<Trigger, StoreError> {
    bump_trigger_generation(connection, app)?;
    let all = triggers(connection, app).map_err(error::store)?;
    let before = all.iter().find(|before| before.name == trigger.name);
    check_triggers(all.len(), all.len() + usize::from(before.is_none()))?;
    let trigger = trigger.replacing(before, at);
    write(connection, app, &trigger).map_err(error::store)?;
    Ok(trigger)
}

fn write(connection: &Connection, app: AppId, trigger: &Trigger) -> rusqlite::Result<()> {
    let (changes, schedule) = match &trigger.watch {
        Watch::Changes(changes) => (Some(changes), None),
        Watch::Schedule(schedule) => (None, Some(schedule.as_str())),
        Watch::Timers => (None, None),
    };
    let webhook = trigger.target.webhook();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO triggers
               (app_id, name, origin, function, collection, prefix, on_set, on_delete, schedule,
                next_at, attempts_max, age_max_ms, created_at, paused, failures, series,
                probe_at, probe, probes_failed, url, secret)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                ?18, ?19, ?20, ?21)",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            trigger.name.as_str(),
            match trigger.origin {
                Origin::Plugin => "plugin",
                Origin::Operator => "operator",
            },
            trigger.target.of_delivery().column(),
            changes.map(|changes| changes.collection.as_str()),
            changes.map_or("", |changes| &changes.prefix),
            changes.is_some_and(|changes| changes.set),
            changes.is_some_and(|changes| changes.delete),
            schedule,
            trigger.next_at.map(|at| at.0),
            trigger.policy.attempts_max,
            i64::try_from(trigger.policy.age_max.as_millis()).unwrap_or(i64::MAX),
            trigger.created_at.0,
            trigger.standing.paused.map(pause_word),
            trigger.standing.failures,
            trigger.standing.series,
            trigger.standing.probe_at.map(|at| at.0),
            trigger.standing.probe.map(Uuid::into_bytes),
            trigger.standing.probes_failed,
            webhook.map(|webhook| webhook.url.to_string()),
            webhook.map(|webhook| webhook.secret.as_str())
        ])
        .map(drop)
}

pub(crate) fn delete(
    connection: &Connection,
    app: AppId,
    name: &TriggerName,
    must_be_idle: bool,
) -> Result<TriggerDeletion, StoreError> {
    if must_be_idle && has_deliveries(connection, app, name).map_err(error::store)? {
        return Ok(TriggerDeletion::Outstanding);
    }
    bump_trigger_generation(connection, app)?;
    let deleted = remove(connection, app, name).map_err(error::store)?;
    Ok(match deleted {
        0 => TriggerDeletion::Absent,
        _ => TriggerDeletion::Deleted,
    })
}

/// Returns whether a trigger exists and has outstanding deliveries.
fn has_deliveries(
    connection: &Connection,
    app: AppId,
    name: &TriggerName,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM triggers WHERE app_id = ?1 AND name = ?2)
                AND EXISTS (SELECT 1 FROM deliveries WHERE app_id = ?1 AND trigger_name = ?2)",
        )?
        .query_row(params![app.uuid().as_bytes(), name.as_str()], |row| {
            row.get(0)
        })
}

fn remove(connection: &Connection, app: AppId, name: &TriggerName) -> rusqlite::Result<usize> {
    connection
        .prepare_cached("DELETE FROM triggers WHERE app_id = ?1 AND name = ?2")?
        .execute(params![app.uuid().as_bytes(), name.as_str()])
}

pub(crate) fn pause(
    connection: &Connection,
    app: AppId,
    name: &TriggerName,
    paused: bool,
) -> Result<bool, StoreError> {
    bump_trigger_generation(connection, app)?;
    let Some(mut standing) = trigger_health::read(connection, app, name).map_err(error::store)?
    else {
        return Ok(false);
    };
    standing.set_paused(paused);
    trigger_health::write(connection, app, name, &standing).map_err(error::store)
}

/// Replaces the triggers of the previous version with those of the active one. An app that has none
/// and gets none is not touched.
pub(crate) fn declare(
    connection: &Connection,
    app: AppId,
    exports: &Exports,
    at: Timestamp,
) -> Result<(), StoreError> {
    let before = triggers(connection, app).map_err(error::store)?;
    if before.is_empty() && exports.triggers.is_empty() {
        return Ok(());
    }
    bump_trigger_generation(connection, app)?;
    let count = before.len();
    sync(connection, app, exports, before, at).map_err(error::store)?;
    let after = triggers(connection, app).map_err(error::store)?;
    check_triggers(count, after.len())
}

fn sync(
    connection: &Connection,
    app: AppId,
    exports: &Exports,
    before: Vec<Trigger>,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let declared = |name: &TriggerName| exports.triggers.iter().find(|d| d.name == *name);
    for mut trigger in before.iter().cloned() {
        if trigger.origin == Origin::Plugin {
            let Some(declaration) = declared(&trigger.name) else {
                remove(connection, app, &trigger.name)?;
                continue;
            };
            if trigger.watch != declaration.watch {
                trigger.watch = declaration.watch.clone();
                trigger.next_at = None;
            }
            trigger.policy = declaration.policy();
        }
        trigger.standing.reset();
        write(connection, app, &trigger)?;
    }
    for declaration in &exports.triggers {
        if !before
            .iter()
            .any(|trigger| trigger.name == declaration.name)
        {
            write(connection, app, &Trigger::declared(declaration, at))?;
        }
    }
    Ok(())
}
