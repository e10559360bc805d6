//! For the crash suite: writes batches to a SQLite store until it is killed, and prints the
//! number of each batch after the store has acknowledged it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use kvasm::Host;
use kvasm::model::{AppId, AppName, Batch, Collection, Commit, Key, Op, Timestamp, Value};
use kvasm::store::{SqliteOptions, SqliteStore, Store};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const TASKS: u64 = 16;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (path, first) = (&arguments[1], arguments[2].parse().unwrap());
    let store = SqliteStore::open(SqliteOptions::new(path)).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let host = Host::builder()
        .shared_store(Arc::clone(&store))
        .instances(1)
        .build()
        .unwrap();
    let name = AppName::parse("crash").unwrap();
    let app = match host.app(&name).await.unwrap() {
        Some(app) => app,
        None => host.create_app(name).await.unwrap(),
    };
    let next = Arc::new(AtomicU64::new(first));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        tasks.spawn(write(Arc::clone(&store), app.id, Arc::clone(&next)));
    }
    // Each task runs until the process is killed.
    panic!("a writer ended: {:?}", tasks.join_next().await);
}

async fn write(store: Arc<dyn Store>, app: AppId, next: Arc<AtomicU64>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let ops = ["left", "right"].map(|half| Op::Set {
            collection: Collection::parse(half).unwrap(),
            key: Key::parse(format!("{number:09}")).unwrap(),
            value: Value::json(format!("[{number}]"), 100).unwrap(),
            expires_at: None,
        });
        let batch = Commit::new(app, Timestamp::now(), Batch::of(ops.into()));
        store.commit(batch).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{number}").unwrap();
        out.flush().unwrap();
    }
}
