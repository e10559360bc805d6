//! Writes of one statement: one operation with at most one check on its key, and
//! sets of many keys without a check.

use super::classify::over_grant;
use super::plan::{Address, address};
use super::pool::{Pool, Statement};
use super::transaction::Stop;
use super::{batch, read, sql};
use crate::model::{AppId, Applied, Expect, Op, Timestamp, Value, Version, WriteBatch};
use crate::store::StoreError;
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::collections::{BTreeMap, BTreeSet};

pub(super) async fn commit(pool: &Pool, write: &WriteBatch) -> Result<Vec<Applied>, StoreError> {
    let done = match (write.checks.as_slice(), write.ops.as_slice()) {
        _ if write.audit.is_some() => return batch::commit(pool, write).await,
        ([], []) => {
            app_there(read::app_exists(pool, write.app_id).await?)?;
            return Ok(Vec::new());
        }
        ([], [op]) => one(pool, write, op, None).await,
        ([check], [op]) if (check.collection.as_str(), check.key.as_str()) == address(op) => {
            one(pool, write, op, Some(check.expect)).await
        }
        ([], ops) if distinct_sets(ops) => sets(pool, write).await,
        _ => return batch::commit(pool, write).await,
    };
    match done {
        Err(Stop::Error(error)) if over_grant(&error) => batch::commit_over_all(pool, write).await,
        other => Ok(other?),
    }
}

fn app_there(exists: bool) -> Result<(), StoreError> {
    if exists {
        Ok(())
    } else {
        Err(StoreError::AppNotFound)
    }
}

async fn one(
    pool: &Pool,
    write: &WriteBatch,
    op: &Op,
    expect: Option<Expect>,
) -> Result<Vec<Applied>, Stop> {
    let applied = match op {
        Op::Set { .. } => set(pool, write, op, expect).await?,
        Op::Increment { .. } => Err(StoreError::Failed("not yet".into()))?,
        Op::Delete { .. } => delete(pool, write, address(op), expect).await?,
    };
    match applied {
        Some(applied) => Ok(vec![applied]),
        None => Err(StoreError::Conflict { failed: vec![0] })?,
    }
}

/// Sets an entry; `None` when the check failed.
async fn set(
    pool: &Pool,
    write: &WriteBatch,
    op: &Op,
    expect: Option<Expect>,
) -> Result<Option<Applied>, Stop> {
    let row = SetRow::of(op).ok_or(Error::RowNotFound)?;
    let bind = |text, slot: i16| row.bind(text, write.app_id, write.now).bind(slot);
    let statement = |slot| match expect {
        None => bind(sql::SET, slot),
        Some(Expect::Absent) => bind(sql::SET_IF_ABSENT, slot),
        Some(Expect::Version(version)) => {
            bind(sql::SET_IF_VERSION, slot).bind(version_number(version))
        }
    };
    let rows = pool.write(statement).await?;
    let found = rows.first().ok_or(Error::RowNotFound)?;
    app_there(found.try_get(1)?)?;
    let version: Option<i64> = found.try_get(0)?;
    Ok(version.map(|version| Applied::Set(Version(version.unsigned_abs()))))
}

/// Deletes an entry; `None` when the check failed.
async fn delete(
    pool: &Pool,
    write: &WriteBatch,
    (collection, key): Address<'_>,
    expect: Option<Expect>,
) -> Result<Option<Applied>, Stop> {
    let bind = |text, slot: i16| {
        let statement = sqlx::query(text).bind(write.app_id.uuid());
        let statement = statement.bind(collection).bind(key);
        statement.bind(write.now.0).bind(slot)
    };
    let (existed, app) = match expect {
        None => read::two_bools(&pool.write(|slot| bind(sql::DELETE, slot)).await?)?,
        Some(Expect::Version(version)) => {
            let version = version_number(version);
            let statement = |slot| bind(sql::DELETE_IF_VERSION, slot).bind(version);
            read::two_bools(&pool.write(statement).await?)?
        }
        // To delete what is absent is to look whether it is.
        Some(Expect::Absent) => read::has(pool, write.app_id, collection, key, write.now).await?,
    };
    app_there(app)?;
    Ok(match expect {
        None => Some(Applied::Deleted { existed }),
        Some(Expect::Version(_)) => existed.then_some(Applied::Deleted { existed: true }),
        Some(Expect::Absent) => (!existed).then_some(Applied::Deleted { existed: false }),
    })
}

/// A version as Postgres holds it. One that it cannot hold is no entry's.
pub(super) fn version_number(version: Version) -> i64 {
    i64::try_from(version.0).unwrap_or(-1)
}

/// One set, as columns.
pub(super) struct SetRow<'b> {
    address: Address<'b>,
    json: Option<&'b str>,
    bytes: Option<&'b [u8]>,
    size: i32,
    expires_at: Option<i64>,
}

impl<'b> SetRow<'b> {
    /// The columns of a set; none of a deletion.
    pub(super) fn of(op: &'b Op) -> Option<SetRow<'b>> {
        let Op::Set {
            value, expires_at, ..
        } = op
        else {
            return None;
        };
        let address = address(op);
        let (json, bytes) = match value {
            Value::Json(text) => (Some(text.as_str()), None),
            Value::Bytes(bytes) => (None, Some(bytes.as_slice())),
        };
        let size = address.0.len() + address.1.len() + value.as_bytes().len();
        Some(SetRow {
            address,
            json,
            bytes,
            size: i32::try_from(size).unwrap_or(i32::MAX),
            expires_at: expires_at.map(|at| at.0),
        })
    }

    fn bind(&self, text: &'static str, app: AppId, now: Timestamp) -> Statement<'static> {
        let statement = sqlx::query(text).bind(app.uuid());
        let statement = statement.bind(self.address.0).bind(self.address.1);
        let statement = statement.bind(self.json).bind(self.bytes).bind(self.size);
        statement.bind(now.0).bind(self.expires_at)
    }
}

/// A statement that sets many different keys.
pub(super) fn set_many(
    text: &'static str,
    rows: &[SetRow<'_>],
    app: AppId,
    now: Timestamp,
) -> Statement<'static> {
    let collections: Vec<_> = rows.iter().map(|row| row.address.0).collect();
    let keys: Vec<_> = rows.iter().map(|row| row.address.1).collect();
    let json: Vec<_> = rows.iter().map(|row| row.json).collect();
    let bytes: Vec<_> = rows.iter().map(|row| row.bytes).collect();
    let sizes: Vec<_> = rows.iter().map(|row| row.size).collect();
    let expiries: Vec<_> = rows.iter().map(|row| row.expires_at).collect();
    let statement = sqlx::query(text)
        .bind(app.uuid())
        .bind(collections)
        .bind(keys);
    statement
        .bind(json)
        .bind(bytes)
        .bind(sizes)
        .bind(expiries)
        .bind(now.0)
}

fn distinct_sets(ops: &[Op]) -> bool {
    let mut seen = BTreeSet::new();
    ops.iter()
        .all(|op| matches!(op, Op::Set { .. }) && seen.insert(address(op)))
}

/// A batch of nothing but sets of different keys: one statement is as atomic as
/// a transaction around it.
async fn sets(pool: &Pool, write: &WriteBatch) -> Result<Vec<Applied>, Stop> {
    let rows: Vec<_> = write.ops.iter().filter_map(SetRow::of).collect();
    let statement = |slot: i16| set_many(sql::SET_MANY, &rows, write.app_id, write.now).bind(slot);
    let answered = pool.write(statement).await?;
    app_there(!answered.is_empty())?;
    let versions = versions(&answered)?;
    let applied = |op| versions.get(&address(op)).copied().map(Applied::Set);
    let all: Option<Vec<_>> = write.ops.iter().map(applied).collect();
    Ok(all.ok_or(Error::RowNotFound)?)
}

/// The versions that `SET_MANY` returned.
pub(super) fn versions(rows: &[PgRow]) -> Result<BTreeMap<Address<'_>, Version>, Error> {
    rows.iter()
        .map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), read::version(row, 2)?)))
        .collect()
}
