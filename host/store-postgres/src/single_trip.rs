//! Batches of checks, sets and deletions in one round trip.
//!
//! A function in the database does what `batch` does, for a batch without increments, audit row or
//! duplicate keys, unless a trigger watches its changes. Checks alone need no lock: one statement
//! reads them all from one snapshot.

use super::batch::failed_checks;
use super::commit::{SetRow, version_number};
use super::plan::{Address, address};
use super::pool::{Pool, Statement};
use super::transaction::Abort;
use super::{entries, sql};
use kvasm_core::store::StoreError;
use kvasm_core::{Applied, Check, Commit, Committed, Expect, Op, Version};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::collections::BTreeMap;

/// What a batch requests of one key.
#[derive(Default)]
struct Asked<'b> {
    expect: Option<Expect>,
    op: Option<&'b Op>,
}

/// The keys of a batch, in lock order.
pub(super) struct SingleTrip<'b> {
    write: &'b Commit,
    keys: BTreeMap<Address<'b>, Asked<'b>>,
}

fn checked(check: &Check) -> Address<'_> {
    (check.collection.as_str(), check.key.as_str())
}

/// Returns the version that the function expects, 0 for no entry. No entry has version 0 or -1.
fn expected(expect: Expect) -> i64 {
    match expect {
        Expect::Absent => 0,
        Expect::Version(Version(0)) => -1,
        Expect::Version(version) => version_number(version),
    }
}

impl<'b> SingleTrip<'b> {
    /// Converts a batch; `None` if it requires a transaction.
    pub(super) fn of(write: &'b Commit) -> Option<SingleTrip<'b>> {
        if write.audit.is_some() {
            return None;
        }
        let mut keys: BTreeMap<_, Asked<'b>> = BTreeMap::new();
        for check in &write.batch.checks {
            let asked = keys.entry(checked(check)).or_default();
            if asked.expect.replace(check.expect).is_some() {
                return None;
            }
        }
        for op in &write.batch.ops {
            let asked = keys.entry(address(op)).or_default();
            let adds = matches!(op, Op::Increment { .. });
            if adds || asked.op.replace(op).is_some() {
                return None;
            }
        }
        Some(SingleTrip { write, keys })
    }

    /// Commits the batch; `None` if a trigger watches its changes.
    pub(super) async fn commit(&self, pool: &Pool) -> Result<Option<Committed>, Abort> {
        let rows = pool.write(|slot| self.statement(slot)).await?;
        let mut found = BTreeMap::new();
        let mut refused = false;
        for row in &rows {
            match row.try_get(0)? {
                "set" | "deleted" => {}
                "failed" => refused = true,
                "watched" => return Ok(None),
                "no app" => Err(StoreError::AppNotFound)?,
                "lost" => Err(StoreError::LeaseLost)?,
                other => Err(Error::Protocol(format!("the outcome {other:?}")))?,
            }
            let version: Option<i64> = row.try_get(3)?;
            found.insert(
                (row.try_get(1)?, row.try_get(2)?),
                version.map(i64::unsigned_abs),
            );
        }
        if refused {
            let checks = self.write.batch.checks.iter().enumerate();
            let failed = checks.filter(|(_, check)| found.contains_key(&checked(check)));
            let failed = failed.map(|(at, _)| at).collect();
            return Err(StoreError::Conflict { failed })?;
        }
        let applied = self.write.batch.ops.iter().map(|op| applied(op, &found));
        Ok(Some(Committed {
            applied: applied.collect::<Option<_>>().ok_or(Error::RowNotFound)?,
            deliveries: 0,
        }))
    }

    fn statement(&self, slot: i16) -> Statement<'static> {
        let keys = self.keys.iter();
        let (collections, names): (Vec<_>, Vec<_>) = keys.map(|(at, _)| *at).unzip();
        let acts = self.keys.values().map(|asked| match asked.op {
            Some(Op::Set { .. }) => "set",
            Some(Op::Delete { .. }) => "delete",
            Some(Op::Increment { .. }) | None => "check",
        });
        let expectations = self.keys.values();
        let expectations = expectations.map(|asked| asked.expect.map(expected));
        let statement = sqlx::query(sql::COMMIT_ENTRIES)
            .bind(self.write.app_id.uuid())
            .bind(collections)
            .bind(names)
            .bind(acts.collect::<Vec<_>>())
            .bind(expectations.collect::<Vec<_>>());
        let sets = self.keys.values();
        let sets = sets.map(|asked| asked.op.and_then(SetRow::of));
        let statement = SetRow::bind_some(statement, &sets.collect::<Vec<_>>());
        let receipt = self.write.batch.acknowledge.as_deref();
        let place = receipt.map(|receipt| &receipt.place);
        statement
            .bind(place.map(|place| place.trigger.as_str().to_owned()))
            .bind(place.map(|place| place.ordering_key))
            .bind(place.map(|place| place.seq))
            .bind(receipt.map(|receipt| receipt.lease))
            .bind(self.write.now.0)
            .bind(slot)
    }
}

fn applied(op: &Op, found: &BTreeMap<Address<'_>, Option<u64>>) -> Option<Applied> {
    let version = *found.get(&address(op))?;
    match op {
        Op::Set { .. } => Some(Applied::Set(Version(version?))),
        Op::Delete { .. } => Some(Applied::Deleted {
            existed: version.is_some(),
        }),
        Op::Increment { .. } => None,
    }
}

/// Commits a batch that only has checks.
pub(super) async fn check(pool: &Pool, write: &Commit) -> Result<Committed, Abort> {
    let addresses = write.batch.checks.iter().map(checked);
    let (collections, keys): (Vec<_>, Vec<_>) = addresses.unzip();
    let statement = || {
        let statement = sqlx::query(sql::LOOK).bind(write.app_id.uuid());
        let statement = statement.bind(collections.as_slice()).bind(keys.as_slice());
        statement.bind(write.now.0)
    };
    let rows = pool.read(statement).await?;
    let first: Option<&PgRow> = rows.first();
    if !first.ok_or(Error::RowNotFound)?.try_get::<bool, _>(3)? {
        Err(StoreError::AppNotFound)?;
    }
    let there = |row: &&PgRow| !matches!(row.try_get::<Option<i64>, _>(2), Ok(None));
    let found = rows.iter().filter(there);
    let found = found.map(|row| {
        Ok((
            (row.try_get(0)?, row.try_get(1)?),
            entries::version(row, 2)?,
        ))
    });
    let found = found.collect::<Result<BTreeMap<_, _>, Error>>()?;
    let failed = failed_checks(write, &found);
    match failed.is_empty() {
        true => Ok(Committed::default()),
        false => Err(StoreError::Conflict { failed })?,
    }
}
