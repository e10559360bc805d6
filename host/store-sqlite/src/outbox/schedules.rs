//! Schedules that are due, and their runs.

use super::super::error;
use super::super::writer::WriteTransaction;
use super::trigger_health::open_at;
use super::triggers::{TRIGGER, trigger};
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, DueSchedule, Queue, SchedulePosition, ScheduleTick, Timestamp, TriggerName,
    ordering_key_of,
};
use rusqlite::{Connection, params};
use uuid::Uuid;

pub(crate) fn schedules(
    connection: &Connection,
    after: Option<&SchedulePosition>,
    now: Timestamp,
    limit: u32,
) -> rusqlite::Result<Vec<DueSchedule>> {
    // Below every position: no trigger has an empty name.
    let (at, app, name) = after.map_or((0, Uuid::nil(), ""), |after| {
        let at = after.next_at.map_or(0, |at| at.0);
        (at, after.queue.app.uuid(), after.queue.trigger.as_str())
    });
    const OPEN: &str = open_at!("?1");
    // The index returns the rows in this order; those up to the position are skipped.
    connection
        .prepare_cached(&format!(
            "SELECT {TRIGGER}, app_id FROM triggers
             WHERE schedule IS NOT NULL AND {OPEN} AND (next_at IS NULL OR next_at <= ?1)
               AND (coalesce(next_at, 0), app_id, name) > (?3, ?4, ?5)
             ORDER BY next_at, app_id, name LIMIT ?2"
        ))?
        .query_map(params![now.0, limit, at, app.as_bytes(), name], |row| {
            let app: [u8; 16] = row.get("app_id")?;
            let next_at: Option<i64> = row.get("next_at")?;
            Ok(DueSchedule {
                place: SchedulePosition {
                    queue: Queue {
                        app: AppId::from(Uuid::from_bytes(app)),
                        trigger: TriggerName::stored(row.get("name")?),
                    },
                    next_at: next_at.map(Timestamp),
                },
                trigger: trigger(row).map_err(|error| error.to_string()),
            })
        })?
        .collect()
}

pub(crate) fn tick(
    transaction: &mut WriteTransaction<'_>,
    tick: &ScheduleTick,
) -> Result<bool, StoreError> {
    let seq = transaction.next_version();
    transaction.atomically(|t| run_tick(t.connection, tick, seq).map_err(error::store))
}

fn run_tick(connection: &Connection, tick: &ScheduleTick, seq: i64) -> rusqlite::Result<bool> {
    let (app_id, name) = (tick.queue.app.uuid(), tick.queue.trigger.as_str());
    let planned = connection
        .prepare_cached(concat!(
            "UPDATE triggers SET next_at = ?3
             WHERE app_id = ?1 AND name = ?2 AND next_at IS ?4 AND schedule IS NOT NULL AND ",
            open_at!("?5")
        ))?
        .execute(params![
            app_id.as_bytes(),
            name,
            tick.next.map(|at| at.0),
            tick.planned.map(|at| at.0),
            tick.now.0
        ])?;
    let (1.., Some(run)) = (planned, tick.run) else {
        return Ok(false);
    };
    let made = connection
        .prepare_cached(
            "INSERT INTO deliveries
               (app_id, trigger_name, chain, seq, due_at, queued_at, function, event_id, depth, at,
                kind, size)
             SELECT app_id, name, ?3, ?4, ?5, ?5, function, ?6, 1, ?7, 'schedule', 0
             FROM triggers WHERE app_id = ?1 AND name = ?2
               AND NOT EXISTS (SELECT 1 FROM deliveries
                               WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3)",
        )?
        .execute(params![
            app_id.as_bytes(),
            name,
            ordering_key_of(""),
            seq,
            tick.now.0,
            Uuid::now_v7().as_bytes(),
            run.0
        ])?;
    Ok(made > 0)
}
