//! Repair of deliveries that a wrong clock has postponed.

use super::super::error;
use super::super::writer::WriteTransaction;
use super::trigger_health;
use kvasm_core::store::StoreError;
use kvasm_core::{Pause, Queue, Timestamp, TriggerHealth};
use rusqlite::{Connection, params};

/// Returns whether [`rescue`] would change anything.
pub(crate) fn needs_rescue(
    connection: &Connection,
    queue: &Queue,
    beyond: Timestamp,
) -> rusqlite::Result<bool> {
    let Queue { app, trigger } = queue;
    let standing = trigger_health::read(connection, *app, trigger)?;
    let waits = |standing: &TriggerHealth| {
        standing.paused == Some(Pause::Failures) && standing.probe_at.is_some_and(|at| at > beyond)
    };
    if standing.as_ref().is_some_and(waits) {
        return Ok(true);
    }
    connection
        .prepare_cached(
            "SELECT 1 FROM deliveries WHERE app_id = ?1 AND trigger_name = ?2 AND due_at > ?3
               AND due_at - coalesce(wait_ms, 0) > ?3 LIMIT 1",
        )?
        .exists(params![app.uuid().as_bytes(), trigger.as_str(), beyond.0])
}

/// Makes deliveries, and the probe, that are due after `beyond` due now. A leased delivery is due
/// at the end of its lease.
pub(crate) fn rescue(
    transaction: &mut WriteTransaction<'_>,
    queue: &Queue,
    beyond: Timestamp,
    now: Timestamp,
    limit: u32,
) -> Result<u64, StoreError> {
    transaction.atomically(|transaction| {
        let connection = transaction.connection;
        rescue_queue(connection, queue, beyond, now, limit).map_err(error::store)
    })
}

fn rescue_queue(
    connection: &Connection,
    queue: &Queue,
    beyond: Timestamp,
    now: Timestamp,
    limit: u32,
) -> rusqlite::Result<u64> {
    let Queue { app, trigger } = queue;
    if let Some(mut standing) = trigger_health::read(connection, *app, trigger)?
        && standing.rescue(beyond, now)
    {
        trigger_health::write(connection, *app, trigger, &standing)?;
    }
    let rescued = connection
        .prepare_cached(
            "UPDATE deliveries SET due_at = ?4 + coalesce(wait_ms, 0)
             WHERE app_id = ?1 AND trigger_name = ?2 AND rowid IN
               (SELECT rowid FROM deliveries
                WHERE app_id = ?1 AND trigger_name = ?2 AND due_at > ?3
                  AND due_at - coalesce(wait_ms, 0) > ?3
                ORDER BY due_at, seq LIMIT ?5)",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            trigger.as_str(),
            beyond.0,
            now.0,
            limit
        ])?;
    Ok(rescued as u64)
}
