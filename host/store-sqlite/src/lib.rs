//! The embedded store: one SQLite file.
//!
//! Short reads run inline on the calling thread, through pooled connections with cached statements.
//! Long reads, and those that have to wait for the disk (`nowait`), run on separate threads
//! (`read_limiter`). Writes go to one thread, which commits them in groups, taking turns among apps, and
//! answers each after its commit.
#![deny(missing_docs)]

mod answers;
mod change_log;
mod commit;
mod entries;
mod error;
mod fair_queue;
mod grants;
mod hosts;
mod links;
#[allow(unsafe_code)]
mod log_head;
mod log_segments;
mod nowait;
mod outbox;
mod read_limiter;
mod registry;
mod reserved_space;
mod schema;
mod settings;
mod shrink;
mod survey;
mod tombstone;
mod upkeep;
mod usage;
mod writer;

use async_trait::async_trait;
use entries::Readers;
use kvasm_core::store::{Migrate, Store, StoreError};
use kvasm_core::{
    AnswerId, App, AppId, AppName, Collection, Commit, Committed, Entry, Generation, KeptAnswer,
    Key, Link, ListPage, ListQuery, Timestamp,
};
use kvasm_metrics::Metrics;
use log_head::{LogHead, Remembered};
use read_limiter::ReadLimiter;
use reserved_space::ReservedSpace;
use rusqlite::Connection;
pub use shrink::IncrementalVacuum;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use survey::LogWatch;
use writer::{WriteTransaction, Writer};

/// A page with values of at most this many rows is read on the calling thread.
const SHORT_PAGE: u32 = 8;

/// Options for opening a SQLite store.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The database file. If it does not exist, it is created, readable by its owner only; its
    /// folder must exist.
    pub path: PathBuf,
    /// How long a write waits for another process that is writing to the same file. Default 5 s.
    pub busy_timeout: Duration,
    /// Read connections that are kept open while idle. More are opened when more threads read at
    /// once. Default 8.
    pub idle_readers: usize,
    /// Page cache of each connection, in bytes, in addition to the system's cache of the file. A
    /// commit empties the caches of readers. Default [`CACHE`](SqliteOptions::CACHE).
    pub cache: usize,
    /// Size of the reserved space file, `-ballast` next to the database, in bytes. It is removed
    /// when the disk is full, so that there is space for deletions. Until there is space for it
    /// again, only writes that free space are accepted. Default 8 MiB; 0 for no file.
    pub ballast: u64,
    /// Metrics of the writer.
    pub metrics: Metrics,
    /// When the schema of the file may be migrated. Default: always.
    pub migrate: Migrate,
}

impl SqliteOptions {
    /// The default of [`cache`](SqliteOptions::cache): 2 MiB.
    pub const CACHE: usize = 2 * 1024 * 1024;

    /// Returns the default options for a file.
    pub fn new(path: impl Into<PathBuf>) -> SqliteOptions {
        SqliteOptions {
            path: path.into(),
            busy_timeout: Duration::from_secs(5),
            idle_readers: 8,
            cache: SqliteOptions::CACHE,
            ballast: 8 * 1024 * 1024,
            metrics: Metrics::default(),
            migrate: Migrate::default(),
        }
    }
}

/// A store in one SQLite file, with WAL and `synchronous=FULL`.
pub struct SqliteStore {
    // Dropped first, so that the writer's connection is the last to close and checkpoints the log.
    readers: Arc<Readers>,
    generation: Remembered<Generation>,
    writer: Writer,
    places: ReadLimiter,
    cold_places: ReadLimiter,
    path: PathBuf,
    log_watch: Arc<LogWatch>,
    logs: Arc<log_segments::LogFile>,
    // Dropped last, after the writer's connection.
    _kept: Option<Arc<File>>,
}

impl SqliteStore {
    /// Opens the file, migrates its schema if allowed, and starts the writer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if another process locks the file, [`StoreError::Full`] if there
    /// is no space to open or migrate it, [`StoreError::Failed`] if it cannot be opened, is not a
    /// database, was migrated by a newer version, or has an older schema that may not be migrated.
    pub async fn open(options: SqliteOptions) -> Result<SqliteStore, StoreError> {
        create_private(&options.path).map_err(error::host)?;
        let mut ballast = ReservedSpace::of(&options);
        match schema::migrate(&options).await {
            // Opening needs a little space, too.
            Err(error) if error::may_be_full(&error) && ballast.release() => {
                schema::migrate(&options).await?;
            }
            migrated => migrated?,
        }
        let kept = nowait::keep(&options.path);
        let readers = Readers::new(&options);
        // Fails now if the file cannot be read.
        let first = readers.one().map_err(error::store)?;
        Ok(SqliteStore {
            generation: Remembered::new(LogHead::of(first)),
            readers: Arc::new(readers),
            writer: Writer::start(&options, ballast)?,
            places: ReadLimiter::long(),
            cold_places: ReadLimiter::cold(),
            logs: Arc::new(log_segments::LogFile::beside(&options)),
            path: options.path,
            log_watch: Arc::default(),
            _kept: kept,
        })
    }
}

impl SqliteStore {
    /// Runs a long read of an app's rows once it gets a permit (`read_limiter`). `absent` is the result
    /// for a deleted app.
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

    /// Runs a short read on this thread. If it would have to wait for the disk, runs the equivalent
    /// read that `later` returns once it gets a permit.
    async fn read_short<T, L>(
        &self,
        app: Option<AppId>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
        later: impl FnOnce() -> L,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        L: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        if let Some(done) = self.readers.at_once(read)? {
            return Ok(done);
        }
        let (readers, later) = (Arc::clone(&self.readers), later());
        let read = move || readers.with(later);
        self.cold_places.run(app, read).await
    }

    /// As above, for a read of an app's rows. `absent` is the result for a deleted app.
    async fn read_short_of<T, L>(
        &self,
        app: AppId,
        absent: fn() -> T,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
        later: impl FnOnce() -> L,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        L: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let whole = |conn: &_| entries::unless_buried(conn, app, absent, read);
        let later = || {
            let later = later();
            move |conn: &_| entries::unless_buried(conn, app, absent, later)
        };
        self.read_short(Some(app), whole, later).await
    }
}

/// Sets the size of a connection's page cache.
fn set_cache(connection: &Connection, bytes: usize) -> rusqlite::Result<()> {
    // A negative number means KiB.
    let kib = i64::try_from(bytes / 1024).unwrap_or(i64::MAX);
    connection.pragma_update(None, "cache_size", -kib.min(i64::from(i32::MAX)))
}

/// Creates the file of the store, or warns if others can read the one that exists.
fn create_private(path: &std::path::Path) -> std::io::Result<()> {
    if !create_file(path)? {
        warn_if_others_can_read(path);
    }
    Ok(())
}

/// Creates a file for its owner only, and returns whether it did not exist. Otherwise SQLite would
/// create it with the permissions of the umask.
fn create_file(path: &std::path::Path) -> std::io::Result<bool> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// Returns the query plan of a statement.
#[cfg(test)]
fn plan(connection: &Connection, sql: &str, parameters: &[&dyn rusqlite::ToSql]) -> Vec<String> {
    let explain = format!("EXPLAIN QUERY PLAN {sql}");
    let mut statement = connection.prepare(&explain).unwrap();
    let steps = statement.query_map(parameters, |row| row.get(3));
    steps.unwrap().map(Result::unwrap).collect()
}

/// A restored copy has the permissions of the umask with which it was created.
fn warn_if_others_can_read(path: &std::path::Path) {
    #[cfg(unix)]
    if let Ok(metadata) = path.metadata() {
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(
                "{} is accessible to other users (mode {mode:o}) and contains the entries \
                 of all apps; restrict it with `chmod 600`",
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
        let read = |conn: &_| entries::app(conn, name);
        let later = || {
            let name = name.clone();
            move |conn: &_| entries::app(conn, &name)
        };
        self.read_short(None, read, later).await
    }

    async fn app_by_id(&self, app: AppId) -> Result<Option<App>, StoreError> {
        let read = move |conn: &_| entries::app_by_id(conn, app);
        self.read_short(None, read, || read).await
    }

    async fn get_many(
        &self,
        app: AppId,
        keys: &[(Collection, Key)],
        now: Timestamp,
        bytes_max: usize,
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        let read = |conn: &_| entries::get_many(conn, app, keys, now, bytes_max).map(Some);
        let later = || {
            let keys = keys.to_vec();
            move |conn: &_| entries::get_many(conn, app, &keys, now, bytes_max).map(Some)
        };
        match self.read_short_of(app, || None, read, later).await? {
            // The app is deleted.
            None => Ok(vec![None; keys.len()]),
            Some(entries) => entries.ok_or(StoreError::AnswerTooLarge { limit: bytes_max }),
        }
    }

    async fn apps(&self, after: Option<&AppName>, limit: u32) -> Result<Vec<App>, StoreError> {
        let read = |conn: &_| entries::apps(conn, after, limit);
        let later = || {
            let after = after.cloned();
            move |conn: &_| entries::apps(conn, after.as_ref(), limit)
        };
        self.read_short(None, read, later).await
    }

    async fn get(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<Option<Entry>, StoreError> {
        let read = |conn: &_| entries::get(conn, app, collection, key, now);
        let later = || {
            let (collection, key) = (collection.clone(), key.clone());
            move |conn: &_| entries::get(conn, app, &collection, &key, now)
        };
        self.read_short(Some(app), read, later).await
    }

    async fn has(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let read = |conn: &_| entries::version(conn, app, collection, key, now);
        let later = || {
            let (collection, key) = (collection.clone(), key.clone());
            move |conn: &_| entries::version(conn, app, &collection, &key, now)
        };
        let version = self.read_short_of(app, || None, read, later).await?;
        Ok(version.is_some())
    }

    async fn list(
        &self,
        app: AppId,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<ListPage, StoreError> {
        let later = || {
            let query = query.clone();
            move |conn: &_| entries::list(conn, app, &query, now)
        };
        if !query.with_values || query.limit <= SHORT_PAGE {
            let read = |conn: &_| entries::list(conn, app, query, now);
            return self
                .read_short_of(app, ListPage::default, read, later)
                .await;
        }
        self.read_long(app, ListPage::default, later()).await
    }

    async fn collections(
        &self,
        app: AppId,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, StoreError> {
        let read = |conn: &_| entries::collections(conn, app, after, limit);
        let later = || {
            let after = after.cloned();
            move |conn: &_| entries::collections(conn, app, after.as_ref(), limit)
        };
        self.read_short_of(app, Vec::new, read, later).await
    }

    async fn answer(
        &self,
        app: AppId,
        id: AnswerId,
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        let read = move |conn: &_| answers::get(conn, app, id, now);
        self.read_short(Some(app), read, || read).await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        let work = commit::work(&commit);
        let link = commit.batch.link.clone();
        let apply =
            move |transaction: &mut WriteTransaction<'_>| commit::apply(transaction, &commit);
        // The writes of one app keep their order.
        let queued = || link.as_ref().map_or((), Link::queued);
        self.writer.run_after(work, apply, queued).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.probe().await
    }
}
