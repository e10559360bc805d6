//! The log of changes, for watchers.
//!
//! There is one writer, so positions are in the order of the commits, and all that a reader sees is
//! complete.

use super::commit::column;
use super::outbox::Fired;
use super::tombstone::{execute, is_tombstone};
use super::writer::{WriteCost, WriteTransaction};
use super::{SqliteStore, entries, error};
use async_trait::async_trait;
use kvasm_core::store::backend::signed;
use kvasm_core::store::{
    ChangeLog, ChangePage, ChangeRange, ChangeRetention, ChangesHead, LoggedChange, StoreError,
};
use kvasm_core::{AppId, Collection, Commit, Key, Timestamp, Version};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row};
use std::collections::HashSet;

const KEPT: &str = "SELECT app_id FROM change_logs";
const ADD: &str = "INSERT INTO changes
       (app_id, position, at, size, version, collection, key, value)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
const KEEP: &str = "INSERT INTO change_logs (app_id, until, start) VALUES (?1, ?2, ?3)
     ON CONFLICT (app_id) DO UPDATE SET until = max(until, excluded.until)
     RETURNING start";
const HEAD: &str = "SELECT max(position) FROM changes";
const CHANGED_APPS: &str = "SELECT DISTINCT app_id FROM changes
     WHERE position > ?1 AND position <= ?2";
const START: &str = "SELECT start FROM change_logs WHERE app_id = ?1";
const PAGE: &str = "SELECT position, at, size, version, collection, key, value FROM changes
     WHERE app_id = ?1 AND position > ?2 AND position <= ?3 ORDER BY position LIMIT ?4";
const LOG: &str = "SELECT until FROM change_logs WHERE app_id = ?1";
/// The last position of the changes that are not retained.
const CUT: &str = "SELECT max(position) FROM
       (SELECT position, at, sum(size) OVER (ORDER BY position DESC) AS total
        FROM changes WHERE app_id = ?1)
     WHERE at < ?2 OR total > ?3";
const LAST_OF_STEP: &str = "SELECT max(position) FROM (SELECT position FROM changes
     WHERE app_id = ?1 AND position <= ?2 ORDER BY position LIMIT ?3)";
const APPS: &str = "SELECT app_id FROM change_logs WHERE app_id > ?1 ORDER BY app_id LIMIT ?2";

impl WriteTransaction<'_> {
    /// Returns whether the changes of an app are kept. Reads the apps once in a transaction.
    pub(super) fn keeps_changes(&mut self, app: AppId) -> Result<bool, StoreError> {
        if self.kept_changes.is_none() {
            let kept = kept(self.connection).map_err(error::store)?;
            self.kept_changes = Some(kept);
        }
        let kept = self.kept_changes.as_ref();
        Ok(kept.is_some_and(|kept| kept.contains(&app)))
    }
}

fn kept(connection: &Connection) -> rusqlite::Result<HashSet<AppId>> {
    let mut statement = connection.prepare_cached(KEPT)?;
    let rows = statement.query_map([], app_of)?;
    rows.collect()
}

fn app_of(row: &Row<'_>) -> rusqlite::Result<AppId> {
    entries::uuid_of(row, 0).map(AppId::from)
}

/// Adds a change, if those of its app are kept.
pub(super) fn add(
    transaction: &mut WriteTransaction<'_>,
    commit: &Commit,
    change: &Fired<'_>,
) -> Result<(), StoreError> {
    if !transaction.keeps_changes(commit.app_id)? {
        return Ok(());
    }
    // A deletion assigns no version.
    let position = match change.value {
        Some(_) => change.version.0.cast_signed(),
        None => transaction.next_version(),
    };
    let (collection, key) = (change.collection.as_str(), change.key.as_str());
    let bytes = change.value.map_or(0, |value| value.as_bytes().len());
    let row = (
        commit.app_id.uuid().into_bytes(),
        position,
        commit.now.0,
        (collection.len() + key.len() + bytes) as i64,
        change.version.0.cast_signed(),
        collection,
        key,
        ToSqlOutput::Borrowed(change.value.map_or(ValueRef::Null, column)),
    );
    let insert = transaction.connection.prepare_cached(ADD);
    insert
        .and_then(|mut statement| statement.execute(row))
        .map(drop)
        .map_err(error::store)
}

fn change(row: &Row<'_>) -> rusqlite::Result<LoggedChange> {
    let value = match row.get_ref(6)? {
        ValueRef::Null => None,
        _ => Some(entries::value(row, 6)?),
    };
    Ok(LoggedChange {
        position: row.get::<_, i64>(0)?.unsigned_abs(),
        at: Timestamp(row.get(1)?),
        collection: Collection::stored(row.get(4)?),
        key: Key::stored(row.get(5)?),
        version: Version(row.get::<_, i64>(3)?.unsigned_abs()),
        value,
    })
}

fn page(connection: &Connection, app: AppId, range: ChangeRange) -> rusqlite::Result<ChangePage> {
    // From one snapshot: a removal raises the start.
    let snapshot = connection.unchecked_transaction()?;
    let start: Option<i64> = snapshot
        .prepare_cached(START)?
        .query_row([app.uuid().as_bytes()], |row| row.get(0))
        .optional()?;
    let mut found = ChangePage {
        start: start.map(i64::unsigned_abs),
        changes: Vec::new(),
    };
    if start.is_none() {
        return Ok(found);
    }
    let mut statement = snapshot.prepare_cached(PAGE)?;
    let app_id = app.uuid();
    let bounds = (
        app_id.as_bytes(),
        signed(range.after),
        signed(range.to),
        range.limit,
    );
    let mut rows = statement.query(bounds)?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        bytes += row.get::<_, i64>(2)?.unsigned_abs();
        if bytes > range.bytes_max && !found.changes.is_empty() {
            break;
        }
        found.changes.push(change(row)?);
    }
    Ok(found)
}

fn head(connection: &Connection, after: u64) -> rusqlite::Result<ChangesHead> {
    let last: Option<i64> = connection
        .prepare_cached(HEAD)?
        .query_row([], |row| row.get(0))?;
    let position = last.map_or(0, i64::unsigned_abs);
    let mut head = ChangesHead {
        position: position.max(after),
        apps: Vec::new(),
    };
    if position > after {
        let mut statement = connection.prepare_cached(CHANGED_APPS)?;
        let rows = statement.query_map((signed(after), signed(position)), app_of)?;
        head.apps = rows.collect::<Result<_, _>>()?;
    }
    Ok(head)
}

/// Returns the last position that is not retained, and whether the whole log goes; `None` if there
/// is nothing to remove.
fn cut(
    connection: &Connection,
    app: AppId,
    now: Timestamp,
    retain: ChangeRetention,
) -> rusqlite::Result<Option<(i64, bool)>> {
    let app_id = app.uuid();
    let until: Option<i64> = connection
        .prepare_cached(LOG)?
        .query_row([app_id.as_bytes()], |row| row.get(0))
        .optional()?;
    let is_kept = until.is_some_and(|until| until > now.0) && lives(connection, app)?;
    if !is_kept {
        return Ok(until.map(|_| (i64::MAX, true)));
    }
    let age = i64::try_from(retain.age.as_millis()).unwrap_or(i64::MAX);
    let bounds = (
        app_id.as_bytes(),
        now.0.saturating_sub(age),
        signed(retain.bytes),
    );
    let cut: Option<i64> = connection
        .prepare_cached(CUT)?
        .query_row(bounds, |row| row.get(0))?;
    Ok(cut.map(|cut| (cut, false)))
}

fn lives(connection: &Connection, app: AppId) -> rusqlite::Result<bool> {
    let exists = connection
        .prepare_cached("SELECT 1 FROM apps WHERE id = ?1")?
        .exists([app.uuid().as_bytes()])?;
    Ok(exists && !is_tombstone(connection, app)?)
}

/// Removes a step of changes up to a position, and the log once it is empty, if it is to go.
fn remove(
    connection: &Connection,
    app: AppId,
    (cut, whole): (i64, bool),
    limit: u32,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let app_id = app.uuid();
    let last: Option<i64> = connection
        .prepare_cached(LAST_OF_STEP)
        .and_then(|mut step| step.query_row((app_id.as_bytes(), cut, limit), |row| row.get(0)))
        .map_err(error::store)?;
    let Some(last) = last else {
        if whole {
            // Unless it has been extended since.
            let gone = "DELETE FROM change_logs WHERE app_id = ?1 AND (until <= ?2
                OR NOT EXISTS (SELECT 1 FROM apps WHERE id = ?1 AND deleted_at IS NULL))";
            execute(connection, gone, (app_id.as_bytes(), now.0))?;
        }
        return Ok(0);
    };
    let raise = "UPDATE change_logs SET start = max(start, ?2) WHERE app_id = ?1";
    execute(connection, raise, (app_id.as_bytes(), last))?;
    let remove = "DELETE FROM changes WHERE app_id = ?1 AND position <= ?2";
    execute(connection, remove, (app_id.as_bytes(), last))
}

fn apps(connection: &Connection, after: &[u8], limit: u32) -> rusqlite::Result<Vec<AppId>> {
    let mut statement = connection.prepare_cached(APPS)?;
    let rows = statement.query_map((after, limit), app_of)?;
    rows.collect()
}

#[async_trait]
impl ChangeLog for SqliteStore {
    async fn keep_changes(&self, app: AppId, until: Timestamp) -> Result<u64, StoreError> {
        let keep = move |transaction: &mut WriteTransaction<'_>| {
            let connection = transaction.connection;
            if !lives(connection, app).map_err(error::store)? {
                return Err(StoreError::AppNotFound);
            }
            let row = (app.uuid().into_bytes(), until.0, transaction.next_version());
            transaction.kept_changes = None;
            let start: i64 = connection
                .prepare_cached(KEEP)
                .and_then(|mut statement| statement.query_row(row, |row| row.get(0)))
                .map_err(error::store)?;
            Ok(start.unsigned_abs())
        };
        self.writer.run(WriteCost::of(app), keep).await
    }

    async fn changes_head(&self, after: u64) -> Result<ChangesHead, StoreError> {
        let read = move |connection: &_| head(connection, after);
        self.read_short(None, read, || read).await
    }

    async fn changes(&self, app: AppId, range: ChangeRange) -> Result<ChangePage, StoreError> {
        let read = move |connection: &_| page(connection, app, range);
        self.read_long(app, ChangePage::default, read).await
    }

    async fn prune_changes(
        &self,
        app: AppId,
        now: Timestamp,
        retain: ChangeRetention,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let readers = std::sync::Arc::clone(&self.readers);
        let find = move || readers.with(|connection| cut(connection, app, now, retain));
        let Some(cut) = self.places.run(Some(app), find).await? else {
            return Ok(0);
        };
        let remove = move |transaction: &mut WriteTransaction<'_>| {
            transaction.kept_changes = None;
            transaction
                .atomically(|transaction| remove(transaction.connection, app, cut, limit, now))
        };
        let cost = WriteCost::of(app).freeing_space();
        self.writer.run(cost, remove).await
    }

    async fn apps_with_changes(
        &self,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, StoreError> {
        let after = after.map_or(Vec::new(), |app| app.uuid().as_bytes().to_vec());
        let read = |connection: &_| apps(connection, &after, limit);
        let later = || {
            let after = after.clone();
            move |connection: &_| apps(connection, &after, limit)
        };
        self.read_short(None, read, later).await
    }
}
