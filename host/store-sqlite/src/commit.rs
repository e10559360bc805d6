//! Write batches: checks, operations, deliveries and quota.

use super::outbox::{self, Deliveries, Fired, acknowledge};
use super::usage::UsageDelta;
use super::writer::{WriteCost, WriteTransaction};
use super::{answers, change_log, entries, error, registry, reserved_space};
use kvasm_core::store::StoreError;
use kvasm_core::store::backend::sum;
use kvasm_core::{
    AppId, Applied, Batch, Check, Collection, Commit, Committed, JsonText, Key, Link, Op, TimerOp,
    Timestamp, Value, Version,
};
use rusqlite::Connection;
use rusqlite::types::ValueRef;

/// Returns the cost of a batch. One that only deletes or acknowledges frees space.
pub(super) fn work(commit: &Commit) -> WriteCost {
    let work = WriteCost::of(commit.app_id).with_bytes(bytes(commit));
    let Batch {
        ops,
        timers,
        replays,
        keep,
        ..
    } = &commit.batch;
    let deletes = ops.iter().all(|op| matches!(op, Op::Delete { .. }))
        && timers.iter().all(|op| matches!(op, TimerOp::Cancel { .. }));
    match deletes && replays.is_empty() && keep.is_none() {
        true => work.freeing_space(),
        false => work,
    }
}

/// Estimates the bytes that a batch writes.
fn bytes(commit: &Commit) -> usize {
    let bytes = |op: &Op| match op {
        Op::Set { value, .. } => value.as_bytes().len(),
        Op::Delete { .. } | Op::Increment { .. } => 0,
    };
    let timers = commit.batch.timers.iter().map(TimerOp::payload_bytes);
    let kept = commit.batch.keep.as_ref();
    let kept = kept.and_then(|answer| answer.output.as_ref().map(|output| output.len()));
    commit
        .batch
        .ops
        .iter()
        .map(bytes)
        .chain(timers)
        .chain(kept)
        .sum()
}

/// The result of an operation.
#[derive(Default)]
struct OpResult {
    applied: Vec<Applied>,
    delta: UsageDelta,
    deliveries: Deliveries,
    /// The number of dead letters replayed.
    replays: u64,
}

/// Applies one batch atomically.
pub(super) fn apply(
    transaction: &mut WriteTransaction<'_>,
    commit: &Commit,
) -> Result<Committed, StoreError> {
    let app = commit.app_id;
    transaction.tally.open(transaction.connection, app)?;
    let replaced = answers::check(transaction.connection, commit)?;
    commit.check_replays()?;
    let failed = failed_checks(transaction, commit).map_err(error::store)?;
    if !failed.is_empty() {
        return Err(StoreError::Conflict { failed });
    }
    let watched = transaction.watches(commit)? || transaction.keeps_changes(app)?;
    let done = match commit.batch.ops.as_slice() {
        // A single operation is one statement, which is atomic on its own.
        [op] if is_plain(commit) && !watched => {
            let mut done = OpResult::default();
            run(transaction, commit, 0, op, Alone(true), &mut done)?;
            done
        }
        _ => transaction.atomically(|transaction| run_all(transaction, commit, replaced))?,
    };
    transaction.tally.add(app, done.delta);
    let committed = Committed {
        applied: done.applied,
        deliveries: u64::from(done.deliveries.count()) + done.replays,
    };
    transaction.links.remember(commit, &committed);
    Ok(committed)
}

/// Returns whether a commit writes nothing besides the operations of its batch.
fn is_plain(commit: &Commit) -> bool {
    let Batch {
        acknowledge,
        keep,
        timers,
        replays,
        ..
    } = &commit.batch;
    commit.audit.is_none()
        && acknowledge.is_none()
        && keep.is_none()
        && timers.is_empty()
        && replays.is_empty()
}

/// Runs all operations, the acknowledgement, the kept answer and the audit row. `replaced` is the
/// size of the expired answer that the kept one replaces.
fn run_all(
    transaction: &mut WriteTransaction<'_>,
    commit: &Commit,
    replaced: Option<i64>,
) -> Result<OpResult, StoreError> {
    let mut done = OpResult::default();
    if let Some(receipt) = &commit.batch.acknowledge {
        let size = acknowledge(transaction.connection, receipt, commit.now)?;
        done.delta += -UsageDelta::queued(size);
    }
    if let Some(answer) = &commit.batch.keep {
        done.delta += answers::keep(transaction.connection, commit.app_id, answer, replaced)?;
    }
    for (at, op) in commit.batch.ops.iter().enumerate() {
        run(transaction, commit, at, op, Alone(false), &mut done)?;
    }
    transaction.share_out(commit, &done.deliveries)?;
    for op in &commit.batch.timers {
        let (applied, delta) = outbox::change_timer(transaction, commit, op)?;
        done.applied.push(applied);
        done.delta += delta;
    }
    let (replayed, delta) = outbox::replay_in(transaction, commit)?;
    done.replays = replayed.iter().filter(|existed| **existed).count() as u64;
    let replayed = replayed.into_iter();
    done.applied
        .extend(replayed.map(|existed| Applied::Replayed { existed }));
    done.delta += delta;
    // Otherwise audit rows of deletions that delete nothing, and deliveries of small entries, would
    // fill the reserved space.
    if transaction.is_short && commit.batch.acknowledge.is_none() && done.delta.bytes >= 0 {
        return Err(reserved_space::refusal());
    }
    transaction.tally.check(commit.app_id, done.delta)?;
    if let Some(audit) = &commit.audit {
        registry::write_audit(transaction.connection, audit).map_err(error::store)?;
    }
    Ok(done)
}

/// Whether an operation is the only one of its batch. Then the quota is checked before anything is
/// written.
#[derive(Clone, Copy)]
struct Alone(bool);

fn run(
    transaction: &mut WriteTransaction<'_>,
    commit: &Commit,
    at: usize,
    op: &Op,
    alone: Alone,
    done: &mut OpResult,
) -> Result<(), StoreError> {
    let (app, now) = (commit.app_id, commit.now);
    let (collection, key) = op.address();
    let text;
    let (applied, fired) = match op {
        Op::Set {
            value, expires_at, ..
        } => {
            let row = EntryRow {
                app,
                now,
                collection,
                key,
                value,
                expires_at: *expires_at,
            };
            let version = set(transaction, &row, alone, done)?;
            (Applied::Set(version), Some((version, Some(value))))
        }
        Op::Increment { delta, .. } => {
            let found = entries::get(transaction.connection, app, collection, key, now);
            let found = found.map_err(error::store)?;
            let value = sum(found.as_ref().map(|entry| &entry.value), *delta, at)?;
            text = Value::Json(JsonText::integer(value));
            let row = EntryRow {
                app,
                now,
                collection,
                key,
                value: &text,
                expires_at: found.and_then(|entry| entry.expires_at),
            };
            let version = set(transaction, &row, alone, done)?;
            let applied = Applied::Incremented { version, value };
            (applied, Some((version, Some(&text))))
        }
        Op::Delete { .. } => {
            let gone = delete(transaction.connection, app, now, collection, key);
            let (version, delta) = gone.map_err(error::store)?;
            done.delta += delta;
            let existed = version.is_some();
            (Applied::Deleted { existed }, version.map(|v| (v, None)))
        }
    };
    done.applied.push(applied);
    if let (Alone(false), Some((version, value))) = (alone, fired) {
        let fired = Fired {
            collection,
            key,
            version,
            value,
        };
        change_log::add(transaction, commit, &fired)?;
        done.delta += transaction.fire(commit, &fired, &mut done.deliveries)?;
    }
    Ok(())
}

/// An entry to write.
struct EntryRow<'r> {
    app: AppId,
    now: Timestamp,
    collection: &'r Collection,
    key: &'r Key,
    value: &'r Value,
    expires_at: Option<Timestamp>,
}

/// Returns a value as a column.
pub(super) fn column(value: &Value) -> ValueRef<'_> {
    match value {
        Value::Json(text) => ValueRef::Text(text.as_str().as_bytes()),
        Value::Bytes(bytes) => ValueRef::Blob(bytes),
    }
}

fn set(
    transaction: &mut WriteTransaction<'_>,
    row: &EntryRow<'_>,
    Alone(alone): Alone,
    done: &mut OpResult,
) -> Result<Version, StoreError> {
    let (collection, key) = (row.collection.as_str(), row.key.as_str());
    let size = (collection.len() + key.len() + row.value.as_bytes().len()) as i64;
    let before = stored_size(transaction.connection, row).map_err(error::store)?;
    let delta = UsageDelta::entry(Some(size), before);
    if alone {
        transaction.tally.check(row.app, delta)?;
    }
    let version = transaction.next_version();
    let columns = (
        row.app.uuid().into_bytes(),
        collection,
        key,
        rusqlite::types::ToSqlOutput::Borrowed(column(row.value)),
        size,
        version,
        row.now.0,
        row.expires_at.map(|at| at.0),
    );
    transaction
        .connection
        .prepare_cached(SET)
        .and_then(|mut statement| statement.execute(columns))
        .map_err(error::store)?;
    done.delta += delta;
    Ok(Version(version.unsigned_abs()))
}

/// Returns the size of the entry that a set will replace, expired or not.
fn stored_size(connection: &Connection, row: &EntryRow<'_>) -> rusqlite::Result<Option<i64>> {
    let app_id = row.app.uuid();
    let mut statement = connection.prepare_cached(
        "SELECT size FROM kv_entries WHERE app_id = ?1 AND collection = ?2 AND key = ?3",
    )?;
    let at = (app_id.as_bytes(), row.collection.as_str(), row.key.as_str());
    let mut rows = statement.query(at)?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

/// Deletes an entry. Returns its version, if it had not expired.
fn delete(
    connection: &Connection,
    app: AppId,
    now: Timestamp,
    collection: &Collection,
    key: &Key,
) -> rusqlite::Result<(Option<Version>, UsageDelta)> {
    let mut statement = connection.prepare_cached(DELETE)?;
    let app_id = app.uuid();
    let parameters = (app_id.as_bytes(), collection.as_str(), key.as_str(), now.0);
    let mut rows = statement.query(parameters)?;
    let mut version = None;
    let mut delta = UsageDelta::default();
    while let Some(row) = rows.next()? {
        let was_live: bool = row.get(0)?;
        let had: i64 = row.get(2)?;
        version = was_live.then_some(Version(had.unsigned_abs()));
        delta = UsageDelta::entry(None, Some(row.get(1)?));
    }
    Ok((version, delta))
}

/// Returns whether the app has an expired entry or kept answer.
pub(super) fn has_expired(
    connection: &Connection,
    app: AppId,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(HAS_EXPIRED)?
        .exists((app.uuid().as_bytes(), now.0))
        .and_then(|has| Ok(has || answers::has_expired(connection, app, now)?))
}

/// Removes up to `limit` expired entries and kept answers of an app. Returns the number removed.
pub(super) fn sweep(
    transaction: &mut WriteTransaction<'_>,
    app: AppId,
    now: Timestamp,
    limit: u32,
) -> Result<u64, StoreError> {
    match transaction.tally.open(transaction.connection, app) {
        Err(StoreError::AppNotFound) => return Ok(0),
        opened => opened?,
    }
    let sizes: Vec<i64> = transaction
        .connection
        .prepare_cached(SWEEP)
        .and_then(|mut statement| {
            let rows = statement.query_map((app.uuid().as_bytes(), now.0, limit), |row| row.get(0));
            rows?.collect()
        })
        .map_err(error::store)?;
    for size in &sizes {
        transaction
            .tally
            .add(app, UsageDelta::entry(None, Some(*size)));
    }
    let left = limit.saturating_sub(u32::try_from(sizes.len()).unwrap_or(limit));
    Ok(sizes.len() as u64 + answers::sweep(transaction, app, now, left)?)
}

const SET: &str = "INSERT INTO kv_entries
       (app_id, collection, key, value, size, version, created_at, updated_at, expires_at)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8)
     ON CONFLICT (app_id, collection, key) DO UPDATE SET
       value = excluded.value,
       size = excluded.size,
       version = excluded.version,
       created_at = CASE WHEN expires_at <= excluded.updated_at
                         THEN excluded.created_at ELSE created_at END,
       updated_at = excluded.updated_at,
       expires_at = excluded.expires_at";

const DELETE: &str = "DELETE FROM kv_entries WHERE app_id = ?1 AND collection = ?2 AND key = ?3
     RETURNING expires_at IS NULL OR expires_at > ?4, size, version";

const HAS_EXPIRED: &str = "SELECT 1 FROM kv_entries WHERE app_id = ?1 AND expires_at <= ?2 LIMIT 1";

/// With an index for the outer WHERE, SQLite would scan all entries of the app for those few.
const SWEEP: &str = "DELETE FROM kv_entries NOT INDEXED WHERE app_id = ?1 AND rowid IN (
       SELECT rowid FROM kv_entries WHERE app_id = ?1 AND expires_at <= ?2
       ORDER BY expires_at LIMIT ?3)
     RETURNING size";

/// Returns the positions of the failed checks.
fn failed_checks(
    transaction: &WriteTransaction<'_>,
    commit: &Commit,
) -> rusqlite::Result<Vec<usize>> {
    let connection = transaction.connection;
    let mut failed = Vec::new();
    for (at, check) in commit.batch.checks.iter().enumerate() {
        let Check {
            collection,
            key,
            expect,
        } = check;
        let found = entries::version(connection, commit.app_id, collection, key, commit.now)?;
        if !expect.holds(found) {
            failed.push(at);
        }
    }
    let follows = commit.batch.link.iter().flat_map(Link::follows);
    for (at, follow) in follows.enumerate() {
        let (collection, key) = (&follow.collection, &follow.key);
        let found = entries::version(connection, commit.app_id, collection, key, commit.now)?;
        let expect = transaction.links.expect(follow);
        if !expect.is_some_and(|expect| expect.holds(found)) {
            failed.push(commit.batch.checks.len() + at);
        }
    }
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SqliteOptions, SqliteStore, plan};

    /// The writer runs it for each app in turn, and other writes wait for it.
    #[tokio::test]
    async fn sweep_reads_only_the_rows_it_removes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvasm.db");
        let _store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
        let connection = Connection::open(&path).unwrap();
        let steps = plan(&connection, SWEEP, &[b"a", &0, &0]);
        let removes = "USING INTEGER PRIMARY KEY (rowid=?)";
        assert!(steps[0].ends_with(removes), "{steps:?}");
        let finds = "by_expiry (app_id=? AND expires_at<?)";
        assert!(steps.iter().any(|step| step.ends_with(finds)), "{steps:?}");
        // The check before it, which also runs for each app.
        let steps = plan(&connection, HAS_EXPIRED, &[b"a", &0]);
        assert!(steps[0].ends_with(finds), "{steps:?}");
        assert_eq!(steps.len(), 1);
    }
}
