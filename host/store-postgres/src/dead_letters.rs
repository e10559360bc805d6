//! Replay and discard of dead letters.

use super::lease::Lease;
use super::pool::Statement;
use super::sql::{LOCK_APP, dead_letters_sql as sql, registry_sql::LOCK_APP_ALONE};
use super::transaction::Abort;
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, DeadLetterFilter, Timestamp, TriggerName};
use sqlx::Row;

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
