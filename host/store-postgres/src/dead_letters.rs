//! Replay and discard of dead letters.

use super::lease::Lease;
use super::pool::Statement;
use super::sql::{LOCK_APP, dead_letters_sql as sql, registry_sql::LOCK_APP_ALONE};
use super::transaction::Abort;
use super::usage::SlotDelta;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Applied, Commit, DeadLetterFilter, Timestamp, TriggerName};
use sqlx::Row;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Binds the app and a filter of dead letters as the first parameters of a statement.
pub(super) fn these(
    text: &'static str,
    app: AppId,
    letters: &DeadLetterFilter,
) -> Statement<'static> {
    let DeadLetterFilter {
        ids,
        trigger,
        reason,
        from,
        until,
    } = letters;
    let trigger = trigger.as_ref().map(TriggerName::as_str);
    sqlx::query(text)
        .bind(app.uuid())
        .bind(ids.clone())
        .bind(trigger.map(str::to_owned))
        .bind(reason.map(|reason| reason.as_str()))
        .bind(from.map(|at| at.0))
        .bind(until.map(|at| at.0))
}

async fn lock_app(lease: &mut Lease, text: &'static str, app: AppId) -> Result<(), Abort> {
    let rows = lease.run(sqlx::query(text).bind(app.uuid())).await?;
    match rows.is_empty() {
        true => Err(StoreError::AppNotFound)?,
        false => Ok(()),
    }
}

pub(super) async fn replay(
    lease: &mut Lease,
    app: AppId,
    letters: &DeadLetterFilter,
    limit: u32,
    at: Timestamp,
) -> Result<u64, Abort> {
    lock_app(lease, LOCK_APP_ALONE, app).await?;
    let statement = these(sql::REPLAY, app, letters).bind(i64::from(limit));
    let slot = lease.slot();
    let rows = lease.run(statement.bind(at.0).bind(slot)).await?;
    Ok(rows.len() as u64)
}

/// Locks the app for a batch that replays dead letters. The first statement of its transaction.
pub(super) async fn hold_app_alone(lease: &mut Lease, app: AppId) -> Result<(), Abort> {
    lock_app(lease, LOCK_APP_ALONE, app).await
}

/// Replays the dead letters of a batch, oldest first, and counts them. Returns the results. After
/// [`hold_app_alone`].
pub(super) async fn replay_in(
    lease: &mut Lease,
    write: &Commit,
    delta: &mut SlotDelta,
) -> Result<Vec<Applied>, Abort> {
    let replays = &write.batch.replays;
    if replays.is_empty() {
        return Ok(Vec::new());
    }
    let letters: Vec<_> = replays.iter().map(|replay| replay.letter).collect();
    let statement = sqlx::query(sql::REPLAY_UNCOUNTED).bind(write.app_id.uuid());
    let rows = lease.run(statement.bind(letters).bind(write.now.0)).await?;
    let mut found: BTreeSet<Uuid> = BTreeSet::new();
    for row in &rows {
        found.insert(row.try_get(0)?);
        let (size, bytes): (i32, i64) = (row.try_get(1)?, row.try_get(2)?);
        delta.replay(size, bytes);
    }
    let mut applied = Vec::with_capacity(replays.len());
    for replay in replays {
        let existed = found.remove(&replay.letter);
        if replay.is_required && !existed {
            let failed = vec![write.batch.checks.len()];
            Err(StoreError::Conflict { failed })?;
        }
        applied.push(Applied::Replayed { existed });
    }
    Ok(applied)
}

pub(super) async fn discard(
    lease: &mut Lease,
    app: AppId,
    letters: &DeadLetterFilter,
    limit: u32,
) -> Result<u64, Abort> {
    lock_app(lease, LOCK_APP, app).await?;
    let statement = these(sql::DISCARD, app, letters).bind(i64::from(limit));
    let slot = lease.slot();
    let rows = lease.run(statement.bind(slot)).await?;
    let count: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(count.unwrap_or(0).unsigned_abs())
}
