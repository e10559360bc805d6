//! Timers.

use super::super::commit::column;
use super::super::error;
use super::super::usage::UsageDelta;
use super::super::writer::WriteTransaction;
use super::row::{DELIVERY, delivery};
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Applied, Commit, DELIVERY_BYTES, Delivery, NewTimer, TIMER_TRIGGER,
    TRIGGERED_DELIVERIES_MAX, TimerName, TimerOp, Timestamp, TraceContext, is_unexpected,
    timer_ordering_key,
};
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

/// The condition of the index of timers by name.
macro_rules! is_set {
    () => {
        "kind = 'timer' AND replays = 0"
    };
}

/// Sets or cancels a timer. Returns the result, and the change of the app's usage.
pub(crate) fn change(
    transaction: &mut WriteTransaction<'_>,
    commit: &Commit,
    op: &TimerOp,
) -> Result<(Applied, UsageDelta), StoreError> {
    let gone = remove(transaction.connection, commit.app_id, op.name()).map_err(error::store)?;
    let mut delta = gone.map_or_else(UsageDelta::default, |size| -UsageDelta::queued(size));
    let existed = gone.is_some();
    match op {
        TimerOp::Cancel { expect, .. } if is_unexpected(*expect, existed) => {
            let failed = vec![commit.batch.checks.len()];
            Err(StoreError::Conflict { failed })
        }
        TimerOp::Cancel { .. } => Ok((Applied::TimerCancelled { existed }, delta)),
        TimerOp::Set(timer) => {
            let seq = transaction.next_version();
            let size = insert(transaction.connection, commit, timer, seq).map_err(error::store)?;
            delta += UsageDelta::queued(size);
            Ok((Applied::TimerSet, delta))
        }
    }
}

/// Removes a timer, leased or not. Returns its size.
fn remove(connection: &Connection, app: AppId, name: &TimerName) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached(concat!(
        "DELETE FROM deliveries WHERE app_id = ?1 AND key = ?2 AND ",
        is_set!(),
        " RETURNING size"
    ))?;
    let mut rows = statement.query(params![app.uuid().as_bytes(), name.as_str()])?;
    let mut size = None;
    while let Some(row) = rows.next()? {
        size = Some(row.get(0)?);
    }
    Ok(size)
}

fn insert(
    connection: &Connection,
    commit: &Commit,
    timer: &NewTimer,
    seq: i64,
) -> rusqlite::Result<i64> {
    let trace = commit.trace.as_ref().map(TraceContext::encode);
    let bytes = timer.name.as_str().len() + timer.payload.as_bytes().len();
    let size = (bytes + trace.as_ref().map_or(0, Vec::len)) as i64 + DELIVERY_BYTES as i64;
    let (at, id) = (timer.time.at(commit.now), Uuid::now_v7());
    connection
        .prepare_cached(
            "INSERT INTO deliveries
               (app_id, trigger_name, chain, seq, due_at, queued_at, function, event_id, depth, at,
                kind, key, size, value, followers, trace_context, wait_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?2, ?6, 1, ?7, 'timer', ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            commit.app_id.uuid().as_bytes(),
            TIMER_TRIGGER,
            timer_ordering_key(id),
            seq,
            at.max(commit.now).0,
            id.as_bytes(),
            at.0,
            timer.name.as_str(),
            size,
            ToSqlOutput::Borrowed(column(&timer.payload)),
            TRIGGERED_DELIVERIES_MAX,
            trace,
            timer.time.wait_ms()
        ])?;
    Ok(size)
}

/// Makes a timer due, unless it is leased. Returns whether there was such a timer.
pub(crate) fn run(
    transaction: &mut WriteTransaction<'_>,
    app: AppId,
    name: &TimerName,
    now: Timestamp,
) -> Result<bool, StoreError> {
    transaction.tally.open(transaction.connection, app)?;
    let changed = transaction
        .connection
        .prepare_cached(concat!(
            "UPDATE deliveries SET due_at = ?3, queued_at = ?3, wait_ms = NULL
             WHERE app_id = ?1 AND key = ?2 AND lease IS NULL AND ",
            is_set!()
        ))
        .and_then(|mut statement| {
            statement.execute(params![app.uuid().as_bytes(), name.as_str(), now.0])
        });
    Ok(changed.map_err(error::store)? > 0)
}

pub(crate) fn timer(
    connection: &Connection,
    app: AppId,
    name: &TimerName,
) -> rusqlite::Result<Option<Delivery>> {
    connection
        .prepare_cached(&format!(
            "{DELIVERY} WHERE d.app_id = ?1 AND d.key = ?2 AND d.kind = 'timer' AND d.replays = 0"
        ))?
        .query_row(params![app.uuid().as_bytes(), name.as_str()], delivery)
        .optional()
}

pub(crate) fn timers(
    connection: &Connection,
    app: AppId,
    after: Option<&TimerName>,
    limit: u32,
) -> rusqlite::Result<Vec<Delivery>> {
    // Below every name: none is empty.
    let after = after.map_or("", TimerName::as_str);
    connection
        .prepare_cached(&format!(
            "{DELIVERY} WHERE d.app_id = ?1 AND d.key > ?2 AND d.kind = 'timer' AND d.replays = 0
             ORDER BY d.key LIMIT ?3"
        ))?
        .query_map(params![app.uuid().as_bytes(), after, limit], delivery)?
        .collect()
}

/// Returns when the next timer of any app is due.
pub(crate) fn next_timer(
    connection: &Connection,
    now: Timestamp,
) -> rusqlite::Result<Option<Timestamp>> {
    let at: Option<i64> = connection
        .prepare_cached(NEXT)?
        .query_row([now.0], |row| row.get(0))?;
    Ok(at.map(Timestamp))
}

const NEXT: &str = "SELECT min(due_at) FROM deliveries WHERE kind = 'timer' AND due_at > ?1";
