//! A SQLite file with many entries, filled directly but with the store's schema.

use crate::folders::folder;
use crate::http::servers;
use anyhow::{Context, Result};
use kvasm::Host;
use kvasm::model::{App, AppName};
use kvasm::store::{SqliteOptions, SqliteStore};
use kvasm_tests::guests;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// The variable with a folder in which filled files are kept for the next run.
const KEPT: &str = "KVASM_BENCH_STORES";
/// The app with many entries, and one with [`FEW`].
pub const LARGE: &str = "large";
pub const SMALL: &str = "small";
pub const FEW: u64 = 1_000;

/// The collection of all entries.
const COLLECTION: &str = "large";
/// 100 bytes of JSON text.
const VALUE_BYTES: usize = 100;

/// The file; removed when the last clone is dropped, unless it is kept.
#[derive(Clone)]
pub struct LargeFile {
    pub entries: u64,
    pub path: PathBuf,
    _folder: Option<Arc<TempDir>>,
}

impl LargeFile {
    /// Fills a file, or uses one that an earlier run has kept.
    pub async fn of(entries: u64) -> Result<LargeFile> {
        let (place, folder) = match std::env::var_os(KEPT) {
            Some(kept) => (PathBuf::from(kept), None),
            None => {
                let folder = folder()?;
                (folder.path().to_owned(), Some(Arc::new(folder)))
            }
        };
        let path = place.join(format!("large-{entries}.db"));
        let filled = path.with_extension("filled");
        if !filled.exists() {
            std::fs::create_dir_all(&place)?;
            for (app, entries) in [(SMALL, FEW), (LARGE, entries)] {
                let app = make(&path, app).await?;
                let to = path.clone();
                tokio::task::spawn_blocking(move || fill(&to, &app, entries)).await??;
            }
            std::fs::write(&filled, "")?;
        }
        Ok(LargeFile {
            entries,
            path,
            _folder: folder,
        })
    }

    /// Opens a host over the file, with a connection cache of `cache` bytes.
    pub async fn open(&self, cache: usize) -> Result<Host> {
        let options = SqliteOptions {
            cache,
            ..SqliteOptions::new(&self.path)
        };
        let store = SqliteStore::open(options).await?;
        Ok(Host::builder()
            .store(store)
            .limits(crate::generous())
            .build()?)
    }

    /// The size of the database file in bytes.
    pub fn bytes(&self) -> Result<u64> {
        Ok(self.path.metadata()?.len())
    }

    /// Loads the whole file into the page cache.
    pub fn warm(&self) -> Result<()> {
        let from = format!("if={}", self.path.display());
        crate::reads::dd(&[&from, "of=/dev/null", "bs=1M"])
    }

    /// Evicts the file and its write-ahead log from the page cache.
    pub fn cool(&self) -> Result<()> {
        crate::reads::drop_cache(&self.path)?;
        let log = self.path.with_extension("db-wal");
        if log.exists() {
            crate::reads::drop_cache(&log)?;
        }
        Ok(())
    }
}

/// Creates a public app without limits, with the SDK plugin.
async fn make(path: &Path, name: &str) -> Result<App> {
    let store = SqliteStore::open(SqliteOptions::new(path)).await?;
    let host = Host::builder().store(store).build()?;
    servers::make_app(&host, name, guests::wasm("sdk")).await?;
    host.app(&AppName::parse(name)?).await?.context("no app")
}

/// Writes entries in an order other than that of their keys, as in an app that has grown.
fn fill(path: &Path, app: &App, entries: u64) -> Result<()> {
    let connection = Connection::open(path)?;
    // The store is closed, and losing the file does no harm.
    connection.pragma_update(None, "journal_mode", "MEMORY")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "cache_size", -1_000_000)?;
    let id = app.id.uuid().into_bytes();
    let value = format!("\"{}\"", "x".repeat(VALUE_BYTES - 2));
    let first: i64 = connection.query_row("SELECT last FROM kv_version", [], |row| row.get(0))?;
    let size = (COLLECTION.len() + 8 + VALUE_BYTES) as i64;
    connection.execute_batch("BEGIN")?;
    {
        let mut insert = connection
            .prepare("INSERT INTO kv_entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, NULL)")?;
        for n in 0..entries {
            // A factor that is coprime to powers of ten, and to twice a power of ten.
            let key = format!("{:08}", n.wrapping_mul(2_654_435_761) % entries);
            let version = first + 1 + n as i64;
            insert.execute((
                id,
                COLLECTION,
                key,
                &value,
                size,
                version,
                1_700_000_000_000_i64,
            ))?;
            if n % 1_000_000 == 999_999 {
                connection.execute_batch("COMMIT; BEGIN")?;
            }
        }
    }
    let count = entries as i64;
    connection.execute("UPDATE kv_version SET last = last + ?1", [count])?;
    let bytes = count * (size + kvasm::model::ENTRY_BYTES as i64);
    connection.execute(
        "UPDATE app_usage SET entries = entries + ?2, bytes = bytes + ?3 WHERE app_id = ?1",
        (id, count, bytes),
    )?;
    connection.execute_batch("COMMIT")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(())
}
