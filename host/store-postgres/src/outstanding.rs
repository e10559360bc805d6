//! Discard of outstanding deliveries.

use super::lease::Lease;
use super::pool::Statement;
use super::sql::{LOCK_APP, outbox_sql as sql};
use super::transaction::Abort;
use super::usage::{SlotDelta, count_always};
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, DeliveryFilter, Timestamp, TriggerName};
use sqlx::{Error, Row};
use std::collections::BTreeSet;

/// Binds the app and a filter of deliveries as the first parameters of a statement.
pub(super) fn these(text: &'static str, app: AppId, which: &DeliveryFilter) -> Statement<'static> {
    let DeliveryFilter {
        events,
        trigger,
        from,
        until,
    } = which;
    let trigger = trigger.as_ref().map(TriggerName::as_str);
    sqlx::query(text)
        .bind(app.uuid())
        .bind(events.clone())
        .bind(trigger.map(str::to_owned))
        .bind(from.map(|at| at.0))
        .bind(until.map(|at| at.0))
}

pub(super) async fn discard(
    lease: &mut Lease,
    app: AppId,
    which: &DeliveryFilter,
    limit: u32,
    now: Timestamp,
) -> Result<u64, Abort> {
    let held = lease.run(sqlx::query(LOCK_APP).bind(app.uuid())).await?;
    if held.is_empty() {
        Err(StoreError::AppNotFound)?;
    }
    let statement = these(sql::DISCARD_DELIVERIES, app, which).bind(i64::from(limit));
    let gone = lease.run(statement).await?;
    let mut delta = SlotDelta::default();
    let mut chains = BTreeSet::new();
    for row in &gone {
        delta.remove_delivery(row.try_get(2)?);
        chains.insert((row.try_get::<String, _>(0)?, row.try_get::<i64, _>(1)?));
    }
    wake(lease, app, chains, now).await?;
    count_always(lease, app, delta).await?;
    Ok(gone.len() as u64)
}

async fn wake(
    lease: &mut Lease,
    app: AppId,
    chains: BTreeSet<(String, i64)>,
    now: Timestamp,
) -> Result<(), Error> {
    let (triggers, chains): (Vec<_>, Vec<_>) = chains.into_iter().unzip();
    let statement = sqlx::query(sql::WAKE_ALL).bind(app.uuid());
    let statement = statement.bind(triggers).bind(chains).bind(now.0);
    lease.run(statement).await.map(drop)
}
