//! A server and its dispatcher over a database that the test can access directly.

use kvasm::dispatch::{DispatchOptions, Dispatcher};
use kvasm::model::{App, Batch, Collection, Commit, Key, Op, Timestamp, Value};
use kvasm::service::HealthLimits;
use kvasm::store::{PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, Store};
use kvasm_store_testing::faulty::{Faults, FaultyStore};
use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::postgres::{fresh_database, shared};
use kvasm_tests::server::{Server, eventually};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Adds 1 to the entry "k" of "d" for each change in "c".
pub fn counter() -> Vec<u8> {
    counting(r#"{"kind":"on_change","name":"run","collection":"c"}"#)
}

/// Adds 1 to the entry "k" of "d" at each run of a schedule.
pub fn ticker() -> Vec<u8> {
    counting(r#"{"kind":"cron","name":"run","schedule":"0 0 1 1 *"}"#)
}

fn counting(when: &str) -> Vec<u8> {
    let add = "(drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
        (i64.const 1) (i32.const 16))) (i32.const 0)";
    module_with("dk", &manifest(&[when]), add)
}

/// The database, bypassing the host.
#[derive(Clone)]
pub enum Database {
    Sqlite(PathBuf),
    /// Its name on the shared cluster.
    Postgres(String),
}

impl Database {
    /// Runs SQL that both engines accept. Returns the first column of the first row, if any.
    pub async fn sql(&self, sql: &str) -> String {
        let (database, sql) = (self.clone(), sql.to_owned());
        let run = move || match database {
            Database::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.busy_timeout(Duration::from_secs(60)).unwrap();
                let mut statement = connection.prepare(&sql).unwrap();
                let mut rows = statement.query([]).unwrap();
                match rows.next().unwrap() {
                    Some(row) => row.get::<_, rusqlite::types::Value>(0).map(text).unwrap(),
                    None => String::new(),
                }
            }
            Database::Postgres(name) => shared().psql(&name, &sql).unwrap().trim().to_owned(),
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// The id of an app as an SQL literal of the engine.
    pub fn literal(&self, app: &App) -> String {
        let id = app.id.uuid();
        match self {
            Database::Sqlite(_) => format!("x'{}'", id.simple()),
            Database::Postgres(_) => format!("'{id}'"),
        }
    }

    /// Holds the lock of a statement until the returned value is dropped, on Postgres.
    pub async fn hold(&self, lock: &str) -> HeldLock {
        let Database::Postgres(name) = self else {
            panic!("SQLite has no locks of rows");
        };
        let (database, lock) = (name.clone(), format!("{lock}; SELECT pg_sleep(600)"));
        // `psql` fails once the hold is dropped.
        let session = std::thread::spawn(move || drop(shared().psql(&database, &lock)));
        eventually("the lock is held", async || {
            let held = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event = 'PgSleep'";
            self.sql(held).await == "1"
        })
        .await;
        HeldLock {
            database: name.clone(),
            session: Some(session),
        }
    }
}

fn text(value: rusqlite::types::Value) -> String {
    use rusqlite::types::Value;
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text,
        other => panic!("{other:?}"),
    }
}

/// A lock that is held until this is dropped.
pub struct HeldLock {
    database: String,
    session: Option<std::thread::JoinHandle<()>>,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event = 'PgSleep'";
        shared().psql(&self.database, end).unwrap();
        self.session.take().unwrap().join().unwrap();
    }
}

/// A server with a dispatcher that is not started yet.
pub struct BackgroundHost {
    pub server: Server,
    pub faults: Faults,
    pub database: Database,
    dispatcher: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    _folder: tempfile::TempDir,
}

impl BackgroundHost {
    pub async fn sqlite() -> BackgroundHost {
        BackgroundHost::sqlite_with(HealthLimits::default()).await
    }

    pub async fn sqlite_with(limits: HealthLimits) -> BackgroundHost {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvasm.db");
        let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
        let database = Database::Sqlite(path);
        BackgroundHost::over(Arc::new(store), database, folder, limits).await
    }

    pub async fn postgres(statement_timeout: Duration) -> BackgroundHost {
        let url = tokio::task::spawn_blocking(fresh_database).await.unwrap();
        let name = url.rsplit('/').next().unwrap().to_owned();
        let mut options = PostgresOptions::new(url);
        options.acquire_timeout = Duration::from_secs(60);
        options.statement_timeout = statement_timeout;
        let store = PostgresStore::connect(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (database, limits) = (Database::Postgres(name), HealthLimits::default());
        BackgroundHost::over(Arc::new(store), database, folder, limits).await
    }

    async fn over(
        store: Arc<dyn Store>,
        database: Database,
        folder: tempfile::TempDir,
        limits: HealthLimits,
    ) -> BackgroundHost {
        let (store, faults) = FaultyStore::over(store);
        BackgroundHost {
            server: Server::with(|builder| builder.shared_store(store).health(limits)).await,
            faults,
            database,
            dispatcher: None,
            _folder: folder,
        }
    }

    pub fn start(&mut self) {
        self.start_with(DispatchOptions::default());
    }

    pub fn start_with(&mut self, options: DispatchOptions) {
        let dispatcher = Dispatcher::new(self.server.host.clone(), options);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(dispatcher.run(async { drop(stopped.await) }));
        self.dispatcher = Some((stop, task));
    }

    /// Ends the dispatcher as a panic would.
    pub async fn abort(&mut self) {
        let (_stop, task) = self.dispatcher.take().unwrap();
        task.abort();
        drop(task.await);
    }

    pub async fn stop(mut self) {
        if let Some((stop, task)) = self.dispatcher.take() {
            drop(stop);
            task.await.unwrap();
        }
        self.server.stop().await;
    }

    /// Writes JSON to "c", bypassing the service, which would notify the dispatcher.
    pub async fn set(&self, app: &App, key: &str, expires_at: Option<Timestamp>) {
        let now = Timestamp::now();
        let set = Op::Set {
            collection: Collection::parse("c").unwrap(),
            key: Key::parse(key).unwrap(),
            value: Value::json("1", 10).unwrap(),
            expires_at,
        };
        let batch = Commit::new(app.id, now, Batch::of(vec![set]));
        self.server.host.store().commit(batch).await.unwrap();
    }

    /// The count in "k" of "d".
    pub async fn count(&self, app: &App) -> String {
        let (collection, key) = (Collection::parse("d").unwrap(), Key::parse("k").unwrap());
        let now = Timestamp::now();
        let store = self.server.host.store();
        let entry = store.get(app.id, &collection, &key, now).await.unwrap();
        entry.map_or_else(String::new, |entry| {
            String::from_utf8(entry.value.as_bytes().to_vec()).unwrap()
        })
    }

    /// Waits until "k" of "d" has this count.
    pub async fn wait_for_count(&self, app: &App, count: &str) {
        let what = format!("{} counts {count}", app.name);
        eventually(&what, async || self.count(app).await == count).await;
    }

    /// Whether a line of the metrics begins with this.
    pub fn has_metric(&self, series: &str) -> bool {
        let text = self.server.host.metrics().encode();
        text.lines().any(|line| line.starts_with(series))
    }
}
