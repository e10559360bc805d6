//! The embedded store: one SQLite file.
//!
//! Reads run inline on the calling thread, through pooled connections with
//! cached statements; long ones run on threads of their own (`places`). Writes go to
//! one thread that commits them in groups, app by app, and each is answered after the
//! commit that holds it.

mod ballast;
mod batch;
mod error;
mod grave;
mod links;
mod outbox;
mod places;
mod queue;
mod read;
mod registry;
mod schema;
mod shrink;
mod survey;
mod tally;
mod turns;
mod upkeep;
mod writer;

use super::{Migrate, Store, StoreError};
use crate::metrics::Metrics;
use crate::model::{
    App, AppId, AppName, Collection, Committed, Entry, Key, Link, ListQuery, Page, Timestamp,
    WriteBatch,
};
use async_trait::async_trait;
use ballast::Ballast;
use places::Places;
use read::Readers;
use rusqlite::Connection;
pub use shrink::IncrementalVacuum;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use survey::LogWatch;
use writer::{Transaction, Writer};

/// A page with values of at most so many rows is read on the thread that asks.
const SHORT_PAGE: u32 = 8;

/// How a SQLite store is opened.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The database file. It is created, readable by its owner only, if it is
    /// not there; its folder must exist.
    pub path: PathBuf,
    /// How long a write waits for another process that writes to the same file.
    /// Default 5 s.
    pub busy_timeout: Duration,
    /// Read connections that are kept open while idle. More are opened when
    /// more threads read at once. Default 8.
    pub idle_readers: usize,
    /// Bytes of a file beside the database, `-ballast`, that is removed when the disk is
    /// full, so that there is room for deletions. Until there is room for it again, only
    /// writes that free space are taken. Default 8 MiB; 0 for none.
    pub ballast: u64,
    /// Where the writer counts the sizes of its groups.
    pub metrics: Metrics,
    /// When the schema of the file may be brought up to date. Default: always.
    pub migrate: Migrate,
}

impl SqliteOptions {
    /// The defaults, for a file.
    pub fn new(path: impl Into<PathBuf>) -> SqliteOptions {
        SqliteOptions {
            path: path.into(),
            busy_timeout: Duration::from_secs(5),
            idle_readers: 8,
            ballast: 8 * 1024 * 1024,
            metrics: Metrics::default(),
            migrate: Migrate::default(),
        }
    }
}

/// A store in one SQLite file: WAL, `synchronous=FULL`.
pub struct SqliteStore {
    // Dropped first, so that the writer's connection is the last to close and
    // folds the log into the database.
    readers: Arc<Readers>,
    writer: Writer,
    places: Places,
    path: PathBuf,
    log_watch: Arc<LogWatch>,
}

impl SqliteStore {
    /// Opens the file, brings its schema up to date if it may be, and starts the writer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when another process holds the file,
    /// [`StoreError::Full`] when there is no room to open or migrate it,
    /// [`StoreError::Failed`] when it cannot be opened, is no database, was migrated by a
    /// newer version, or has an older schema that may not be changed.
    pub async fn open(options: SqliteOptions) -> Result<SqliteStore, StoreError> {
        create_private(&options.path).map_err(error::host)?;
        let mut ballast = Ballast::of(&options);
        match schema::migrate(&options).await {
            // Opening needs a little room, too.
            Err(error) if error::may_be_full(&error) && ballast.release() => {
                schema::migrate(&options).await?;
            }
            migrated => migrated?,
        }
        Ok(SqliteStore {
            readers: Arc::new(Readers::new(&options)?),
            writer: Writer::start(&options, ballast)?,
            places: Places::new(),
            path: options.path,
            log_watch: Arc::default(),
        })
    }
}

impl SqliteStore {
    /// Runs a long read of what an app owns when it has a place (`places`); `absent` is
    /// the answer of a deleted app.
    async fn read_long<T: Send + 'static>(
        &self,
        app: AppId,
        absent: impl FnOnce() -> T + Send + 'static,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = Arc::clone(&self.readers);
        let read = move || readers.of_app(app, absent, read);
        self.places.run(Some(app), read).await
    }
}

/// SQLite would create the file with the umask's permissions.
fn create_private(path: &std::path::Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            warn_if_others_can_read(path);
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// The steps by which a statement is carried out.
#[cfg(test)]
fn plan(connection: &Connection, sql: &str, parameters: &[&dyn rusqlite::ToSql]) -> Vec<String> {
    let explain = format!("EXPLAIN QUERY PLAN {sql}");
    let mut statement = connection.prepare(&explain).unwrap();
    let steps = statement.query_map(parameters, |row| row.get(3));
    steps.unwrap().map(Result::unwrap).collect()
}

/// A copy that was restored has the mode that its maker's umask gave it.
fn warn_if_others_can_read(path: &std::path::Path) {
    #[cfg(unix)]
    if let Ok(metadata) = path.metadata() {
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(
                "other users of this machine can open {} (mode {mode:o}); it holds the entries \
                 of all apps. Change that with `chmod 600`",
                path.display()
            );
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

#[async_trait]
impl Store for SqliteStore {
    async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError> {
        self.readers.with(|conn| read::app(conn, name))
    }

    async fn app_by_id(&self, app: AppId) -> Result<Option<App>, StoreError> {
        self.readers.with(|conn| read::app_by_id(conn, app))
    }

    async fn get_many(
        &self,
        app: AppId,
        keys: &[(Collection, Key)],
        now: Timestamp,
        bytes_max: usize,
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        let read = |conn: &_| read::get_many(conn, app, keys, now, bytes_max);
        let none = || Some(vec![None; keys.len()]);
        let entries = self.readers.of_app(app, none, read)?;
        entries.ok_or(StoreError::AnswerTooLarge { limit: bytes_max })
    }

    async fn apps(&self, after: Option<&AppName>, limit: u32) -> Result<Vec<App>, StoreError> {
        self.readers.with(|conn| read::apps(conn, after, limit))
    }

    async fn get(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<Option<Entry>, StoreError> {
        let read = |conn: &_| read::get(conn, app, collection, key, now);
        self.readers.of_app(app, Option::default, read)
    }

    async fn has(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let read = |conn: &_| read::version(conn, app, collection, key, now);
        let version = self.readers.of_app(app, Option::default, read)?;
        Ok(version.is_some())
    }

    async fn list(
        &self,
        app: AppId,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<Page, StoreError> {
        if !query.with_values || query.limit <= SHORT_PAGE {
            let read = |conn: &_| read::list(conn, app, query, now);
            return self.readers.of_app(app, Page::default, read);
        }
        let query = query.clone();
        let read = move |conn: &_| read::list(conn, app, &query, now);
        self.read_long(app, Page::default, read).await
    }

    async fn collections(
        &self,
        app: AppId,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, StoreError> {
        let read = |conn: &_| read::collections(conn, app, after, limit);
        self.readers.of_app(app, Vec::new, read)
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Committed, StoreError> {
        let work = batch::work(&batch);
        let link = batch.link.clone();
        let apply = move |transaction: &mut Transaction<'_>| batch::apply(transaction, &batch);
        // The writes of one app keep their order.
        let queued = || link.as_ref().map_or((), Link::queued);
        self.writer.run_after(work, apply, queued).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.probe().await
    }
}
