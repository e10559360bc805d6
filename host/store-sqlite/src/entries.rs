//! Reads: pooled connections and their statements.

use super::tombstone::is_tombstone;
use super::{SqliteOptions, error, nowait, set_cache};
use kvasm_core::store::StoreError;
use kvasm_core::{
    ActivePlugin, App, AppId, AppLimits, AppName, Collection, CursorKey, Digest, Entry, Generation,
    JsonText, Key, ListPage, ListQuery, PluginVersion, Quota, Timestamp, Value, Version,
};
use kvasm_metrics::Metrics;
use parking_lot::Mutex;
use rusqlite::types::{ToSql, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use std::ops::Bound;
use std::path::PathBuf;

/// A pool of read-only connections. A read has one for its duration, and waits only for the file.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    idle_max: usize,
    cache: usize,
    metrics: Metrics,
}

impl Readers {
    /// Creates a pool without connections.
    pub(super) fn new(options: &SqliteOptions) -> Readers {
        Readers {
            path: options.path.clone(),
            idle: Mutex::new(Vec::with_capacity(options.idle_readers)),
            idle_max: options.idle_readers,
            cache: options.cache,
            metrics: options.metrics.clone(),
        }
    }

    /// Opens a connection that has read once.
    pub(super) fn one(&self) -> rusqlite::Result<Connection> {
        let connection = self.open()?;
        ping(&connection)?;
        Ok(connection)
    }

    /// Runs `read` on a connection from the pool.
    pub(super) fn with<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.run(read).map_err(error::store)
    }

    /// As [`with`](Readers::with); `None` if it would have to wait for the disk.
    pub(super) fn at_once<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        match nowait::at_once(|| self.run(read)) {
            Some(done) => done.map(Some).map_err(error::store),
            None => {
                self.metrics.cold_read();
                Ok(None)
            }
        }
    }

    fn run<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        // The lock is held only for the pop, not while opening or reading.
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open()?,
        };
        let result = read(&connection);
        let mut idle = self.idle.lock();
        if idle.len() < self.idle_max {
            idle.push(connection);
        }
        result
    }

    /// Runs `read` on an app's rows. `absent` is the result for a deleted app.
    pub(super) fn of_app<T>(
        &self,
        app: AppId,
        absent: impl FnOnce() -> T,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.with(|connection| unless_buried(connection, app, absent, read))
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = match nowait::name() {
            Some(vfs) => Connection::open_with_flags_and_vfs(&self.path, flags, vfs)?,
            None => Connection::open_with_flags(&self.path, flags)?,
        };
        // A reader in WAL mode waits only while another process recovers the log.
        connection.busy_timeout(std::time::Duration::from_secs(1))?;
        connection.set_prepared_statement_cache_capacity(64);
        set_cache(&connection, self.cache)?;
        Ok(connection)
    }
}

/// Runs `read` on an app's rows. `absent` is the result for a deleted app.
pub(super) fn unless_buried<T>(
    connection: &Connection,
    app: AppId,
    absent: impl FnOnce() -> T,
    read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    match is_tombstone(connection, app)? {
        true => Ok(absent()),
        false => read(connection),
    }
}

pub(super) fn ping(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("SELECT last FROM kv_version WHERE id = 1")?
        .query_row([], |_| Ok(()))
}

pub(super) fn app(connection: &Connection, name: &AppName) -> rusqlite::Result<Option<App>> {
    connection
        .prepare_cached(&format!("SELECT {APP_COLUMNS} WHERE name = ?1"))?
        .query_row([name.as_str()], app_row)
        .optional()
}

pub(super) fn app_by_id(connection: &Connection, id: AppId) -> rusqlite::Result<Option<App>> {
    connection
        .prepare_cached(&format!(
            "SELECT {APP_COLUMNS} WHERE id = ?1 AND deleted_at IS NULL"
        ))?
        .query_row([id.uuid().as_bytes()], app_row)
        .optional()
}

pub(super) fn apps(
    connection: &Connection,
    after: Option<&AppName>,
    limit: u32,
) -> rusqlite::Result<Vec<App>> {
    connection
        .prepare_cached(&format!(
            "SELECT {APP_COLUMNS} WHERE name > ?1 AND deleted_at IS NULL ORDER BY name LIMIT ?2"
        ))?
        .query_map((after.map_or("", AppName::as_str), limit), app_row)?
        .collect()
}

const APP_COLUMNS: &str = "id, name, cursor_key, created_at, public, entries_max, bytes_max,
       calls_per_second, calls_at_once, active_plugin, active_module, settings FROM apps";

fn app_row(row: &Row<'_>) -> rusqlite::Result<App> {
    let name: String = row.get(1)?;
    let cursor_key: [u8; CursorKey::BYTES] = row.get(2)?;
    let entries: Option<i64> = row.get(5)?;
    let bytes: Option<i64> = row.get(6)?;
    let version: Option<u32> = row.get(9)?;
    let digest: Option<[u8; 32]> = row.get(10)?;
    let settings: Option<uuid::Bytes> = row.get(11)?;
    let active = version.zip(digest).map(|(version, digest)| ActivePlugin {
        version: PluginVersion(version),
        digest: Digest(digest),
    });
    Ok(App {
        id: AppId::from(uuid_of(row, 0)?),
        name: AppName::parse(&name).map_err(|e| damaged(1, e.to_string()))?,
        created_at: Timestamp(row.get(3)?),
        cursor_key: CursorKey::new(cursor_key),
        public: row.get(4)?,
        limits: AppLimits {
            quota: Quota {
                entries: entries.map(i64::unsigned_abs),
                bytes: bytes.map(i64::unsigned_abs),
            },
            calls_per_second: row.get(7)?,
            calls_at_once: row.get(8)?,
        },
        active,
        settings: settings.map(|id| Generation(uuid::Uuid::from_bytes(id))),
    })
}

pub(super) fn uuid_of(row: &Row<'_>, column: usize) -> rusqlite::Result<uuid::Uuid> {
    row.get(column).map(uuid::Uuid::from_bytes)
}

pub(super) fn damaged(column: usize, why: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, why.into())
}

pub(super) fn get(
    connection: &Connection,
    app: AppId,
    collection: &Collection,
    key: &Key,
    now: Timestamp,
) -> rusqlite::Result<Option<Entry>> {
    connection
        .prepare_cached(
            // Rows of a deleted app may remain and are absent. Checked in the same statement:
            // otherwise it would cost two transactions.
            "SELECT value, version, created_at, updated_at, expires_at FROM kv_entries
             WHERE app_id = ?1 AND collection = ?2 AND key = ?3
               AND (expires_at IS NULL OR expires_at > ?4)
               AND NOT EXISTS (SELECT 1 FROM apps WHERE id = ?1 AND deleted_at IS NOT NULL)",
        )?
        .query_row(
            (
                app.uuid().as_bytes(),
                collection.as_str(),
                key.as_str(),
                now.0,
            ),
            |row| entry(row, 0),
        )
        .optional()
}

/// Returns entries in the order of `keys`; `None` if they exceed `bytes_max` in total.
pub(super) fn get_many(
    connection: &Connection,
    app: AppId,
    keys: &[(Collection, Key)],
    now: Timestamp,
    bytes_max: usize,
) -> rusqlite::Result<Option<Vec<Option<Entry>>>> {
    // One transaction reads one snapshot.
    let moment = connection.unchecked_transaction()?;
    let (mut entries, mut bytes) = (Vec::with_capacity(keys.len()), 0);
    for (collection, key) in keys {
        let entry = get(connection, app, collection, key, now)?;
        bytes += entry.as_ref().map_or(0, |e| e.value.as_bytes().len());
        if bytes > bytes_max {
            return Ok(None);
        }
        entries.push(entry);
    }
    moment.finish()?;
    Ok(Some(entries))
}

/// Returns the entry's version, without reading its value.
pub(super) fn version(
    connection: &Connection,
    app: AppId,
    collection: &Collection,
    key: &Key,
    now: Timestamp,
) -> rusqlite::Result<Option<Version>> {
    connection
        .prepare_cached(
            "SELECT version FROM kv_entries
             WHERE app_id = ?1 AND collection = ?2 AND key = ?3
               AND (expires_at IS NULL OR expires_at > ?4)",
        )?
        .query_row(
            (
                app.uuid().as_bytes(),
                collection.as_str(),
                key.as_str(),
                now.0,
            ),
            |row| row.get(0).map(version_of),
        )
        .optional()
}

/// The column is a signed integer that only ever increases from 1.
fn version_of(column: i64) -> Version {
    Version(column.unsigned_abs())
}

pub(super) fn value(row: &Row<'_>, column: usize) -> rusqlite::Result<Value> {
    match row.get_ref(column)? {
        ValueRef::Text(text) => {
            let text = String::from_utf8(text.to_vec())
                .map_err(|e| damaged(column, e.utf8_error().to_string()))?;
            Ok(Value::Json(JsonText::stored(text)))
        }
        ValueRef::Blob(bytes) => Ok(Value::Bytes(bytes.to_vec())),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => {
            Err(damaged(column, "neither text nor blob".to_owned()))
        }
    }
}

fn entry(row: &Row<'_>, first: usize) -> rusqlite::Result<Entry> {
    let expires_at: Option<i64> = row.get(first + 4)?;
    Ok(Entry {
        value: value(row, first)?,
        version: version_of(row.get(first + 1)?),
        created_at: Timestamp(row.get(first + 2)?),
        updated_at: Timestamp(row.get(first + 3)?),
        expires_at: expires_at.map(Timestamp),
    })
}

pub(super) fn list(
    connection: &Connection,
    app: AppId,
    query: &ListQuery,
    now: Timestamp,
) -> rusqlite::Result<ListPage> {
    let app_id = app.uuid();
    let collection = query.collection.as_str();
    let (lower, upper) = bounds(query);
    // One row more than the page holds tells whether the list continues.
    let limit = i64::from(query.limit) + 1;
    let mut parameters: Vec<&dyn ToSql> =
        vec![app_id.as_bytes(), &collection, &now.0, &limit, &lower];
    if let Some(upper) = &upper {
        parameters.push(upper);
    }
    let mut statement = connection.prepare_cached(&list_sql(query))?;
    let mut rows = statement.query(parameters.as_slice())?;
    let mut page = ListPage {
        entries: Vec::new(),
        more: false,
    };
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let full = page.entries.len() >= query.limit as usize || bytes >= query.bytes_max;
        if full && !page.entries.is_empty() {
            page.more = true;
            break;
        }
        let key: String = row.get(0)?;
        let entry = query.with_values.then(|| entry(row, 1)).transpose()?;
        bytes += key.len() + entry.as_ref().map_or(0, |e| e.value.as_bytes().len());
        page.entries.push((Key::stored(key), entry));
    }
    Ok(page)
}

/// Returns the bounds as parameters. Every key is above the empty text.
fn bounds(query: &ListQuery) -> (&str, Option<&str>) {
    let lower = match &query.range.lower {
        Bound::Unbounded => "",
        Bound::Included(key) | Bound::Excluded(key) => key,
    };
    let upper = match &query.range.upper {
        Bound::Unbounded => None,
        Bound::Included(key) | Bound::Excluded(key) => Some(key.as_str()),
    };
    (lower, upper)
}

/// Returns one of a few dozen statements, which the connection caches by their text.
fn list_sql(query: &ListQuery) -> String {
    let columns = if query.with_values {
        "key, value, version, created_at, updated_at, expires_at"
    } else {
        "key"
    };
    let lower = match query.range.lower {
        Bound::Unbounded | Bound::Included(_) => ">=",
        Bound::Excluded(_) => ">",
    };
    let upper = match query.range.upper {
        Bound::Unbounded => "",
        Bound::Included(_) => "AND key <= ?6",
        Bound::Excluded(_) => "AND key < ?6",
    };
    let order = if query.reverse { "DESC" } else { "ASC" };
    format!(
        "SELECT {columns} FROM kv_entries
         WHERE app_id = ?1 AND collection = ?2 AND (expires_at IS NULL OR expires_at > ?3)
           AND key {lower} ?5 {upper}
         ORDER BY key {order} LIMIT ?4"
    )
}

/// Steps from one collection to the next through the primary key.
const COLLECTIONS: &str = "WITH RECURSIVE names (name) AS (
       SELECT min(collection) FROM kv_entries WHERE app_id = ?1 AND collection > ?2
       UNION ALL
       SELECT (SELECT min(collection) FROM kv_entries WHERE app_id = ?1 AND collection > name)
       FROM names WHERE name IS NOT NULL)
     SELECT name FROM names WHERE name IS NOT NULL LIMIT ?3";

pub(super) fn collections(
    connection: &Connection,
    app: AppId,
    after: Option<&Collection>,
    limit: u32,
) -> rusqlite::Result<Vec<Collection>> {
    let after = after.map_or("", Collection::as_str);
    connection
        .prepare_cached(COLLECTIONS)?
        .query_map((app.uuid().as_bytes(), after, limit), |row| {
            row.get(0).map(Collection::stored)
        })?
        .collect()
}
