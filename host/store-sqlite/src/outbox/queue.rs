//! Processing of deliveries: claim, renew, release, acknowledge.

use super::super::tombstone::is_tombstone;
use super::super::writer::WriteTransaction;
use super::super::{error, usage::UsageDelta};
use super::row::{DELIVERY, delivery};
use super::trigger_health::{self, open_at};
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Claim, Claimable, DELIVERY_BYTES, DeadReason, Delivery, DeliveryKey, FailOutcome,
    FailedAttempt, LeaseToken, Queue, Timestamp, TriggerHealth, TriggerName, Verdict,
};
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

/// The maximum number of deliveries of a paused queue that are searched for a probe.
const PROBE_LOOK: u32 = 64;

/// Returns the queues after `after` with claimable deliveries. Steps through the index from one
/// queue to the next, regardless of their lengths.
pub(crate) fn due(
    connection: &Connection,
    after: Option<&Queue>,
    now: Timestamp,
    limit: u32,
) -> rusqlite::Result<Vec<Queue>> {
    let mut at = after.map_or((Uuid::nil(), String::new()), |queue| {
        (queue.app.uuid(), queue.trigger.as_str().to_owned())
    });
    // Two statements, because SQLite starts a comparison of rows at the first equal one: it would
    // scan the previous queue entirely.
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
    let mut is_due = connection.prepare_cached(concat!(
        "SELECT EXISTS (SELECT 1 FROM deliveries
                        WHERE app_id = ?1 AND trigger_name = ?2 AND due_at <= ?3)
            AND NOT EXISTS (SELECT 1 FROM triggers
                            WHERE app_id = ?1 AND name = ?2 AND NOT ",
        open_at!("?3"),
        ")
            AND NOT EXISTS (SELECT 1 FROM apps WHERE id = ?1 AND deleted_at IS NOT NULL)",
    ))?;
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

pub(crate) fn claim(
    transaction: &mut WriteTransaction<'_>,
    claim: &Claim,
) -> Result<Vec<Delivery>, StoreError> {
    transaction.atomically(|t| claim_all(t.connection, claim).map_err(error::store))
}

fn claim_all(connection: &Connection, claim: &Claim) -> rusqlite::Result<Vec<Delivery>> {
    if is_tombstone(connection, claim.queue.app)? {
        return Ok(Vec::new());
    }
    let Queue { app, trigger } = &claim.queue;
    match trigger_health::read(connection, *app, trigger)? {
        Some(standing) => match standing.open(claim.now) {
            Claimable::All => take_due(connection, claim, None),
            Claimable::Probe => take_probe(connection, claim, standing),
            Claimable::None => Ok(Vec::new()),
        },
        // The trigger was deleted; its deliveries remain.
        None => take_due(connection, claim, None),
    }
}

/// Claims one delivery of a queue that is paused by failures.
fn take_probe(
    connection: &Connection,
    claim: &Claim,
    mut standing: TriggerHealth,
) -> rusqlite::Result<Vec<Delivery>> {
    let Queue { app, trigger } = &claim.queue;
    let mut claimed = take_due(connection, claim, Some(standing.series))?;
    if !claimed.is_empty() {
        standing.probe(claim.lease, claim.until);
        trigger_health::write(connection, *app, trigger, &standing)?;
    }
    for delivery in &mut claimed {
        delivery.is_probe = true;
    }
    Ok(claimed)
}

/// Claims due deliveries. As the probe of a series of failures, claims one: of those that have been
/// due for longest, the first that does not count in that series.
fn take_due(
    connection: &Connection,
    claim: &Claim,
    probe_of: Option<i64>,
) -> rusqlite::Result<Vec<Delivery>> {
    let (app_id, trigger) = (claim.queue.app.uuid(), claim.queue.trigger.as_str());
    let mut due = connection.prepare_cached(
        "SELECT chain, seq, series FROM deliveries
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
    let limit = probe_of.map_or(claim.limit, |_| PROBE_LOOK);
    let mut places: Vec<(i64, i64, Option<i64>)> = due
        .query_map(
            params![app_id.as_bytes(), trigger, claim.now.0, limit],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?
        .collect::<Result<_, _>>()?;
    if probe_of.is_some() {
        places.sort_by_key(|(.., series)| *series == probe_of);
        places.truncate(1);
    }
    let mut claimed = Vec::with_capacity(places.len());
    for (chain, seq, _) in places {
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

pub(crate) fn renew(
    connection: &Connection,
    receipt: &LeaseToken,
    until: Timestamp,
) -> Result<bool, StoreError> {
    let LeaseToken { app, place, lease } = receipt;
    let renewed = connection
        .prepare_cached(
            "UPDATE deliveries SET due_at = ?6
             WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4 AND lease = ?5",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                app.uuid().as_bytes(),
                place.trigger.as_str(),
                place.ordering_key,
                place.seq,
                lease.as_bytes(),
                until.0
            ])
        })
        .map_err(error::store)?;
    if renewed == 0 {
        return Ok(false);
    }
    trigger_health::renew(connection, receipt, until).map_err(error::store)?;
    Ok(true)
}

/// Deletes a delivery after its handler has succeeded. Returns the bytes that it used.
pub(crate) fn acknowledge(
    connection: &Connection,
    receipt: &LeaseToken,
    now: Timestamp,
) -> Result<i64, StoreError> {
    let size = remove_leased(connection, receipt).map_err(error::store)?;
    let size = size.ok_or(StoreError::LeaseLost)?;
    unblock_next(connection, receipt.app, &receipt.place, now).map_err(error::store)?;
    trigger_health::succeed(connection, receipt.app, &receipt.place.trigger)
        .map_err(error::store)?;
    Ok(size)
}

/// Deletes a delivery whose lease holds. Returns its size.
fn remove_leased(connection: &Connection, receipt: &LeaseToken) -> rusqlite::Result<Option<i64>> {
    let LeaseToken { app, place, lease } = receipt;
    let mut statement = connection.prepare_cached(
        "DELETE FROM deliveries
         WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4 AND lease = ?5
         RETURNING size",
    )?;
    let mut rows = statement.query(params![
        app.uuid().as_bytes(),
        place.trigger.as_str(),
        place.ordering_key,
        place.seq,
        lease.as_bytes()
    ])?;
    let mut size = None;
    while let Some(row) = rows.next()? {
        size = Some(row.get(0)?);
    }
    Ok(size)
}

/// Makes the next delivery of an ordering key due.
pub(super) fn unblock_next(
    connection: &Connection,
    app: AppId,
    done: &DeliveryKey,
    now: Timestamp,
) -> rusqlite::Result<()> {
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
            done.ordering_key,
            now.0
        ])
        .map(drop)
}

pub(crate) fn fail(
    transaction: &mut WriteTransaction<'_>,
    failed: &FailedAttempt,
) -> Result<FailOutcome, StoreError> {
    let app = failed.receipt.app;
    match transaction.tally.open(transaction.connection, app) {
        Err(StoreError::AppNotFound) => return Ok(FailOutcome::LeaseLost),
        opened => opened?,
    }
    let (delta, returned) = transaction.atomically(|transaction| {
        let connection = transaction.connection;
        // First, because it reads the delivery.
        let returned = note_failure(connection, failed).map_err(error::store)?;
        let held = match failed.verdict {
            Verdict::RetryAt(at) => {
                retry_later(connection, failed, at).map(|held| held.then(UsageDelta::default))
            }
            Verdict::DeadLetter(reason) => give_up(connection, failed, reason),
        };
        Ok((held.map_err(error::store)?, returned))
    })?;
    // Never refused: a failed delivery must be stored somewhere.
    transaction.tally.add(app, delta.unwrap_or_default());
    Ok(match delta {
        Some(_) => returned,
        None => FailOutcome::LeaseLost,
    })
}

/// Nacks a delivery whose attempt does not count.
pub(crate) fn release(
    transaction: &mut WriteTransaction<'_>,
    receipt: &LeaseToken,
    now: Timestamp,
) -> Result<bool, StoreError> {
    transaction.atomically(|t| release_one(t.connection, receipt, now, None).map_err(error::store))
}

/// Nacks a delivery that is to be run again after a wait.
pub(crate) fn defer(
    transaction: &mut WriteTransaction<'_>,
    receipt: &LeaseToken,
    wait_ms: u64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    transaction.atomically(|t| {
        release_one(t.connection, receipt, now, Some(wait_ms)).map_err(error::store)
    })
}

fn release_one(
    connection: &Connection,
    receipt: &LeaseToken,
    now: Timestamp,
    wait_ms: Option<u64>,
) -> rusqlite::Result<bool> {
    let LeaseToken { app, place, lease } = receipt;
    let due_at = now.plus_ms(wait_ms.unwrap_or(0));
    let released = connection
        .prepare_cached(
            "UPDATE deliveries SET lease = NULL, due_at = ?6, attempts = max(attempts - 1, 0),
                wait_ms = coalesce(?7, wait_ms),
                queued_at = CASE WHEN ?7 IS NULL THEN queued_at ELSE ?6 END
             WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4 AND lease = ?5",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            place.trigger.as_str(),
            place.ordering_key,
            place.seq,
            lease.as_bytes(),
            due_at.0,
            wait_ms.map(u64::cast_signed)
        ])?;
    if released == 0 {
        return Ok(false);
    }
    if let Some(mut standing) = trigger_health::read(connection, *app, &place.trigger)?
        && standing.probe == Some(*lease)
    {
        standing.release(*lease, now);
        trigger_health::write(connection, *app, &place.trigger, &standing)?;
    }
    Ok(true)
}

fn retry_later(
    connection: &Connection,
    failed: &FailedAttempt,
    at: Timestamp,
) -> rusqlite::Result<bool> {
    let LeaseToken { app, place, lease } = &failed.receipt;
    let given_back = connection
        .prepare_cached(
            "UPDATE deliveries SET lease = NULL, due_at = ?6, error = ?7, wait_ms = NULL
             WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4 AND lease = ?5",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            place.trigger.as_str(),
            place.ordering_key,
            place.seq,
            lease.as_bytes(),
            at.0,
            failed.truncated_error()
        ])?;
    Ok(given_back > 0)
}

/// Moves a delivery to the dead letters. Returns the change of the app's usage, if the lease held.
fn give_up(
    connection: &Connection,
    failed: &FailedAttempt,
    reason: DeadReason,
) -> rusqlite::Result<Option<UsageDelta>> {
    let LeaseToken { app, place, lease } = &failed.receipt;
    let (version, digest) = failed.plugin.unzip();
    let moved = connection
        .prepare_cached(
            "INSERT INTO dead_letters
               (app_id, id, trigger_name, function, reason, error, trace, plugin_version,
                plugin_digest, attempts, replays, dead_at, event_id, depth, at, kind, collection,
                key, version, size, value, followers, trace_context)
             SELECT app_id, ?6, trigger_name, function, ?7, ?8, ?9, ?10, ?11, attempts, replays, ?12,
                event_id, depth, at, kind, collection, key, version, size, value, followers,
                trace_context
             FROM deliveries
             WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4 AND lease = ?5",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            place.trigger.as_str(),
            place.ordering_key,
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
    let size = remove_leased(connection, &failed.receipt)?.unwrap_or(0);
    unblock_next(connection, *app, place, failed.now)?;
    let texts = failed.error.len() + failed.trace.as_ref().map_or(0, String::len);
    let mut delta = -UsageDelta::queued(size);
    delta += UsageDelta::of_bytes(size.max(DELIVERY_BYTES as i64) + texts as i64);
    Ok(Some(delta))
}

/// Records the failure of a delivery whose lease holds, with its trigger and with itself.
fn note_failure(connection: &Connection, failed: &FailedAttempt) -> rusqlite::Result<FailOutcome> {
    let LeaseToken { app, place, lease } = &failed.receipt;
    let counted: Option<Option<i64>> = connection
        .prepare_cached(
            "SELECT series FROM deliveries
             WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4 AND lease = ?5",
        )?
        .query_row(
            params![
                app.uuid().as_bytes(),
                place.trigger.as_str(),
                place.ordering_key,
                place.seq,
                lease.as_bytes()
            ],
            |row| row.get(0),
        )
        .optional()?;
    let standing = trigger_health::read(connection, *app, &place.trigger)?;
    let (Some(counted), Some(before)) = (counted, standing) else {
        return Ok(FailOutcome::Recorded);
    };
    let mut standing = before;
    let returned = standing.fail(counted, failed);
    if standing != before {
        trigger_health::write(connection, *app, &place.trigger, &standing)?;
    }
    if failed.deterministic && counted != Some(standing.series) {
        connection
            .prepare_cached(
                "UPDATE deliveries SET series = ?5
                 WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4",
            )?
            .execute(params![
                app.uuid().as_bytes(),
                place.trigger.as_str(),
                place.ordering_key,
                place.seq,
                standing.series
            ])?;
    }
    Ok(returned)
}
