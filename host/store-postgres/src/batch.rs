//! Batches that require a transaction.
//!
//! The statements of a transaction, in order: lock the app, exclusively if dead letters are replayed; write the answer that it keeps, which
//! locks its identity; lock the delivery that it acknowledges; lock all keys, whether or not they have an entry; read the entries; change them; delete the
//! delivery, and create those that the changes fire. Nothing that was checked can change between
//! the reads and the commit, so checks of keys that the batch does not write hold too. To lock an
//! absent key, a placeholder row is written for it, which the transaction fills or removes.

use super::classify::over_grant;
use super::commit::{SetRow, address_of, set_many, versions};
use super::increments::{Integers, Sums};
use super::lease::Lease;
use super::plan::{Address, DatabaseResults, Plan, PlannedResult};
use super::pool::{Pool, Statement};
use super::transaction::{Abort, TransactionWork, transact};
use super::usage::{Counting, SlotDelta, count};
use super::{answers, change, dead_letters, entries, fire, handling, increments, sql, timers};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::{Applied, Commit, Committed, Version};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::collections::{BTreeMap, BTreeSet};

/// Expired at every `now`.
const BEFORE_ALL_TIMES: i64 = i64::MIN;

/// A batch, and where its usage is counted.
struct CountedBatch<'b> {
    write: &'b Commit,
    counting: Counting,
}

pub(super) async fn commit(pool: &Pool, write: &Commit) -> Result<Committed, StoreError> {
    let counting = Counting::OneSlot;
    match transact(pool, &CountedBatch { write, counting }).await {
        Err(Abort::Error(error)) if over_grant(&error) => commit_over_all(pool, write).await,
        other => Ok(other?),
    }
}

/// Commits a batch for which one slot had no space.
pub(super) async fn commit_over_all(pool: &Pool, write: &Commit) -> Result<Committed, StoreError> {
    let counting = Counting::AllSlots;
    Ok(transact(pool, &CountedBatch { write, counting }).await?)
}

#[async_trait]
impl TransactionWork for CountedBatch<'_> {
    type Done = Committed;

    async fn run(&self, lease: &mut Lease) -> Result<Committed, Abort> {
        let done = self.commit_in(lease).await;
        if let Err(Abort::Error(Error::RowNotFound)) = &done {
            // A deletion does not wait for this transaction before it marks the app as deleted. From
            // then on statements do not find it.
            let exists = sqlx::query(sql::APP_EXISTS).bind(self.write.app_id.uuid());
            let rows = lease.run(exists).await?;
            if !rows
                .first()
                .ok_or(Error::RowNotFound)?
                .try_get::<bool, _>(0)?
            {
                return Err(StoreError::AppNotFound)?;
            }
        }
        done
    }
}

impl CountedBatch<'_> {
    async fn commit_in(&self, lease: &mut Lease) -> Result<Committed, Abort> {
        let write = self.write;
        write.check_replays()?;
        if !write.batch.replays.is_empty() {
            dead_letters::hold_app_alone(lease, write.app_id).await?;
        }
        let watched = hold_app(lease, write).await?;
        let kept = answers::keep(lease, write).await?;
        let delivery = match &write.batch.acknowledge {
            Some(receipt) => Some(handling::hold(lease, receipt).await?),
            None => None,
        };
        let plan = Plan::new(&write.batch.checks, &write.batch.ops, write.now);
        if !write.batch.ops.is_empty() {
            let statement = on_keys(sql::HOLD, write, plan.keys.keys());
            lease.run(statement.bind(BEFORE_ALL_TIMES)).await?;
        }
        let mut found = Vec::new();
        if plan.needs_state() {
            let statement = on_keys(sql::FIND, write, plan.keys.keys());
            found = lease.run(statement.bind(write.now.0)).await?;
        }
        let found = versions(&found)?;
        let failed = failed_checks(write, &found);
        if !failed.is_empty() {
            Err(StoreError::Conflict { failed })?;
        }
        let delivery = match delivery {
            Some(held) => Some(held.ok_or(StoreError::LeaseLost)?),
            None => None,
        };
        let Integers { ops, sums } = integers(lease, write).await?;
        let ops = ops.as_deref().unwrap_or(&write.batch.ops);
        let plan = Plan::new(&write.batch.checks, ops, write.now);
        let (done, mut delta) = carry_out(lease, write, &plan, found).await?;
        delta.add(kept);
        if let (Some(receipt), Some(size)) = (&write.batch.acknowledge, delivery) {
            handling::finish(lease, receipt, write.now).await?;
            delta.remove_delivery(size);
        }
        let timers = timers::change(lease, write, &mut delta).await?;
        let replays = dead_letters::replay_in(lease, write, &mut delta).await?;
        let deliveries = fire::fire(lease, write, ops, &done, &watched, &mut delta).await?;
        if let Some(audit) = &write.audit {
            change::write_audit(lease, audit).await?;
        }
        // Last, because others wait for a slot.
        count(lease, write.app_id, delta, self.counting).await?;
        let replayed = |applied: &&Applied| matches!(applied, Applied::Replayed { existed: true });
        let deliveries = deliveries + replays.iter().filter(replayed).count() as u64;
        let applied = answers(&done, &sums).into_iter().chain(timers);
        Ok(Committed {
            applied: applied.chain(replays).collect(),
            deliveries,
        })
    }
}

/// Locks the app, and returns those of the batch's collections that a trigger watches.
async fn hold_app(lease: &mut Lease, write: &Commit) -> Result<BTreeSet<String>, Abort> {
    let collections = write.batch.ops.iter().map(|op| op.address().0.as_str());
    let collections: BTreeSet<_> = collections.collect();
    let statement = sqlx::query(sql::LOCK_APP_AND_LOOK).bind(write.app_id.uuid());
    let statement = statement.bind(collections.into_iter().collect::<Vec<_>>());
    let rows = lease.run(statement).await?;
    let row = rows.first().ok_or(StoreError::AppNotFound)?;
    let watched: Vec<String> = row.try_get(0)?;
    Ok(watched.into_iter().collect())
}

/// Resolves the batch's increments. Reads the entries if there are some.
async fn integers(lease: &mut Lease, write: &Commit) -> Result<Integers, Abort> {
    let added = write.batch.ops.iter().filter_map(increments::added_to);
    let added: BTreeSet<_> = added.collect();
    if added.is_empty() {
        return Ok(Integers::default());
    }
    let statement = on_keys(sql::NUMBERS, write, added.iter());
    let rows = lease.run(statement.bind(write.now.0)).await?;
    Ok(increments::lower(write, &increments::held(&rows)?)?)
}

/// Returns the results of the operations of the original batch.
fn answers(done: &[PlannedResult], sums: &Sums) -> Vec<Applied> {
    let answer = |(at, done): (usize, &PlannedResult)| match (done.applied, sums.get(&at)) {
        (Applied::Set(version), Some(&value)) => Applied::Incremented { version, value },
        (applied, _) => applied,
    };
    done.iter().enumerate().map(answer).collect()
}

pub(super) fn failed_checks(write: &Commit, found: &BTreeMap<Address<'_>, Version>) -> Vec<usize> {
    let checks = write.batch.checks.iter().enumerate();
    let failed = checks.filter(|(_, check)| {
        let address = (check.collection.as_str(), check.key.as_str());
        !check.expect.holds(found.get(&address).copied())
    });
    failed.map(|(position, _)| position).collect()
}

async fn carry_out(
    lease: &mut Lease,
    write: &Commit,
    plan: &Plan<'_>,
    found: BTreeMap<Address<'_>, Version>,
) -> Result<(Vec<PlannedResult>, SlotDelta), Abort> {
    let mut outcome = DatabaseResults {
        found,
        ..DatabaseResults::default()
    };
    expire(lease, write, plan, &outcome.found).await?;
    if plan.draws > 0 {
        // Before the sets, so that versions grow with the order of operations.
        let count = i32::try_from(plan.draws).unwrap_or(i32::MAX);
        let rows = lease.run(sqlx::query(sql::DRAW).bind(count)).await?;
        let drawn = rows.iter().map(|row| entries::version(row, 0));
        outcome.drawn = drawn.collect::<Result<_, _>>()?;
    }

    let sets = plan.keys.values().filter_map(|fate| SetRow::of(fate.last?));
    let sets: Vec<_> = sets.collect();
    let mut written = Vec::new();
    if !sets.is_empty() {
        let statement = set_many(sql::SET_MANY_UNCOUNTED, &sets, write.app_id, write.now);
        written = lease.run(statement).await?;
    }
    outcome.written = versions(&written)?;

    // The placeholder rows are removed with the deletions. A key that is neither set nor deleted
    // was only checked, and if absent it has such a row.
    let gone = plan.keys.iter().filter(|(address, fate)| match fate.last {
        Some(_) => !fate.is_set(),
        None => !write.batch.ops.is_empty() && !outcome.found.contains_key(*address),
    });
    let gone: Vec<_> = gone.map(|(address, _)| address).collect();
    let mut removed = Vec::new();
    if !gone.is_empty() {
        let statement = on_keys(sql::DELETE_MANY, write, gone.into_iter());
        removed = lease.run(statement.bind(write.now.0)).await?;
    }
    for row in &removed {
        if row.try_get(2)? {
            let version = entries::version(row, 4)?;
            outcome.removed.insert(address_of(row)?, version);
        }
    }
    let answers = plan.answers(&outcome).ok_or(Error::RowNotFound)?;
    Ok((answers, delta(&written, &removed)?))
}

/// Returns how sets and deletions change the app's usage.
fn delta(written: &[PgRow], removed: &[PgRow]) -> Result<SlotDelta, Error> {
    let mut delta = SlotDelta::default();
    for row in written {
        delta.replace(row.try_get(3)?, row.try_get(4)?);
    }
    for row in removed {
        delta.replace(0, row.try_get(3)?);
    }
    Ok(delta)
}

/// Expires the live entries that the batch deletes before it sets them again.
async fn expire(
    lease: &mut Lease,
    write: &Commit,
    plan: &Plan<'_>,
    found: &BTreeMap<Address<'_>, Version>,
) -> Result<(), Error> {
    let recreated = plan.keys.iter();
    let recreated =
        recreated.filter(|(address, fate)| fate.recreates() && found.contains_key(*address));
    let recreated: Vec<_> = recreated.map(|(address, _)| address).collect();
    if !recreated.is_empty() {
        let statement = on_keys(sql::EXPIRE, write, recreated.into_iter());
        lease.run(statement.bind(BEFORE_ALL_TIMES)).await?;
    }
    Ok(())
}

/// Binds the app and a set of keys as the first parameters of a statement.
fn on_keys<'a, 'b: 'a>(
    text: &'static str,
    write: &Commit,
    keys: impl Iterator<Item = &'a Address<'b>>,
) -> Statement<'static> {
    let (collections, keys): (Vec<&str>, Vec<&str>) = keys.copied().unzip();
    let statement = sqlx::query(text).bind(write.app_id.uuid());
    statement.bind(collections).bind(keys)
}
