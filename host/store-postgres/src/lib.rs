//! The Postgres store, for any number of hosts at once.
//!
//! `sql` has every statement. `entries` and `commit` run operations of a single statement, `single_trip`
//! calls a database function that commits a whole batch, and `batch` runs batches that require a
//! transaction, prepared by `plan` and `increments`. `usage` counts what entries and deliveries
//! use, and enforces quotas. `answers` keeps those of idempotent calls.
//!
//! `fire` creates the deliveries of a transaction, `outbox` hands them out (`scan_start` has the
//! starting points of scans), `handling` ends them, and `rows` decodes them. `log_segments` keeps the
//! logs of apps. `registry` has the
//! methods for administrators, whose operations are in `change`, `plugins`, `triggers`, `dead_letters`
//! and `outstanding`.
//!
//! `connector` opens connections, `pool` keeps them, `lease` lends one, `transaction` retries a
//! transaction until it wins, and `classify` maps errors. `migrate` is the startup, where
//! `sessions` and `shortage` check the server.
#![deny(missing_docs)]

mod answers;
mod batch;
mod change;
mod change_log;
mod classify;
mod clock_repair;
mod commit;
mod compact;
mod connector;
mod dead_letters;
mod entries;
mod fire;
mod grants;
mod handling;
mod hosts;
mod increments;
mod lease;
mod log_segments;
mod migrate;
mod outbox;
mod outstanding;
mod plan;
mod plugins;
mod pool;
mod registry;
mod rows;
mod scan_start;
mod sessions;
mod settings;
mod shortage;
mod single_trip;
mod sql;
mod survey;
mod timers;
mod tls;
mod tombstone;
mod transaction;
mod triggers;
mod upkeep;
mod usage;

use async_trait::async_trait;
use change_log::ChangePositions;
use connector::Connector;
use kvasm_core::store::{Migrate, Schema, Store, StoreError};
use kvasm_core::{
    AnswerId, App, AppId, AppName, Collection, Commit, Committed, Entry, KeptAnswer, Key, ListPage,
    ListQuery, Timestamp,
};
use kvasm_metrics::Metrics;
use parking_lot::Mutex;
use pool::Pool;
use scan_start::Horizons;
use sqlx::Row;
use std::fmt;
use std::time::{Duration, Instant};

/// The size of the row that a probe writes, in bytes.
const PROBE_BYTES: usize = 16 * 1024;
/// How often a probe also queries the oldest snapshot.
const SNAPSHOTS_INTERVAL: Duration = Duration::from_secs(10);

/// Options for connecting to Postgres.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`, with `?sslmode=` and the other libpq
    /// parameters that sqlx supports.
    pub url: String,
    /// The maximum number of connections that this host opens. Default 16.
    pub max_connections: u32,
    /// How long a call waits for a connection, whether all are in use or the server does not
    /// answer. Default 3 s.
    pub acquire_timeout: Duration,
    /// The timeout of a statement, at least 1 ms. Default 5 s.
    pub statement_timeout: Duration,
    /// When the schema may be migrated. Default: always.
    pub migrate: Migrate,
    /// How long a migration waits for a lock: that of another migrating host, or of any session
    /// that uses a table. Default 60 s.
    pub lock_timeout: Duration,
    /// Metrics, for the age of the oldest snapshot.
    pub metrics: Metrics,
}

impl PostgresOptions {
    /// Returns the default options for a URL.
    pub fn new(url: impl Into<String>) -> PostgresOptions {
        PostgresOptions {
            url: url.into(),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(5),
            migrate: Migrate::default(),
            lock_timeout: Duration::from_secs(60),
            metrics: Metrics::default(),
        }
    }
}

impl fmt::Debug for PostgresOptions {
    /// Omits the URL, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .finish_non_exhaustive()
    }
}

/// A store in a Postgres database, which other hosts may use at the same time.
///
/// It survives restarts of the server: calls fail with [`StoreError::Unavailable`] while the server
/// is down, and work again once it is back.
pub struct PostgresStore {
    pool: Pool,
    metrics: Metrics,
    /// When the oldest snapshot was last queried.
    looked_at_snapshots: Mutex<Option<Instant>>,
    horizons: Horizons,
    change_positions: ChangePositions,
}

impl PostgresStore {
    /// Connects to the database, and migrates its schema if allowed. See
    /// [`migrate`](PostgresStore::migrate).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the server cannot be reached or is at its connection limit,
    /// [`StoreError::Failed`] for an invalid URL, role or database, for a pooler that shares
    /// sessions between clients, and for an older schema that may not be migrated.
    pub async fn connect(options: PostgresOptions) -> Result<PostgresStore, StoreError> {
        let connector = Connector::new(&options)?;
        migrate::prepare(&connector, &options).await?;
        Ok(PostgresStore {
            pool: Pool::new(&options, connector),
            metrics: options.metrics,
            looked_at_snapshots: Mutex::default(),
            horizons: Horizons::default(),
            change_positions: ChangePositions::default(),
        })
    }

    /// Migrates the schema. Any number of hosts may do so at once: one does it while the others
    /// wait. A schema that is current is only read, which waits for nothing and needs no privilege
    /// to change it.
    ///
    /// # Errors
    /// As [`connect`](PostgresStore::connect); [`StoreError::Unavailable`] if another session holds
    /// a lock for longer than `lock_timeout`; [`StoreError::Failed`] for a database that is not in
    /// UTF-8 or was migrated by a newer version.
    pub async fn migrate(options: &PostgresOptions) -> Result<(), StoreError> {
        migrate::prepare(&Connector::new(options)?, options).await
    }

    /// Returns the schema of the database, and the required one. Changes nothing.
    ///
    /// # Errors
    /// As [`connect`](PostgresStore::connect).
    pub async fn schema(options: &PostgresOptions) -> Result<Schema, StoreError> {
        migrate::schema(&Connector::new(options)?, options).await
    }

    /// Advances the versions of entries beyond all that were assigned after a backup was made, so
    /// that none is reused. For a restored database. Returns the last skipped version.
    ///
    /// # Errors
    /// As [`connect`](PostgresStore::connect).
    pub async fn skip_versions(options: &PostgresOptions) -> Result<i64, StoreError> {
        migrate::skip_versions(&Connector::new(options)?, options).await
    }
}

impl PostgresStore {
    /// Queries the age of the oldest snapshot, at intervals.
    async fn look_at_snapshots(&self) -> Result<(), StoreError> {
        let due = {
            let mut last = self.looked_at_snapshots.lock();
            let due = last.is_none_or(|last| last.elapsed() >= SNAPSHOTS_INTERVAL);
            if due {
                *last = Some(Instant::now());
            }
            due
        };
        if due {
            let rows = self
                .pool
                .read(|| sqlx::query(sql::server_sql::OLDEST_SNAPSHOT))
                .await?;
            let seconds = rows.first().map(|row| row.try_get(0)).transpose();
            let seconds = seconds.map_err(classify::store_error)?.unwrap_or(0);
            self.metrics.oldest_snapshot(seconds);
        }
        Ok(())
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError> {
        entries::app(&self.pool, name).await
    }

    async fn app_by_id(&self, app: AppId) -> Result<Option<App>, StoreError> {
        entries::app_by_id(&self.pool, app).await
    }

    async fn apps(&self, after: Option<&AppName>, limit: u32) -> Result<Vec<App>, StoreError> {
        entries::apps(&self.pool, after, limit).await
    }

    async fn get(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<Option<Entry>, StoreError> {
        entries::get(&self.pool, app, collection, key, now).await
    }

    async fn has(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (entry, _app) =
            entries::has(&self.pool, app, collection.as_str(), key.as_str(), now).await?;
        Ok(entry)
    }

    async fn answer(
        &self,
        app: AppId,
        id: AnswerId,
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        answers::get(&self.pool, app, id, now).await
    }

    async fn get_many(
        &self,
        app: AppId,
        keys: &[(Collection, Key)],
        now: Timestamp,
        bytes_max: usize,
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        entries::get_many(&self.pool, app, keys, now, bytes_max).await
    }

    async fn list(
        &self,
        app: AppId,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<ListPage, StoreError> {
        entries::list(&self.pool, app, query, now).await
    }

    async fn collections(
        &self,
        app: AppId,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, StoreError> {
        entries::collections(&self.pool, app, after, limit).await
    }

    async fn commit(&self, batch: Commit) -> Result<Committed, StoreError> {
        commit::commit(&self.pool, &batch).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let now = Timestamp::now().0;
        let filler = vec![now.to_le_bytes()[0]; PROBE_BYTES];
        let probe = || {
            sqlx::query(sql::server_sql::PROBE)
                .bind(now)
                .bind(filler.as_slice())
        };
        self.pool.read(probe).await?;
        // The gauge does not affect whether the store accepts writes.
        if let Err(error) = self.look_at_snapshots().await {
            tracing::debug!(%error, "cannot query the oldest snapshot");
        }
        Ok(())
    }
}
