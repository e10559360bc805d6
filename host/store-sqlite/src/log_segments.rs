//! Logs of apps and records of their calls, in a database file of their own: their writes share neither a lock nor a sync of
//! the disk with commits. The file is created by the first write.

use super::{SqliteOptions, SqliteStore, create_file, error, set_cache};
use async_trait::async_trait;
use kvasm_core::AppId;
use kvasm_core::store::backend::signed;
use kvasm_core::store::{LogSegment, LogStore, SegmentKind, SegmentQuery, StoreError};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, Row};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The version of the file's schema. A file of an earlier version is brought to it; one of a later
/// version is not used.
const SCHEMA: i64 = 2;
/// Page cache of a connection, in bytes.
const CACHE: usize = 512 * 1024;
/// Maximum number of free pages that are returned to the file system after a removal.
const PAGES_RETURNED: i64 = 256;

/// The statements about the segments of one kind, which have a table of their own.
struct SegmentSql {
    create: &'static str,
    append: &'static str,
    page: &'static str,
    prune_old: &'static str,
    prune_excess: &'static str,
    apps: &'static str,
}

macro_rules! statements_of {
    ($table:literal) => {
        SegmentSql {
            create: concat!(
                "CREATE TABLE IF NOT EXISTS ",
                $table,
                " (
    app_id  BLOB    NOT NULL,
    last    INTEGER NOT NULL,
    id      BLOB    NOT NULL,
    first   INTEGER NOT NULL,
    host    BLOB    NOT NULL,
    records INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    body    BLOB    NOT NULL,
    PRIMARY KEY (app_id, last, id)
) STRICT"
            ),
            append: concat!(
                "INSERT INTO ",
                $table,
                " (app_id, last, id, first, host, records, bytes, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING"
            ),
            page: concat!(
                "SELECT last, id, first, host, records, body FROM ",
                $table,
                " WHERE app_id = ?1 AND last >= ?2 AND (last, id) < (?3, ?4) AND first <= ?5
    AND host IS NOT ?6 ORDER BY last DESC, id DESC LIMIT ?7"
            ),
            prune_old: concat!(
                "DELETE FROM ",
                $table,
                " WHERE rowid IN (SELECT rowid FROM ",
                $table,
                " WHERE app_id = ?1 AND last < ?2 ORDER BY last, id LIMIT ?3)"
            ),
            prune_excess: concat!(
                "DELETE FROM ",
                $table,
                " WHERE rowid IN (SELECT rowid FROM
    (SELECT rowid, last, id, sum(bytes) OVER (ORDER BY last DESC, id DESC) AS total
     FROM ",
                $table,
                " WHERE app_id = ?1) WHERE total > ?2 ORDER BY last, id LIMIT ?3)"
            ),
            apps: concat!(
                "WITH RECURSIVE found (app_id) AS
    (SELECT (SELECT app_id FROM ",
                $table,
                " WHERE app_id > ?1 ORDER BY app_id LIMIT 1)
     UNION ALL
     SELECT (SELECT app_id FROM ",
                $table,
                " WHERE app_id > f.app_id ORDER BY app_id LIMIT 1)
     FROM found AS f WHERE f.app_id IS NOT NULL)
    SELECT app_id FROM found WHERE app_id IS NOT NULL LIMIT ?2"
            ),
        }
    };
}

const LINES: SegmentSql = statements_of!("log_segments");
const CALLS: SegmentSql = statements_of!("call_segments");

fn about(kind: SegmentKind) -> &'static SegmentSql {
    match kind {
        SegmentKind::Lines => &LINES,
        SegmentKind::Calls => &CALLS,
    }
}

/// Creates the tables that a file does not have yet, all or none. Another process may do the same.
fn create(connection: &Connection) -> rusqlite::Result<()> {
    let (lines, calls) = (LINES.create, CALLS.create);
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {lines}; {calls}; PRAGMA user_version = {SCHEMA}; COMMIT;"
    ))
}

/// The file, and a connection for each direction, so that reads and writes do not wait for each
/// other.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    busy_timeout: Duration,
    writer: Mutex<Option<Connection>>,
    reader: Mutex<Option<Connection>>,
}

impl LogFile {
    /// Returns the file beside that of a store, unopened.
    pub(super) fn beside(options: &SqliteOptions) -> LogFile {
        let mut path = options.path.as_os_str().to_owned();
        path.push(".logs");
        LogFile {
            path: path.into(),
            busy_timeout: options.busy_timeout,
            writer: Mutex::default(),
            reader: Mutex::default(),
        }
    }

    fn open(&self) -> Result<Connection, StoreError> {
        create_file(&self.path).map_err(error::host)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(error::store)?;
        let prepare = || {
            connection.busy_timeout(self.busy_timeout)?;
            set_cache(&connection, CACHE)?;
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            // The disk is synced only by checkpoints. A crash of the machine loses the last
            // segments, and damages nothing.
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        };
        match prepare().map_err(error::store)? {
            SCHEMA => {}
            0..SCHEMA => create(&connection).map_err(error::store)?,
            other => {
                let why = format!("the file of logs has the unknown schema {other}");
                return Err(StoreError::Failed(why.into()));
            }
        }
        Ok(connection)
    }

    /// Runs a statement on a separate thread. The connection is closed after an error, and opened
    /// again by the next call.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        side: impl Fn(&LogFile) -> &Mutex<Option<Connection>> + Send + 'static,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(self);
        let run = move || {
            let mut held = side(&file).lock();
            let connection = match held.take() {
                Some(connection) => connection,
                None => file.open()?,
            };
            let done = work(&connection).map_err(error::store)?;
            *held = Some(connection);
            Ok(done)
        };
        tokio::task::spawn_blocking(run)
            .await
            .map_err(error::host)?
    }

    async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(|file| &file.writer, work).await
    }

    /// As above, without creating the file: `None` if there is none.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        if !self.path.exists() {
            return Ok(None);
        }
        self.run(|file| &file.reader, work).await.map(Some)
    }
}

fn segment(kind: SegmentKind, app: AppId, row: &Row<'_>) -> rusqlite::Result<LogSegment> {
    Ok(LogSegment {
        kind,
        app,
        last: row.get::<_, i64>(0)?.unsigned_abs(),
        id: super::entries::uuid_of(row, 1)?,
        first: row.get::<_, i64>(2)?.unsigned_abs(),
        host: super::entries::uuid_of(row, 3)?,
        records: row.get(4)?,
        body: row.get::<_, Vec<u8>>(5)?.into(),
    })
}

#[async_trait]
impl LogStore for SqliteStore {
    async fn append_log(&self, segment: &LogSegment) -> Result<(), StoreError> {
        let new = segment.clone();
        let append = move |connection: &Connection| {
            let row = (
                new.app.uuid().into_bytes(),
                signed(new.last),
                new.id.as_bytes(),
                signed(new.first),
                new.host.as_bytes(),
                new.records,
                new.body.len() as i64,
                &new.body[..],
            );
            let append = about(new.kind).append;
            connection.prepare_cached(append)?.execute(row).map(drop)
        };
        self.logs.write(append).await
    }

    async fn log_segments(
        &self,
        app: AppId,
        query: &SegmentQuery,
    ) -> Result<Vec<LogSegment>, StoreError> {
        let query = *query;
        let (last, id) = query.before.unwrap_or((u64::MAX, uuid::Uuid::max()));
        let read = move |connection: &Connection| {
            let mut page = connection.prepare_cached(about(query.kind).page)?;
            let key = (
                app.uuid().into_bytes(),
                signed(query.from),
                signed(last),
                id.as_bytes(),
                signed(query.to),
                query.not_of.map(uuid::Uuid::into_bytes),
                query.limit,
            );
            let rows = page.query_map(key, |row| segment(query.kind, app, row))?;
            rows.collect()
        };
        Ok(self.logs.read(read).await?.unwrap_or_default())
    }

    async fn prune_log(
        &self,
        app: AppId,
        kind: SegmentKind,
        before: u64,
        bytes_max: u64,
        limit: u32,
    ) -> Result<u64, StoreError> {
        if !self.logs.path.exists() {
            return Ok(0);
        }
        let prune = move |connection: &Connection| {
            let app = app.uuid();
            let mut old = connection.prepare_cached(about(kind).prune_old)?;
            let old = old.execute((app.as_bytes(), signed(before), limit))?;
            let left = i64::from(limit) - old as i64;
            let mut excess = connection.prepare_cached(about(kind).prune_excess)?;
            let excess = match bytes_max {
                u64::MAX => 0,
                _ => excess.execute((app.as_bytes(), signed(bytes_max), left.max(0)))?,
            };
            if old + excess > 0 {
                return_pages(connection)?;
            }
            Ok((old + excess) as u64)
        };
        self.logs.write(prune).await
    }

    async fn apps_with_log(
        &self,
        kind: SegmentKind,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, StoreError> {
        let after = after.map_or(Vec::new(), |app| app.uuid().as_bytes().to_vec());
        let read = move |connection: &Connection| {
            let mut apps = connection.prepare_cached(about(kind).apps)?;
            let rows = apps.query_map((after, limit), |row| {
                super::entries::uuid_of(row, 0).map(AppId::from)
            })?;
            rows.collect()
        };
        Ok(self.logs.read(read).await?.unwrap_or_default())
    }
}

/// Returns some free pages to the file system, if many are free.
fn return_pages(connection: &Connection) -> rusqlite::Result<()> {
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    let pages = (free - PAGES_RETURNED).min(PAGES_RETURNED);
    if pages > 0 {
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}
