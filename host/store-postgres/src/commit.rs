//! Chooses how each batch is committed. Has the writes of a single statement of this host: one
//! operation with at most one check on its key, an increment, and sets of many keys without a
//! check.

use super::classify::over_grant;
use super::plan::{Address, address};
use super::pool::{Pool, Statement};
use super::single_trip::{self, SingleTrip};
use super::transaction::Abort;
use super::{batch, classify, entries, sql};
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Applied, Commit, Committed, Expect, Op, Timestamp, TraceContext, Value, Version,
    ordering_key_of,
};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

pub(super) async fn commit(pool: &Pool, write: &Commit) -> Result<Committed, StoreError> {
    // The single statements create deliveries only within the bounds of a call's own write, and
    // acknowledge none.
    let plain = write.depth == 0 && write.batch.acknowledge.is_none();
    let done = match (write.batch.checks.as_slice(), write.batch.ops.as_slice()) {
        _ if write.audit.is_some()
            || write.batch.keep.is_some()
            || !write.batch.timers.is_empty()
            || !write.batch.replays.is_empty() =>
        {
            return batch::commit(pool, write).await;
        }
        ([], []) if write.batch.acknowledge.is_none() => {
            app_there(entries::app_exists(pool, write.app_id).await?)?;
            return Ok(Committed::default());
        }
        (_, []) if write.batch.acknowledge.is_none() => single_trip::check(pool, write).await,
        ([], [op]) if plain => one(pool, write, op, None).await,
        ([check], [op @ (Op::Set { .. } | Op::Delete { .. })])
            if plain && (check.collection.as_str(), check.key.as_str()) == address(op) =>
        {
            one(pool, write, op, Some(check.expect)).await
        }
        ([], ops) if write.batch.acknowledge.is_none() && distinct_sets(ops) => {
            match sets(pool, write).await {
                // The app does not exist, or a trigger watches: this finds out which.
                Ok(None) => return batch::commit(pool, write).await,
                other => other.map(Option::unwrap_or_default),
            }
        }
        _ => match once(pool, write).await {
            Ok(None) => return batch::commit(pool, write).await,
            other => other.map(Option::unwrap_or_default),
        },
    };
    match done {
        Err(Abort::Error(error)) if over_grant(&error) => batch::commit_over_all(pool, write).await,
        other => Ok(other?),
    }
}

/// Returns `None` if it requires a transaction.
async fn once(pool: &Pool, write: &Commit) -> Result<Option<Committed>, Abort> {
    match SingleTrip::of(write) {
        Some(once) => once.commit(pool).await,
        None => Ok(None),
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
    write: &Commit,
    op: &Op,
    expect: Option<Expect>,
) -> Result<Committed, Abort> {
    match op {
        Op::Set { .. } => set(pool, write, op, expect).await,
        Op::Increment { delta, .. } => increment(pool, write, address(op), *delta).await,
        Op::Delete { .. } => delete(pool, write, address(op), expect).await,
    }
}

/// Decodes the row of a batch of one operation: its result, whether the app exists, and how many
/// deliveries it created. Returns `None` if the check failed.
fn answer<T>(
    rows: &[PgRow],
    applied: impl FnOnce(T) -> Option<Applied>,
) -> Result<Option<Committed>, Abort>
where
    for<'r> T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let row = rows.first().ok_or(Error::RowNotFound)?;
    app_there(row.try_get(1)?)?;
    let deliveries: i64 = row.try_get(2)?;
    Ok(applied(row.try_get(0)?).map(|applied| Committed {
        applied: vec![applied],
        deliveries: deliveries.unsigned_abs(),
    }))
}

fn conflict() -> Abort {
    Abort::Refused(StoreError::Conflict { failed: vec![0] })
}

/// Binds the fields of the event of a batch of one operation: ordering key, identity, depth, trace
/// context. Only the statement finds out whether a delivery needs them.
fn bind_event<'q>(statement: Statement<'q>, write: &Commit, key: &str) -> Statement<'q> {
    statement
        .bind(ordering_key_of(key))
        .bind(Uuid::now_v7())
        .bind(event_depth(write))
        .bind(write.trace.as_ref().map(TraceContext::encode))
}

/// Returns the depth of the events that a batch causes.
pub(super) fn event_depth(write: &Commit) -> i64 {
    i64::from(write.depth) + 1
}

async fn set(
    pool: &Pool,
    write: &Commit,
    op: &Op,
    expect: Option<Expect>,
) -> Result<Committed, Abort> {
    let row = SetRow::of(op).ok_or(Error::RowNotFound)?;
    let bind = |text, slot: i16| {
        let statement = row.bind(text, write.app_id, write.now).bind(slot);
        bind_event(statement, write, row.address.1)
    };
    let statement = |slot| match expect {
        None => bind(sql::SET, slot),
        Some(Expect::Absent) => bind(sql::SET_IF_ABSENT, slot),
        Some(Expect::Version(version)) => {
            bind(sql::SET_IF_VERSION, slot).bind(version_number(version))
        }
    };
    let rows = pool.write(statement).await?;
    let written = |version: Option<i64>| Some(Applied::Set(Version(version?.unsigned_abs())));
    answer(&rows, written)?.ok_or_else(conflict)
}

async fn delete(
    pool: &Pool,
    write: &Commit,
    (collection, key): Address<'_>,
    expect: Option<Expect>,
) -> Result<Committed, Abort> {
    let bind = |text, slot: i16| {
        let statement = sqlx::query(text).bind(write.app_id.uuid());
        let statement = statement.bind(collection).bind(key);
        let statement = statement.bind(write.now.0).bind(slot);
        bind_event(statement.bind(size((collection, key), 0)), write, key)
    };
    let deleted = |existed| Some(Applied::Deleted { existed });
    match expect {
        None => {
            let rows = pool.write(|slot| bind(sql::DELETE, slot)).await?;
            answer(&rows, deleted)?.ok_or_else(conflict)
        }
        Some(Expect::Version(version)) => {
            let version = version_number(version);
            let statement = |slot| bind(sql::DELETE_IF_VERSION, slot).bind(version);
            let rows = pool.write(statement).await?;
            answer(&rows, |existed: bool| deleted(true).filter(|_| existed))?.ok_or_else(conflict)
        }
        // Deleting an absent entry only checks that it is absent.
        Some(Expect::Absent) => {
            let (existed, app) =
                entries::has(pool, write.app_id, collection, key, write.now).await?;
            app_there(app)?;
            let applied = (!existed).then_some(Applied::Deleted { existed: false });
            Ok(Committed {
                applied: vec![applied.ok_or_else(conflict)?],
                deliveries: 0,
            })
        }
    }
}

async fn increment(
    pool: &Pool,
    write: &Commit,
    (collection, key): Address<'_>,
    delta: i64,
) -> Result<Committed, Abort> {
    let statement = |slot: i16| {
        let statement = sqlx::query(sql::INCREMENT).bind(write.app_id.uuid());
        let statement = statement.bind(collection).bind(key).bind(delta);
        let statement = statement.bind(size((collection, key), 0));
        bind_event(statement.bind(write.now.0).bind(slot), write, key)
    };
    let rows = match pool.write(statement).await {
        Err(error) if classify::out_of_range(&error) => Err(StoreError::Overflow { at: 0 })?,
        other => other?,
    };
    let row = rows.first().ok_or(Error::RowNotFound)?;
    let value: Option<i64> = row.try_get(3)?;
    let incremented = |version: Option<i64>| {
        let (version, value) = version.zip(value)?;
        let version = Version(version.unsigned_abs());
        Some(Applied::Incremented { version, value })
    };
    let committed = answer(&rows, incremented)?;
    Ok(committed.ok_or(StoreError::NotInteger { at: 0 })?)
}

/// Converts a version. A version that Postgres cannot hold matches no entry.
pub(super) fn version_number(version: Version) -> i64 {
    i64::try_from(version.0).unwrap_or(-1)
}

/// Returns the size of an entry as counted in quotas.
pub(super) fn size((collection, key): Address<'_>, value: usize) -> i32 {
    i32::try_from(collection.len() + key.len() + value).unwrap_or(i32::MAX)
}

/// A set, as columns.
pub(super) struct SetRow<'b> {
    address: Address<'b>,
    json: Option<&'b str>,
    bytes: Option<&'b [u8]>,
    size: i32,
    expires_at: Option<i64>,
}

impl<'b> SetRow<'b> {
    /// Returns the columns of a set; `None` for a deletion.
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
        Some(SetRow {
            address,
            json,
            bytes,
            size: size(address, value.as_bytes().len()),
            expires_at: expires_at.map(|at| at.0),
        })
    }

    /// Binds JSON, bytes, sizes and expiries as arrays, with nulls where there is no set.
    pub(super) fn bind_some<'q>(statement: Statement<'q>, rows: &[Option<Self>]) -> Statement<'q> {
        let rows = || rows.iter().map(Option::as_ref);
        let json: Vec<_> = rows().map(|row| row.and_then(|row| row.json)).collect();
        let bytes: Vec<_> = rows().map(|row| row.and_then(|row| row.bytes)).collect();
        let sizes: Vec<_> = rows().map(|row| row.map(|row| row.size)).collect();
        let expiries: Vec<_> = rows()
            .map(|row| row.and_then(|row| row.expires_at))
            .collect();
        statement.bind(json).bind(bytes).bind(sizes).bind(expiries)
    }

    fn bind(&self, text: &'static str, app: AppId, now: Timestamp) -> Statement<'static> {
        let statement = sqlx::query(text).bind(app.uuid());
        let statement = statement.bind(self.address.0).bind(self.address.1);
        let statement = statement.bind(self.json).bind(self.bytes).bind(self.size);
        statement.bind(now.0).bind(self.expires_at)
    }
}

/// Creates a statement that sets many different keys.
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

/// Commits a batch that only sets different keys: one statement is as atomic as a transaction.
/// Returns `None` if nothing was written.
async fn sets(pool: &Pool, write: &Commit) -> Result<Option<Committed>, Abort> {
    let rows: Vec<_> = write.batch.ops.iter().filter_map(SetRow::of).collect();
    let statement = |slot: i16| set_many(sql::SET_MANY, &rows, write.app_id, write.now).bind(slot);
    let answered = pool.write(statement).await?;
    if answered.is_empty() {
        return Ok(None);
    }
    let versions = versions(&answered)?;
    let applied = |op| versions.get(&address(op)).copied().map(Applied::Set);
    let applied: Option<Vec<_>> = write.batch.ops.iter().map(applied).collect();
    Ok(Some(Committed {
        applied: applied.ok_or(Error::RowNotFound)?,
        deliveries: 0,
    }))
}

/// Returns the collection and the key with which a row starts.
pub(super) fn address_of(row: &PgRow) -> Result<Address<'_>, Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Returns the versions from the rows of `SET_MANY`.
pub(super) fn versions(rows: &[PgRow]) -> Result<BTreeMap<Address<'_>, Version>, Error> {
    rows.iter()
        .map(|row| Ok((address_of(row)?, entries::version(row, 2)?)))
        .collect()
}
