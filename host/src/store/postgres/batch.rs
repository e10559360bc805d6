//! Batches that need a transaction.
//!
//! Its statements, in order: hold the app; lock the entries there are, in the
//! order of their keys; hold the keys whose absence matters; then change. After
//! the locks nothing that was checked can change before the commit, so checks on
//! keys that the batch does not write hold too.
//!
//! That takes locks on absent keys after those on present ones. So two batches
//! can still meet in a deadlock, or an entry comes into being after the look for
//! it. The batch then runs again and holds all its keys, absent or present, in
//! one order: this way cannot deadlock or be overtaken. It is not the first way
//! because it writes a row for each absent key.

use super::classify::{lost_connection, lost_race, store_error};
use super::commit::{SetRow, set_many, versions};
use super::plan::{Address, Outcome, Plan};
use super::pool::{ATTEMPTS, Lease, Pool, Statement};
use super::{read, sql};
use crate::model::{Applied, Timestamp, Version, WriteBatch};
use crate::store::StoreError;
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::collections::{BTreeMap, BTreeSet};

/// Expired at every `now`.
const BEFORE_ALL_TIMES: i64 = i64::MIN;

/// How a try ended short of its commit.
enum Stop {
    AppNotFound,
    Conflict(Vec<usize>),
    /// An entry came into being between the lock and the hold on its absence.
    Overtaken,
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(error)
    }
}

pub(super) async fn commit(pool: &Pool, write: &WriteBatch) -> Result<Vec<Applied>, StoreError> {
    let plan = Plan::new(write);
    let mut reconnected = false;
    let mut holds_all = false;
    for _ in 0..ATTEMPTS {
        let mut lease = pool.lease().await.map_err(store_error)?;
        let stop = match apply(&mut lease, write, &plan, holds_all).await {
            Ok(applied) => match lease.commit().await {
                Ok(()) => return Ok(applied),
                Err(error) if lost_race(&error) => continue,
                Err(error) => return Err(store_error(error)),
            },
            Err(stop) => stop,
        };
        lease.roll_back().await;
        match stop {
            Stop::AppNotFound => return Err(StoreError::AppNotFound),
            Stop::Conflict(failed) => return Err(StoreError::Conflict { failed }),
            Stop::Overtaken => holds_all = true,
            Stop::Error(error) if lost_race(&error) => holds_all = true,
            // Nothing was committed, so it can safely be done once more.
            Stop::Error(error) if lost_connection(&error) && !reconnected => reconnected = true,
            Stop::Error(error) => return Err(store_error(error)),
        }
    }
    let why = format!("{ATTEMPTS} attempts were undone by other writes");
    Err(StoreError::Unavailable(why.into()))
}

async fn apply(
    lease: &mut Lease,
    write: &WriteBatch,
    plan: &Plan<'_>,
    holds_all: bool,
) -> Result<Vec<Applied>, Stop> {
    let app = write.app_id.uuid();
    lease.begin().await?;
    if lease
        .run(sqlx::query(sql::LOCK_APP).bind(app))
        .await?
        .is_empty()
    {
        return Err(Stop::AppNotFound);
    }
    if holds_all && !write.ops.is_empty() {
        hold(lease, write, plan.keys.keys()).await?;
    }
    let locked_rows = lease
        .run(on_keys(sql::LOCK_ENTRIES, write, plan.keys.keys()))
        .await?;
    let locked = locked(&locked_rows, write.now)?;
    let failed = failed_checks(write, &locked.live);
    if !failed.is_empty() {
        return Err(Stop::Conflict(failed));
    }
    if write.ops.is_empty() {
        return Ok(Vec::new());
    }
    hold_absent(lease, write, plan, &locked).await?;
    change(lease, write, plan, locked).await
}

/// What `LOCK_ENTRIES` found.
struct Locked<'r> {
    all: BTreeSet<Address<'r>>,
    live: BTreeMap<Address<'r>, Version>,
}

fn locked(rows: &[PgRow], now: Timestamp) -> Result<Locked<'_>, Error> {
    let mut locked = Locked {
        all: BTreeSet::new(),
        live: BTreeMap::new(),
    };
    for row in rows {
        let address = (row.try_get(0)?, row.try_get(1)?);
        let expires_at: Option<i64> = row.try_get(3)?;
        locked.all.insert(address);
        if expires_at.is_none_or(|at| at > now.0) {
            locked.live.insert(address, read::version(row, 2)?);
        }
    }
    Ok(locked)
}

fn failed_checks(write: &WriteBatch, live: &BTreeMap<Address<'_>, Version>) -> Vec<usize> {
    let checks = write.checks.iter().enumerate();
    let failed = checks.filter(|(_, check)| {
        let address = (check.collection.as_str(), check.key.as_str());
        !check.expect.holds(live.get(&address).copied())
    });
    failed.map(|(position, _)| position).collect()
}

/// Makes sure that nobody creates the entries whose absence the batch is about.
async fn hold_absent(
    lease: &mut Lease,
    write: &WriteBatch,
    plan: &Plan<'_>,
    locked: &Locked<'_>,
) -> Result<(), Stop> {
    let absent: Vec<_> = plan
        .keys
        .iter()
        .filter(|(address, fate)| fate.depends_on_absence() && !locked.all.contains(*address))
        .map(|(address, _)| address)
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    let held = hold(lease, write, absent.iter().copied()).await?;
    if held < absent.len() {
        return Err(Stop::Overtaken);
    }
    Ok(())
}

/// Holds keys, present or absent; how many were absent.
async fn hold<'a, 'b: 'a>(
    lease: &mut Lease,
    write: &WriteBatch,
    keys: impl Iterator<Item = &'a Address<'b>>,
) -> Result<usize, Error> {
    let statement = on_keys(sql::HOLD, write, keys);
    Ok(lease.run(statement.bind(BEFORE_ALL_TIMES)).await?.len())
}

async fn change(
    lease: &mut Lease,
    write: &WriteBatch,
    plan: &Plan<'_>,
    locked: Locked<'_>,
) -> Result<Vec<Applied>, Stop> {
    let mut outcome = Outcome {
        found: locked.live,
        ..Outcome::default()
    };
    let fates = || plan.keys.iter();

    let anew: Vec<_> = fates()
        .filter(|(address, fate)| fate.starts_anew() && outcome.found.contains_key(*address))
        .map(|(address, _)| address)
        .collect();
    if !anew.is_empty() {
        let statement = on_keys(sql::EXPIRE, write, anew.iter().copied());
        lease.run(statement.bind(BEFORE_ALL_TIMES)).await?;
    }
    if plan.draws > 0 {
        // Before the sets, so that versions grow with the order of operations.
        let count = i32::try_from(plan.draws).unwrap_or(i32::MAX);
        let rows = lease.run(sqlx::query(sql::DRAW).bind(count)).await?;
        outcome.drawn = rows
            .iter()
            .map(|row| read::version(row, 0))
            .collect::<Result<_, _>>()?;
    }
    let sets: Vec<_> = fates()
        .filter_map(|(_, fate)| SetRow::of(fate.last?))
        .collect();
    let written = if sets.is_empty() {
        Vec::new()
    } else {
        lease.run(set_many(&sets, write.app_id, write.now)).await?
    };
    outcome.written = versions(&written)?;

    // With the deletions go the places that were held and not filled.
    let empty = |address| !outcome.found.contains_key(address);
    let gone: Vec<_> = fates()
        .filter(|(address, fate)| !fate.is_set() && (fate.last.is_some() || empty(*address)))
        .map(|(address, _)| address)
        .collect();
    let removed = if gone.is_empty() {
        Vec::new()
    } else {
        let statement = on_keys(sql::DELETE_MANY, write, gone.iter().copied());
        lease.run(statement.bind(write.now.0)).await?
    };
    for row in &removed {
        outcome
            .removed
            .insert((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?);
    }
    plan.answers(&outcome)
        .ok_or(Stop::Error(Error::RowNotFound))
}

/// A statement whose first parameters are the app and a set of keys.
fn on_keys<'a, 'b: 'a>(
    text: &'static str,
    write: &WriteBatch,
    keys: impl Iterator<Item = &'a Address<'b>>,
) -> Statement<'static> {
    let (collections, keys): (Vec<&str>, Vec<&str>) = keys.copied().unzip();
    sqlx::query(text)
        .bind(write.app_id.uuid())
        .bind(collections)
        .bind(keys)
}
