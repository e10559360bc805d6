//! The store on Postgres, for any number of hosts at once.
//!
//! `sql` has every statement, `read` and `commit` run what takes one of them,
//! `batch` what takes a transaction, worked out by `plan` and `increments`. `usage`
//! counts what entries and deliveries take and holds apps to their quotas.
//!
//! `fire` makes the deliveries of a transaction, `outbox` hands them out, `handling`
//! ends them, and `rows` decodes them. `registry` is the administrators' part, whose
//! operations are in `change`, `plugins`, `triggers` and `letters`.
//!
//! `pool` keeps the connections, `lease` lends one, `transaction` runs one until it
//! wins, and `classify` says what an error means.

mod batch;
mod change;
mod classify;
mod commit;
mod compact;
mod fire;
mod grave;
mod handling;
mod increments;
mod lease;
mod letters;
mod outbox;
mod plan;
mod plugins;
mod pool;
mod read;
mod registry;
mod rows;
mod sql;
mod survey;
mod transaction;
mod triggers;
mod upkeep;
mod usage;

use super::{Migrate, Schema, SchemaState, Store, StoreError};
use crate::model::{
    App, AppId, AppName, Collection, Committed, Entry, Key, ListQuery, Page, Timestamp, WriteBatch,
};
use async_trait::async_trait;
use classify::{migrate_error, store_error};
use pool::Pool;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

/// The bytes of the row that a probe writes.
const PROBE_BYTES: usize = 16 * 1024;

/// How a host reaches its Postgres.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`, with `?sslmode=` and the
    /// other parameters of libpq as far as sqlx knows them.
    pub url: String,
    /// The most connections that this host opens. Default 16.
    pub max_connections: u32,
    /// How long a call waits for a connection, whether all are in use or the
    /// server does not answer. Default 3 s.
    pub acquire_timeout: Duration,
    /// The longest that one statement may take. Default 5 s.
    pub statement_timeout: Duration,
    /// When the schema may be brought up to date. Default: always.
    pub migrate: Migrate,
}

impl PostgresOptions {
    /// The defaults, for a URL.
    pub fn new(url: impl Into<String>) -> PostgresOptions {
        PostgresOptions {
            url: url.into(),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(5),
            migrate: Migrate::default(),
        }
    }

    fn parse(&self) -> Result<PgConnectOptions, StoreError> {
        // Without the cause, which repeats parts of the URL.
        let unreadable = |_| {
            let why =
                "the Postgres URL is not valid; it is like postgres://user@host:5432/database";
            StoreError::Failed(why.into())
        };
        let options: PgConnectOptions = self.url.parse().map_err(unreadable)?;
        Ok(match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("kvasm"),
        })
    }
}

impl fmt::Debug for PostgresOptions {
    /// Without the URL, which can hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

/// A store in a Postgres database, which other hosts may use at the same time.
///
/// It survives the server: calls answer [`StoreError::Unavailable`] while the
/// server is away and work again when it is back.
pub struct PostgresStore {
    pool: Pool,
}

impl PostgresStore {
    /// Brings the schema up to date if it may be, and is ready. See
    /// [`migrate`](PostgresStore::migrate).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the server cannot be reached,
    /// [`StoreError::Failed`] for a URL, role or database that is not right, and for an
    /// older schema that may not be changed.
    pub async fn connect(options: PostgresOptions) -> Result<PostgresStore, StoreError> {
        PostgresStore::migrate(&options).await?;
        Ok(PostgresStore {
            pool: Pool::new(&options, options.parse()?),
        })
    }

    /// Brings the schema up to date. Any number of hosts may do so at once: one
    /// does it and the others wait.
    ///
    /// # Errors
    /// As [`connect`](PostgresStore::connect), and [`StoreError::Failed`] for a
    /// database that is not in UTF-8 or was migrated by a newer version.
    pub async fn migrate(options: &PostgresOptions) -> Result<(), StoreError> {
        // A connection of its own: a migration may take longer than a statement.
        let mut connection = connect(options).await?;
        check_encoding(&mut connection).await?;
        let schema = schema(&mut connection).await?;
        schema.check()?;
        if options.migrate == Migrate::Alone && schema.state() == SchemaState::Older {
            return Err(schema.refused());
        }
        // Not `run`: with it this future could not be spawned, for its bound on
        // `Acquire` holds for one lifetime only.
        MIGRATOR
            .run_direct(None, &mut connection, false)
            .await
            .map_err(migrate_error)?;
        connection.close().await.map_err(store_error)
    }

    /// Returns the schema that the database has, and the one that is needed. Changes
    /// nothing.
    ///
    /// # Errors
    /// As [`connect`](PostgresStore::connect).
    pub async fn schema(options: &PostgresOptions) -> Result<Schema, StoreError> {
        let mut connection = connect(options).await?;
        let schema = schema(&mut connection).await?;
        connection.close().await.map_err(store_error)?;
        Ok(schema)
    }

    /// Raises the versions of entries past all that were given after a backup was made,
    /// so that none of them comes back. For a database that was restored. Returns the
    /// last version that is skipped.
    ///
    /// # Errors
    /// As [`connect`](PostgresStore::connect).
    pub async fn skip_versions(options: &PostgresOptions) -> Result<i64, StoreError> {
        let mut connection = connect(options).await?;
        let skip = sqlx::query(sql::SKIP_VERSIONS).bind(SKIPPED_VERSIONS);
        let row = skip.fetch_one(&mut connection).await.map_err(store_error)?;
        let last = row.try_get(0).map_err(store_error)?;
        connection.close().await.map_err(store_error)?;
        Ok(last)
    }
}

/// More numbers than are drawn between a backup and its restore; see `kv_version` in the
/// schema. Few enough that hundreds of restores leave versions to be had.
const SKIPPED_VERSIONS: i64 = 1 << 45;

static MIGRATOR: Migrator = sqlx::migrate!("../migrations/postgres");

async fn connect(options: &PostgresOptions) -> Result<PgConnection, StoreError> {
    let connect = options.parse()?.disable_statement_logging();
    let connection = timeout(options.acquire_timeout, connect.connect()).await;
    connection
        .map_err(|e| StoreError::Unavailable(Box::new(e)))?
        .map_err(store_error)
}

async fn schema(connection: &mut PgConnection) -> Result<Schema, StoreError> {
    let has_schema = sqlx::query(sql::HAS_SCHEMA).fetch_one(&mut *connection);
    let row = has_schema.await.map_err(store_error)?;
    let found = match row.try_get(0).map_err(store_error)? {
        false => None,
        true => {
            let last = sqlx::query(sql::SCHEMA).fetch_one(&mut *connection);
            let row = last.await.map_err(store_error)?;
            row.try_get(0).map_err(store_error)?
        }
    };
    Ok(Schema::new(found, &MIGRATOR))
}

async fn check_encoding(connection: &mut PgConnection) -> Result<(), StoreError> {
    let row = sqlx::query(sql::ENCODING)
        .fetch_one(connection)
        .await
        .map_err(store_error)?;
    let encoding: String = row.try_get(0).map_err(store_error)?;
    if encoding == "UTF8" {
        return Ok(());
    }
    let why = format!("the database is encoded in {encoding}; it must be UTF8");
    Err(StoreError::Failed(why.into()))
}

#[async_trait]
impl Store for PostgresStore {
    async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError> {
        read::app(&self.pool, name).await
    }

    async fn app_by_id(&self, app: AppId) -> Result<Option<App>, StoreError> {
        read::app_by_id(&self.pool, app).await
    }

    async fn apps(&self, after: Option<&AppName>, limit: u32) -> Result<Vec<App>, StoreError> {
        read::apps(&self.pool, after, limit).await
    }

    async fn get(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<Option<Entry>, StoreError> {
        read::get(&self.pool, app, collection, key, now).await
    }

    async fn has(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (entry, _app) =
            read::has(&self.pool, app, collection.as_str(), key.as_str(), now).await?;
        Ok(entry)
    }

    async fn get_many(
        &self,
        app: AppId,
        keys: &[(Collection, Key)],
        now: Timestamp,
        bytes_max: usize,
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        read::get_many(&self.pool, app, keys, now, bytes_max).await
    }

    async fn list(
        &self,
        app: AppId,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<Page, StoreError> {
        read::list(&self.pool, app, query, now).await
    }

    async fn collections(
        &self,
        app: AppId,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, StoreError> {
        read::collections(&self.pool, app, after, limit).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Committed, StoreError> {
        commit::commit(&self.pool, &batch).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let now = Timestamp::now().0;
        let filler = vec![now.to_le_bytes()[0]; PROBE_BYTES];
        let probe = || sqlx::query(sql::PROBE).bind(now).bind(filler.as_slice());
        self.pool.read(probe).await.map(drop)
    }
}
