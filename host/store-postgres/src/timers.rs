//! Timers. A transaction that changes some first locks those that exist, in the order of their
//! names.

use super::classify::store_error;
use super::lease::Lease;
use super::pool::{Pool, Statement};
use super::rows;
use super::sql::{LOCK_APP, outbox_sql, timers_sql as sql};
use super::transaction::Abort;
use super::usage::SlotDelta;
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Applied, Commit, DELIVERY_BYTES, Delivery, LeaseToken, NewTimer, TIMER_TRIGGER,
    TimerName, TimerOp, Timestamp, TraceContext, is_unexpected, timer_ordering_key,
};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Applies the batch's changes of timers. Returns their results.
pub(super) async fn change(
    lease: &mut Lease,
    write: &Commit,
    delta: &mut SlotDelta,
) -> Result<Vec<Applied>, Abort> {
    let ops = &write.batch.timers;
    if ops.is_empty() {
        return Ok(Vec::new());
    }
    let names: BTreeSet<_> = ops.iter().map(|op| op.name().as_str()).collect();
    let held = hold(lease, write.app_id, &names).await?;
    let mut applied = Vec::with_capacity(ops.len());
    // What is left of each timer: the last setting, or nothing.
    let mut last: BTreeMap<&str, Option<&NewTimer>> = BTreeMap::new();
    for op in ops {
        let name = op.name().as_str();
        let existed = match last.get(name) {
            Some(timer) => timer.is_some(),
            None => held.contains_key(name),
        };
        applied.push(match op {
            TimerOp::Cancel { expect, .. } if is_unexpected(*expect, existed) => {
                let failed = vec![write.batch.checks.len()];
                Err(StoreError::Conflict { failed })?
            }
            TimerOp::Cancel { .. } => Applied::TimerCancelled { existed },
            TimerOp::Set(_) => Applied::TimerSet,
        });
        last.insert(
            name,
            match op {
                TimerOp::Set(timer) => Some(timer),
                TimerOp::Cancel { .. } => None,
            },
        );
    }
    for size in held.values() {
        delta.remove_delivery(*size);
    }
    let gone = held
        .keys()
        .filter(|name| !matches!(last.get(name.as_str()), Some(Some(_))));
    let gone: Vec<_> = gone.cloned().collect();
    if !gone.is_empty() {
        let statement = sqlx::query(sql::REMOVE_TIMERS).bind(write.app_id.uuid());
        lease.run(statement.bind(gone)).await?;
    }
    let timers: Vec<_> = last.into_values().flatten().collect();
    if !timers.is_empty() {
        set(lease, write, &timers, &held, delta).await?;
    }
    Ok(applied)
}

/// Locks the timers that exist, and returns their sizes.
async fn hold(
    lease: &mut Lease,
    app: AppId,
    names: &BTreeSet<&str>,
) -> Result<BTreeMap<String, i32>, Error> {
    let names: Vec<_> = names.iter().copied().collect();
    let statement = sqlx::query(sql::HOLD_TIMERS).bind(app.uuid()).bind(names);
    let rows = lease.run(statement).await?;
    let held = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    held.collect()
}

/// Sets timers, by name.
async fn set(
    lease: &mut Lease,
    write: &Commit,
    timers: &[&NewTimer],
    held: &BTreeMap<String, i32>,
    delta: &mut SlotDelta,
) -> Result<(), Abort> {
    let trace = write.trace.as_ref().map(TraceContext::encode);
    let traced = trace.as_ref().map_or(0, Vec::len);
    let size = |timer: &&NewTimer| {
        let bytes = timer.name.as_str().len() + timer.payload.as_bytes().len() + traced;
        i32::try_from(bytes as u64 + DELIVERY_BYTES).unwrap_or(i32::MAX)
    };
    let sizes: Vec<_> = timers.iter().map(size).collect();
    let ids: Vec<_> = timers.iter().map(|_| Uuid::now_v7()).collect();
    let chains: Vec<_> = ids.iter().map(|id| timer_ordering_key(*id)).collect();
    let at = |timer: &&NewTimer| timer.time.at(write.now);
    let names: Vec<_> = timers.iter().map(|timer| timer.name.as_str()).collect();
    let held: Vec<_> = held.keys().map(String::as_str).collect();
    let bytes = sizes.iter().map(|size| i64::from(*size)).sum();
    let statement = sqlx::query(sql::SET_TIMERS)
        .bind(write.app_id.uuid())
        .bind(names)
        .bind(timers.iter().map(|timer| at(timer).0).collect::<Vec<_>>())
        .bind(
            timers
                .iter()
                .map(|timer| at(timer).max(write.now).0)
                .collect::<Vec<_>>(),
        )
        .bind(
            timers
                .iter()
                .map(|timer| timer.time.wait_ms())
                .collect::<Vec<_>>(),
        )
        .bind(
            timers
                .iter()
                .map(|timer| timer.payload.as_bytes())
                .collect::<Vec<_>>(),
        )
        .bind(sizes)
        .bind(ids)
        .bind(chains)
        .bind(trace)
        .bind(TIMER_TRIGGER)
        .bind(held);
    let written = lease.run(statement).await?;
    if written.len() != timers.len() {
        // Another transaction set one that did not exist when those that exist were locked.
        return Err(Abort::LostRace);
    }
    delta.queue(timers.len() as i64, bytes);
    Ok(())
}

/// Makes a timer due, unless it is leased. Returns whether there was such a timer.
pub(super) async fn run(
    lease: &mut Lease,
    app: AppId,
    name: &TimerName,
    now: Timestamp,
) -> Result<bool, Abort> {
    let held = lease.run(sqlx::query(LOCK_APP).bind(app.uuid())).await?;
    if held.is_empty() {
        Err(StoreError::AppNotFound)?;
    }
    let statement = sqlx::query(sql::RUN_TIMER).bind(app.uuid());
    let statement = statement.bind(name.as_str()).bind(now.0);
    Ok(!lease.run(statement).await?.is_empty())
}

pub(super) async fn timer(
    pool: &Pool,
    app: AppId,
    name: &TimerName,
) -> Result<Option<Delivery>, StoreError> {
    let statement =
        || -> Statement<'_> { sqlx::query(sql::TIMER).bind(app.uuid()).bind(name.as_str()) };
    Ok(decoded(&pool.read(statement).await?)?.pop())
}

pub(super) async fn timers(
    pool: &Pool,
    app: AppId,
    after: Option<&TimerName>,
    limit: u32,
) -> Result<Vec<Delivery>, StoreError> {
    // Below every name: none is empty.
    let after = after.map_or("", TimerName::as_str);
    let statement = || -> Statement<'_> {
        let statement = sqlx::query(sql::TIMERS).bind(app.uuid());
        statement.bind(after).bind(i64::from(limit))
    };
    decoded(&pool.read(statement).await?)
}

fn decoded(rows: &[PgRow]) -> Result<Vec<Delivery>, StoreError> {
    let decoded = rows.iter().map(rows::delivery);
    decoded.collect::<Result<_, _>>().map_err(store_error)
}

pub(super) async fn next_timer(
    pool: &Pool,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let rows = pool
        .read(|| sqlx::query(sql::NEXT_TIMER).bind(now.0))
        .await?;
    let row = rows.first().ok_or(Error::RowNotFound);
    let at: Result<Option<i64>, Error> = row.and_then(|row| row.try_get(0));
    Ok(at.map_err(store_error)?.map(Timestamp))
}

/// Nacks a delivery that is to be run again after a wait.
pub(super) async fn defer(
    pool: &Pool,
    receipt: &LeaseToken,
    wait_ms: u64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let statement = |_| {
        let statement = super::handling::on_delivery(outbox_sql::DEFER, receipt);
        let statement = statement.bind(receipt.lease).bind(now.plus_ms(wait_ms).0);
        statement.bind(wait_ms.cast_signed())
    };
    let deferred = pool.write(statement).await.map_err(store_error)?;
    let (app, trigger) = (receipt.app, &receipt.place.trigger);
    super::handling::release_probe(pool, app, trigger, receipt.lease, now).await?;
    Ok(!deferred.is_empty())
}
