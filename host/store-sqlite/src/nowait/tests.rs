//! Reads of files whose pages are not in the page cache.

use super::*;
use crate::{SqliteOptions, SqliteStore, entries};
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{AppId, AppName, Batch, Collection, Commit, Entry, Key, Op, Timestamp, Value};
use kvasm_host::Host;
use kvasm_metrics::Metrics;
use rusqlite::Connection;
use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::io::IoSliceMut;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

const ENTRIES: usize = 200;
const VALUE_BYTES: usize = 16 * 1024;

struct Fixture {
    store: Arc<SqliteStore>,
    app: AppId,
    metrics: Metrics,
    folder: tempfile::TempDir,
}

/// A store with an app and [`ENTRIES`] entries, all of them in the log.
async fn stage() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let metrics = options.metrics.clone();
    let store = Arc::new(SqliteStore::open(options).await.unwrap());
    let host = Host::builder().shared_store(store.clone()).build().unwrap();
    let name = AppName::parse("app").unwrap();
    let stage = Fixture {
        app: host.create_app(name).await.unwrap().id,
        store,
        metrics,
        folder,
    };
    for n in 0..ENTRIES {
        stage.set(n, 0).await.unwrap();
    }
    stage
}

fn key(n: usize) -> Key {
    Key::parse(format!("{n:08}")).unwrap()
}

fn notes() -> Collection {
    Collection::parse("notes").unwrap()
}

fn value(n: usize, round: usize) -> Vec<u8> {
    format!("{n} {round} ")
        .into_bytes()
        .into_iter()
        .cycle()
        .take(VALUE_BYTES)
        .collect()
}

impl Fixture {
    fn connect(&self) -> Connection {
        Connection::open(self.database()).unwrap()
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("kvasm.db")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("kvasm.db-wal")
    }

    async fn set(&self, n: usize, round: usize) -> Result<(), StoreError> {
        let set = Op::Set {
            collection: notes(),
            key: key(n),
            value: Value::Bytes(value(n, round)),
            expires_at: None,
        };
        let commit = Commit::new(self.app, Timestamp::now(), Batch::of(vec![set]));
        self.store.commit(commit).await.map(drop)
    }

    async fn get(&self, n: usize) -> Result<Option<Entry>, StoreError> {
        let (notes, key) = (notes(), key(n));
        self.store
            .get(self.app, &notes, &key, Timestamp::now())
            .await
    }

    /// Checkpoints the log.
    fn check_point(&self) {
        let moved = self
            .connect()
            .pragma_update(None, "wal_checkpoint", "TRUNCATE");
        assert_eq!(moved, Ok(()));
    }

    fn is_read_at_once(&self, n: usize) -> bool {
        let get = |conn: &_| entries::get(conn, self.app, &notes(), &key(n), Timestamp::now());
        self.store.readers.at_once(get).unwrap().is_some()
    }

    fn cold_reads(&self) -> u64 {
        let text = self.metrics.encode();
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("kvasm_cold_reads_total "));
        count.unwrap().parse().unwrap()
    }
}

/// Asks the system to drop a file from the page cache. Returns false if it does not, as on a file
/// system in memory.
fn evict_from_page_cache(path: &Path) -> bool {
    // Not another descriptor of the database: closing it would drop SQLite's locks.
    let file = kept(path).unwrap_or_else(|| Arc::new(File::open(path).unwrap()));
    file.sync_all().unwrap();
    fadvise(&*file, 0, None, Advice::DontNeed).unwrap();
    let mut bytes = [0];
    let middle = file.metadata().unwrap().len() / 2;
    let read = preadv2(
        &*file,
        &mut [IoSliceMut::new(&mut bytes)],
        middle,
        ReadWriteFlags::NOWAIT,
    );
    read == Err(Errno::AGAIN)
}

macro_rules! chill_or_skip {
    ($path:expr) => {
        if !evict_from_page_cache($path) {
            eprintln!("SKIPPED: this file system keeps its files in memory");
            return;
        }
    };
}

#[tokio::test]
async fn uncached_pages_are_read_on_another_thread() {
    let stage = stage().await;
    stage.check_point();
    assert!(stage.is_read_at_once(7));
    chill_or_skip!(&stage.database());
    assert!(!stage.is_read_at_once(7));
    assert_eq!(stage.cold_reads(), 1);

    // While no permit is available, a cold read waits without blocking its thread.
    let all = stage.store.cold_places.hold_all_of(stage.app).await;
    let mut cold = std::pin::pin!(stage.get(7));
    tokio::select! {
        biased;
        _ = &mut cold => panic!("a cold read did not wait for a permit"),
        () = std::future::ready(()) => {}
    }
    drop(all);
    let entry = cold.await.unwrap().unwrap();
    assert_eq!(entry.value.as_bytes(), value(7, 0));
    assert!(stage.is_read_at_once(7));
}

#[tokio::test]
async fn uncached_log_pages_are_read_on_another_thread() {
    let stage = stage().await;
    chill_or_skip!(&stage.log());
    let last = ENTRIES - 1;
    assert!(!stage.is_read_at_once(last));
    let entry = stage.get(last).await.unwrap().unwrap();
    assert_eq!(entry.value.as_bytes(), value(last, 0));
    assert!(stage.is_read_at_once(last));
}

/// Reads fail again and again, at any point, on connections that others then use.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_are_correct_while_pages_are_evicted() {
    let stage = Arc::new(stage().await);
    let done = Arc::new(AtomicBool::new(false));
    let chilling = {
        let (stage, done) = (Arc::clone(&stage), Arc::clone(&done));
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                evict_from_page_cache(&stage.database());
                evict_from_page_cache(&stage.log());
            }
        })
    };
    let mut readers = tokio::task::JoinSet::new();
    for seed in 0..4 {
        let (stage, done) = (Arc::clone(&stage), Arc::clone(&done));
        readers.spawn(async move {
            let mut n = seed;
            while !done.load(Ordering::Relaxed) {
                n = (n * 31 + 7) % ENTRIES;
                let entry = stage.get(n).await.unwrap().unwrap();
                let start = format!("{n} ");
                assert!(entry.value.as_bytes().starts_with(start.as_bytes()));
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 1..=3 {
        for n in 0..ENTRIES {
            stage.set(n, round).await.unwrap();
            let entry = stage.get(n).await.unwrap().unwrap();
            assert_eq!(entry.value.as_bytes(), value(n, round));
        }
        stage.check_point();
    }
    done.store(true, Ordering::Relaxed);
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    chilling.join().unwrap();
}

#[tokio::test]
async fn stores_of_one_file_share_a_descriptor_until_the_last_closes() {
    let stage = stage().await;
    let path = stage.database();
    let other = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
    let identity = identity(&path.metadata().unwrap()).unwrap();
    let kept = || DATABASES.lock().get(&identity).and_then(Weak::upgrade);
    let shared = kept().unwrap();
    assert!(Arc::ptr_eq(&shared, other._kept.as_ref().unwrap()));
    drop((shared, stage.store));
    assert!(kept().is_some());
    drop(other);
    assert!(kept().is_none());
}

#[test]
fn panicking_read_restores_the_thread_state() {
    let read = || at_once(|| -> u8 { panic!("as reads do not") });
    assert!(std::panic::catch_unwind(read).is_err());
    assert!(!AT_ONCE.get());
    assert_eq!(at_once(|| 1), Some(1));
}
