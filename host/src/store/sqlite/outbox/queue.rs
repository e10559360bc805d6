//! Deliveries on their way: claimed, renewed, given back, done.

use super::super::grave::is_buried;
use super::super::writer::Transaction;
use super::super::{error, tally::Delta};
use super::row::{DELIVERY, delivery};
use super::triggers::{TRIGGER, trigger};
use crate::model::{
    AppId, Claim, DELIVERY_BYTES, DeadReason, Delivery, DueSchedule, FAILURES_MAX, Failed, Place,
    Queue, Receipt, SchedulePlace, Tick, Timestamp, TriggerName, Verdict, chain_of,
};
use crate::store::StoreError;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

/// The queues after one that have something to claim. Steps through the index from
/// one queue to the next, whatever lies in them.
pub(in crate::store::sqlite) fn due(
    connection: &Connection,
    after: Option<&Queue>,
    now: Timestamp,
    limit: u32,
) -> rusqlite::Result<Vec<Queue>> {
    let mut at = after.map_or((Uuid::nil(), String::new()), |queue| {
        (queue.app.uuid(), queue.trigger.as_str().to_owned())
    });
    // Two statements, for SQLite begins a comparison of rows at the first equal one:
    // it would walk through all that lies in the queue before.
    let mut of_app = connection.prepare_cached(
        "SELECT app_id, trigger_name FROM deliveries
         WHERE due_at IS NOT NULL AND app_id = ?1 AND trigger_name > ?2
         ORDER BY trigger_name LIMIT 1",
    )?;
    let mut of_others = connection.prepare_cached(
        "SELECT app_id, trigger_name FROM deliveries
         WHERE due_at IS NOT NULL AND app_id > ?1
         ORDER BY app_id, trigger_name LIMIT 1",
    )?;
    let mut is_due = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM deliveries
                        WHERE app_id = ?1 AND trigger_name = ?2 AND due_at <= ?3)
            AND NOT EXISTS (SELECT 1 FROM triggers
                            WHERE app_id = ?1 AND name = ?2 AND paused IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM apps WHERE id = ?1 AND deleted_at IS NOT NULL)",
    )?;
    let mut queues = Vec::new();
    while queues.len() < limit as usize {
        let queue = |row: &Row<'_>| Ok((Uuid::from_bytes(row.get(0)?), row.get::<_, String>(1)?));
        let found = of_app.query_row(params![at.0.as_bytes(), at.1], queue);
        let found = match found.optional()? {
            None => of_others.query_row([at.0.as_bytes()], queue).optional()?,
            found => found,
        };
        let Some(found) = found else {
            break;
        };
        at = found;
        if is_due.query_row(params![at.0.as_bytes(), at.1, now.0], |row| row.get(0))? {
            queues.push(Queue {
                app: AppId::from(at.0),
                trigger: TriggerName::stored(at.1.clone()),
            });
        }
    }
    Ok(queues)
}

pub(in crate::store::sqlite) fn claim(
    transaction: &mut Transaction<'_>,
    claim: &Claim,
) -> Result<Vec<Delivery>, StoreError> {
    transaction.whole(|t| claim_all(t.connection, claim).map_err(error::store))
}

fn claim_all(connection: &Connection, claim: &Claim) -> rusqlite::Result<Vec<Delivery>> {
    if is_buried(connection, claim.queue.app)? {
        return Ok(Vec::new());
    }
    let (app_id, trigger) = (claim.queue.app.uuid(), claim.queue.trigger.as_str());
    let mut due = connection.prepare_cached(
        "SELECT chain, seq FROM deliveries
         WHERE app_id = ?1 AND trigger_name = ?2 AND due_at <= ?3
         ORDER BY due_at, seq LIMIT ?4",
    )?;
    let mut take = connection.prepare_cached(
        "UPDATE deliveries SET lease = ?5, due_at = ?6, attempts = attempts + 1
         WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4",
    )?;
    let mut read = connection.prepare_cached(&format!(
        "{DELIVERY} WHERE d.app_id = ?1 AND d.trigger_name = ?2 AND d.chain = ?3 AND d.seq = ?4"
    ))?;
    let places: Vec<(i64, i64)> = due
        .query_map(
            params![app_id.as_bytes(), trigger, claim.now.0, claim.limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?
        .collect::<Result<_, _>>()?;
    let mut claimed = Vec::with_capacity(places.len());
    for (chain, seq) in places {
        let lease = claim.lease.as_bytes();
        take.execute(params![
            app_id.as_bytes(),
            trigger,
            chain,
            seq,
            lease,
            claim.until.0
        ])?;
        claimed.push(read.query_row(params![app_id.as_bytes(), trigger, chain, seq], delivery)?);
    }
    Ok(claimed)
}

pub(in crate::store::sqlite) fn renew(
    connection: &Connection,
    receipt: &Receipt,
    until: Timestamp,
) -> Result<bool, StoreError> {
    let Receipt { app, place, lease } = receipt;
    let renewed = connection
        .prepare_cached(
            "UPDATE deliveries SET due_at = ?6
             WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4 AND lease = ?5",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                app.uuid().as_bytes(),
                place.trigger.as_str(),
                place.chain,
                place.seq,
                lease.as_bytes(),
                until.0
            ])
        })
        .map_err(error::store)?;
    Ok(renewed > 0)
}

/// Takes a delivery out after its handler has succeeded; the bytes that it took.
pub(in crate::store::sqlite) fn acknowledge(
    connection: &Connection,
    receipt: &Receipt,
    now: Timestamp,
) -> Result<i64, StoreError> {
    let size = take_out(connection, receipt).map_err(error::store)?;
    let size = size.ok_or(StoreError::LeaseLost)?;
    wake(connection, receipt.app, &receipt.place, now).map_err(error::store)?;
    connection
        .prepare_cached(
            "UPDATE triggers SET failures = 0 WHERE app_id = ?1 AND name = ?2 AND failures > 0",
        )
        .and_then(|mut statement| {
            let trigger = receipt.place.trigger.as_str();
            statement.execute(params![receipt.app.uuid().as_bytes(), trigger])
        })
        .map_err(error::store)?;
    Ok(size)
}

/// Removes a delivery whose lease holds; its size.
fn take_out(connection: &Connection, receipt: &Receipt) -> rusqlite::Result<Option<i64>> {
    let Receipt { app, place, lease } = receipt;
    let mut statement = connection.prepare_cached(
        "DELETE FROM deliveries
         WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4 AND lease = ?5
         RETURNING size",
    )?;
    let mut rows = statement.query(params![
        app.uuid().as_bytes(),
        place.trigger.as_str(),
        place.chain,
        place.seq,
        lease.as_bytes()
    ])?;
    let mut size = None;
    while let Some(row) = rows.next()? {
        size = Some(row.get(0)?);
    }
    Ok(size)
}

/// Lets the next delivery of a chain go on.
fn wake(connection: &Connection, app: AppId, done: &Place, now: Timestamp) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE deliveries SET due_at = ?4
             WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND due_at IS NULL
               AND seq = (SELECT min(seq) FROM deliveries
                          WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3)",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            done.trigger.as_str(),
            done.chain,
            now.0
        ])
        .map(drop)
}

pub(in crate::store::sqlite) fn fail(
    transaction: &mut Transaction<'_>,
    failed: &Failed,
) -> Result<bool, StoreError> {
    let app = failed.receipt.app;
    match transaction.tally.open(transaction.connection, app) {
        Err(StoreError::AppNotFound) => return Ok(false),
        opened => opened?,
    }
    let delta = transaction.whole(|transaction| {
        let connection = transaction.connection;
        let held = match failed.verdict {
            Verdict::RetryAt(at) => {
                give_back(connection, failed, at).map(|held| held.then(Delta::default))
            }
            Verdict::GiveUp(reason) => give_up(connection, failed, reason),
        };
        let delta = held.map_err(error::store)?;
        let held = delta.is_some();
        if held && failed.deterministic {
            count_failure(connection, &failed.receipt).map_err(error::store)?;
        }
        Ok(delta)
    })?;
    // Never refused: what has failed must go somewhere.
    transaction.tally.add(app, delta.unwrap_or_default());
    Ok(delta.is_some())
}

fn give_back(connection: &Connection, failed: &Failed, at: Timestamp) -> rusqlite::Result<bool> {
    let Receipt { app, place, lease } = &failed.receipt;
    let given_back = connection
        .prepare_cached(
            "UPDATE deliveries SET lease = NULL, due_at = ?6, error = ?7
             WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4 AND lease = ?5",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            place.trigger.as_str(),
            place.chain,
            place.seq,
            lease.as_bytes(),
            at.0,
            failed.note()
        ])?;
    Ok(given_back > 0)
}

/// What it changes of the app's usage, if the lease held.
fn give_up(
    connection: &Connection,
    failed: &Failed,
    reason: DeadReason,
) -> rusqlite::Result<Option<Delta>> {
    let Receipt { app, place, lease } = &failed.receipt;
    let (version, digest) = failed.plugin.unzip();
    let moved = connection
        .prepare_cached(
            "INSERT INTO dead_letters
               (app_id, id, trigger_name, function, reason, error, trace, plugin_version,
                plugin_digest, attempts, replays, dead_at, event_id, depth, at, kind, collection,
                key, version, size, value, followers)
             SELECT app_id, ?6, trigger_name, function, ?7, ?8, ?9, ?10, ?11, attempts, replays, ?12,
                event_id, depth, at, kind, collection, key, version, size, value, followers
             FROM deliveries
             WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4 AND lease = ?5",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            place.trigger.as_str(),
            place.chain,
            place.seq,
            lease.as_bytes(),
            Uuid::now_v7().as_bytes(),
            reason.as_str(),
            failed.error,
            failed.trace,
            version.map(|version| version.0),
            digest.map(|digest| digest.0),
            failed.now.0
        ])?;
    if moved == 0 {
        return Ok(None);
    }
    let size = take_out(connection, &failed.receipt)?.unwrap_or(0);
    wake(connection, *app, place, failed.now)?;
    let texts = failed.error.len() + failed.trace.as_ref().map_or(0, String::len);
    let mut delta = -Delta::queued(size);
    delta += Delta::letters(size.max(DELIVERY_BYTES as i64) + texts as i64);
    Ok(Some(delta))
}

/// Counts a deterministic failure against its trigger, and pauses it when there
/// were too many.
fn count_failure(connection: &Connection, receipt: &Receipt) -> rusqlite::Result<()> {
    let app_id = receipt.app.uuid();
    connection
        .prepare_cached(
            "UPDATE triggers SET failures = failures + 1,
               paused = CASE WHEN paused IS NULL AND failures + 1 >= ?3 THEN 'failures' ELSE paused END
             WHERE app_id = ?1 AND name = ?2",
        )?
        .execute(params![
            app_id.as_bytes(),
            receipt.place.trigger.as_str(),
            FAILURES_MAX
        ])
        .map(drop)
}

pub(in crate::store::sqlite) fn deliveries(
    connection: &Connection,
    app: AppId,
    of: Option<&TriggerName>,
    limit: u32,
) -> rusqlite::Result<Vec<Delivery>> {
    connection
        .prepare_cached(&format!(
            "{DELIVERY} WHERE d.app_id = ?1 AND (?2 IS NULL OR d.trigger_name = ?2)
             ORDER BY d.trigger_name, d.chain, d.seq LIMIT ?3"
        ))?
        .query_map(
            params![app.uuid().as_bytes(), of.map(TriggerName::as_str), limit],
            delivery,
        )?
        .collect()
}

pub(in crate::store::sqlite) fn schedules(
    connection: &Connection,
    after: Option<&SchedulePlace>,
    now: Timestamp,
    limit: u32,
) -> rusqlite::Result<Vec<DueSchedule>> {
    // Before every place: no trigger has the empty name.
    let (at, app, name) = after.map_or((0, Uuid::nil(), ""), |after| {
        let at = after.next_at.map_or(0, |at| at.0);
        (at, after.queue.app.uuid(), after.queue.trigger.as_str())
    });
    // The index gives the rows in this order; those before the place are skipped.
    connection
        .prepare_cached(&format!(
            "SELECT {TRIGGER}, app_id FROM triggers
             WHERE schedule IS NOT NULL AND paused IS NULL AND (next_at IS NULL OR next_at <= ?1)
               AND (coalesce(next_at, 0), app_id, name) > (?3, ?4, ?5)
             ORDER BY next_at, app_id, name LIMIT ?2"
        ))?
        .query_map(params![now.0, limit, at, app.as_bytes(), name], |row| {
            let app: [u8; 16] = row.get("app_id")?;
            let next_at: Option<i64> = row.get("next_at")?;
            Ok(DueSchedule {
                place: SchedulePlace {
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

pub(in crate::store::sqlite) fn tick(
    transaction: &mut Transaction<'_>,
    tick: &Tick,
) -> Result<bool, StoreError> {
    let seq = transaction.next_version();
    transaction.whole(|t| run_tick(t.connection, tick, seq).map_err(error::store))
}

fn run_tick(connection: &Connection, tick: &Tick, seq: i64) -> rusqlite::Result<bool> {
    let (app_id, name) = (tick.queue.app.uuid(), tick.queue.trigger.as_str());
    let planned = connection
        .prepare_cached(
            "UPDATE triggers SET next_at = ?3
             WHERE app_id = ?1 AND name = ?2 AND next_at IS ?4 AND paused IS NULL
               AND schedule IS NOT NULL",
        )?
        .execute(params![
            app_id.as_bytes(),
            name,
            tick.next.map(|at| at.0),
            tick.planned.map(|at| at.0)
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
            chain_of(""),
            seq,
            tick.now.0,
            Uuid::now_v7().as_bytes(),
            run.0
        ])?;
    Ok(made > 0)
}
