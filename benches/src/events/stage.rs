//! A host over a new store of either kind, and apps on it.

use crate::folders::folder;
use anyhow::{Context, Result, anyhow};
use kvasm::model::{App, AppName, Batch, Collection, Key, Op, Value};
use kvasm::service::Caller;
use kvasm::store::{PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, Store};
use kvasm::{Host, HostBuilder};
use kvasm_tests::postgres::{Cluster, Options};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;

/// The maximum number of operations in a batch.
const BATCH: usize = kvasm::service::BATCH_MAX;

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    pub const fn name(self) -> &'static str {
        match self {
            Engine::Sqlite => "SQLite",
            Engine::Postgres => "Postgres",
        }
    }
}

/// Opens a new store. The folder, if it has one, is removed when it is dropped.
pub async fn store(engine: Engine) -> Result<(Arc<dyn Store>, Option<TempDir>)> {
    match engine {
        Engine::Sqlite => {
            let folder = folder()?;
            let options = SqliteOptions::new(folder.path().join("bench.db"));
            Ok((Arc::new(SqliteStore::open(options).await?), Some(folder)))
        }
        Engine::Postgres => {
            let options = PostgresOptions::new(database()?);
            Ok((Arc::new(PostgresStore::connect(options).await?), None))
        }
    }
}

/// A host with a store of its own.
pub struct BenchHost {
    pub host: Host,
    _folder: Option<TempDir>,
}

impl BenchHost {
    pub async fn new(
        engine: Engine,
        set_up: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> Result<BenchHost> {
        let (store, folder) = store(engine).await?;
        Ok(BenchHost {
            host: set_up(Host::builder().shared_store(store)).build()?,
            _folder: folder,
        })
    }

    /// Creates an app with this module as its active plugin.
    pub async fn app(&self, name: &str, wasm: &[u8]) -> Result<App> {
        let name = AppName::parse(name)?;
        let app = self.host.create_app(name.clone()).await?;
        let actor = self.host.operator("bench");
        self.host.deploy(&actor, &app, wasm, true).await?;
        self.host.app(&name).await?.context("no app")
    }

    /// Writes `count` entries of `notes`, each with its own key, in as few commits as possible.
    pub async fn fill(&self, app: &App, count: usize) -> Result<()> {
        let caller = Caller::new(app, None);
        let numbers: Vec<_> = (0..count).collect();
        for chunk in numbers.chunks(BATCH) {
            let ops = chunk.iter().map(|n| note(*n)).collect::<Result<_>>()?;
            let batch = Batch::of(ops);
            self.host.kv().commit(&caller, batch).await?;
        }
        Ok(())
    }
}

/// A write of an entry of `notes` of about 100 bytes.
pub fn note(n: usize) -> Result<Op> {
    note_at(Key::parse(format!("{n:08}"))?)
}

/// The same under another key.
pub fn note_at(key: Key) -> Result<Op> {
    Ok(Op::Set {
        collection: Collection::parse("notes")?,
        key,
        value: Value::json(format!("{{\"a\":\"{}\"}}", "x".repeat(90)), 1024)?,
        expires_at: None,
    })
}

/// A custom section in the text format that declares functions and handlers.
pub fn manifest(lines: &[&str]) -> String {
    let text = lines.join(" ").replace('"', "\\\"");
    format!("(@custom \"{}\" \"{text}\")", kvasm_abi::MANIFEST_SECTION)
}

/// Returns the URL of a new database on a server with durable commits. The server stops with
/// this process.
pub fn database() -> Result<String> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTER.get_or_init(|| {
        Cluster::start(Options {
            durable: true,
            ..Options::default()
        })
        .map_err(|error| format!("{error:#}"))
    });
    let cluster = cluster.as_ref().map_err(|why| anyhow!("{why}"))?;
    let name = format!("bench_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    cluster.create_database(&name)?;
    Ok(cluster.url(&name))
}
