//! The writer thread under failures: panics, locks of other processes, cancelled callers.

use super::*;
use crate::SqliteStore;
use crate::usage::UsageDelta;
use kvasm_core::store::Store;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

mod fairness;
mod linked;
mod undone;

const BUSY: Duration = Duration::from_millis(500);

struct Fixture {
    store: Arc<SqliteStore>,
    folder: tempfile::TempDir,
    metrics: Metrics,
}

async fn stage() -> Fixture {
    patient(BUSY).await
}

async fn patient(busy_timeout: Duration) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let mut options = SqliteOptions::new(folder.path().join("kvasm.db"));
    options.busy_timeout = busy_timeout;
    // Most tests of a full disk do without the reserved space file.
    options.ballast = 0;
    let metrics = options.metrics.clone();
    let store = Arc::new(SqliteStore::open(options).await.unwrap());
    Fixture {
        store,
        folder,
        metrics,
    }
}

impl Fixture {
    fn other_process(&self) -> Connection {
        Connection::open(self.folder.path().join("kvasm.db")).unwrap()
    }

    fn at(&self) -> i64 {
        let other = self.other_process();
        other
            .query_row("SELECT at FROM health", [], |row| row.get(0))
            .unwrap()
    }
}

fn write(at: i64) -> impl FnOnce(&mut WriteTransaction<'_>) -> Result<(), StoreError> + Send {
    move |transaction| {
        let update = transaction
            .connection
            .execute("UPDATE health SET at = at + ?1", [at]);
        update.map(drop).map_err(error::store)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer_thread_survives_a_panicking_write() {
    let stage = stage().await;
    let writer = &stage.store.writer;
    for _ in 0..3 {
        let panicked = writer
            .run(WriteCost::NONE, |transaction| -> Result<(), StoreError> {
                write(1)(transaction)?;
                panic!("a bug");
            })
            .await;
        assert!(
            matches!(panicked, Err(StoreError::Failed(_))),
            "{panicked:?}"
        );
        assert_eq!(stage.at(), 0, "the partial write was rolled back");
    }
    writer.run(WriteCost::NONE, write(5)).await.unwrap();
    assert_eq!(stage.at(), 5);
    stage.store.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_grouped_with_a_panic_can_be_retried() {
    let stage = patient(Duration::from_secs(60)).await;
    let lock = stage.other_process();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut callers = JoinSet::new();
    // They queue up while the first waits for the lock.
    for n in 0..10 {
        let store = Arc::clone(&stage.store);
        callers.spawn(async move {
            let run = move |transaction: &mut WriteTransaction<'_>| match n {
                5 => panic!("a bug"),
                _ => write(1)(transaction),
            };
            store.writer.run(WriteCost::NONE, run).await
        });
    }
    while stage.store.writer.jobs.as_ref().unwrap().capacity() > QUEUE_LEN - 9 {
        tokio::task::yield_now().await;
    }
    lock.execute_batch("COMMIT").unwrap();
    let answers = callers.join_all().await;
    let count = |is: fn(&Result<(), StoreError>) -> bool| answers.iter().filter(|a| is(a)).count();
    assert_eq!(count(|a| matches!(a, Err(StoreError::Failed(_)))), 1);
    // However they were grouped, exactly the successful writes are stored.
    let done = count(Result::is_ok);
    assert_eq!(
        count(|a| matches!(a, Err(StoreError::Unavailable(_)))) + done,
        9
    );
    assert_eq!(stage.at(), i64::try_from(done).unwrap());
    stage.store.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe_fails_after_the_writer_thread_has_exited() {
    let mut stage = stage().await;
    let store = Arc::get_mut(&mut stage.store).unwrap();
    let (jobs, queue) = mpsc::channel(1);
    store.writer.jobs = Some(jobs);
    drop(queue);
    let answer = store.ping().await;
    assert!(matches!(answer, Err(StoreError::Failed(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_timeout_fails_all_queued_writes_at_once() {
    let stage = stage().await;
    let lock = stage.other_process();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&stage.store);
        callers.spawn(async move { store.writer.run(WriteCost::NONE, write(1)).await });
    }
    for answer in callers.join_all().await {
        assert!(
            matches!(answer, Err(StoreError::Unavailable(_))),
            "{answer:?}"
        );
    }
    // One after another it would be 20 times the timeout.
    let took = start.elapsed();
    assert!(took < BUSY * 10, "{took:?}");
    lock.execute_batch("COMMIT").unwrap();
    // On a slow disk the lock may be held for longer than this short timeout.
    let start = Instant::now();
    while let Err(error) = stage.store.writer.run(WriteCost::NONE, write(100)).await {
        assert!(start.elapsed() < Duration::from_secs(60), "{error}");
    }
    assert_eq!(stage.at(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_write_is_never_run() {
    let stage = patient(Duration::from_secs(60)).await;
    let lock = stage.other_process();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let first = tokio::spawn({
        let store = Arc::clone(&stage.store);
        async move { store.writer.run(WriteCost::NONE, write(1)).await }
    });
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let (store, runs) = (Arc::clone(&stage.store), Arc::clone(&runs));
        callers.spawn(async move {
            let run = move |transaction: &mut WriteTransaction<'_>| {
                runs.fetch_add(1, Ordering::Relaxed);
                write(1)(transaction)
            };
            store.writer.run(WriteCost::NONE, run).await
        });
    }
    // The thread has one of the 21 and waits for the lock with it.
    while stage.store.writer.jobs.as_ref().unwrap().capacity() > QUEUE_LEN - 20 {
        tokio::task::yield_now().await;
    }
    callers.shutdown().await;
    lock.execute_batch("COMMIT").unwrap();
    first.await.unwrap().unwrap();
    stage
        .store
        .writer
        .run(WriteCost::NONE, write(100))
        .await
        .unwrap();
    // The one that the thread had already taken may be a cancelled one.
    assert!(runs.load(Ordering::Relaxed) <= 1);
    assert!([101, 102].contains(&stage.at()), "{}", stage.at());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe_fails_until_the_failed_write_would_fit() {
    let stage = stage().await;
    let pages = |pages: i64| {
        stage.store.writer.run(
            WriteCost::NONE,
            move |transaction: &mut WriteTransaction<'_>| {
                let set = format!("PRAGMA max_page_count = {pages}");
                let set = transaction.connection.query_row(&set, [], |_| Ok(()));
                set.map_err(error::store)
            },
        )
    };
    stage.store.ping().await.unwrap();
    let used: i64 = stage
        .other_process()
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    // Space for a probe, which overwrites its row, but not for this.
    pages(used + 10).await.unwrap();
    let large = || {
        stage.store.writer.run(
            WriteCost::NONE.with_bytes(200_000),
            |transaction: &mut WriteTransaction<'_>| {
                let insert = transaction.connection.execute(
                    "INSERT INTO modules (digest, wasm, created_at)
                     VALUES (zeroblob(32), zeroblob(200000), 0)",
                    [],
                );
                insert.map(drop).map_err(error::store)
            },
        )
    };
    stage.store.ping().await.unwrap();
    let refused = large().await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    for _ in 0..2 {
        let answer = stage.store.ping().await;
        assert!(matches!(answer, Err(StoreError::Full(_))), "{answer:?}");
    }
    pages(used + 1_000).await.unwrap();
    stage.store.ping().await.unwrap();
    large().await.unwrap();
}

#[tokio::test]
async fn savepoint_rollback_restores_usage_counters() {
    let stage = stage().await;
    let host = kvasm_host::Host::builder().shared_store(Arc::clone(&stage.store) as Arc<dyn Store>);
    let name = kvasm_core::AppName::parse("app").unwrap();
    let app = host.build().unwrap().create_app(name).await.unwrap().id;
    let count = |entries, is_kept: bool| {
        let run = move |transaction: &mut WriteTransaction<'_>| {
            transaction.tally.open(transaction.connection, app)?;
            let counted = transaction.atomically(|transaction| {
                let delta = UsageDelta {
                    entries,
                    bytes: 10,
                    deliveries: 0,
                };
                transaction.tally.add(app, delta);
                match is_kept {
                    true => Ok(()),
                    false => Err(error::host("the audit row failed")),
                }
            });
            Ok(counted.is_ok())
        };
        stage.store.writer.run(WriteCost::NONE, run)
    };
    assert!(count(1, true).await.unwrap());
    assert!(!count(5, false).await.unwrap());
    let usage = kvasm_core::store::Registry::usage(&*stage.store, app).await;
    let usage = usage.unwrap();
    assert_eq!((usage.entries, usage.bytes), (1, 10));
}

#[tokio::test]
async fn file_locked_by_another_process_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    let held = Connection::open(&path).unwrap();
    held.execute_batch("BEGIN EXCLUSIVE; CREATE TABLE t (a)")
        .unwrap();
    let mut options = SqliteOptions::new(&path);
    options.busy_timeout = Duration::from_millis(10);
    let opened = SqliteStore::open(options).await.map(drop);
    assert!(
        matches!(opened, Err(StoreError::Unavailable(_))),
        "{opened:?}"
    );
}

/// Adds `rows` rows to a table of the test.
fn add_rows(rows: u64) -> impl Fn(&mut WriteTransaction<'_>) -> Result<(), StoreError> + Send {
    move |transaction| {
        let add = transaction.connection.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
             INSERT INTO rows SELECT n FROM n",
            [rows.cast_signed()],
        );
        add.map(drop).map_err(error::store)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apps_take_turns_and_groups_are_bounded_by_rows() {
    const LARGE: usize = 20;
    let stage = patient(Duration::from_secs(60)).await;
    let other = stage.other_process();
    other
        .execute_batch("CREATE TABLE rows (n INTEGER); BEGIN IMMEDIATE")
        .unwrap();
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut callers = JoinSet::new();
    let mut hand_over = |app: AppId, name: &'static str, rows: u64| {
        let (store, order) = (Arc::clone(&stage.store), Arc::clone(&order));
        callers.spawn(async move {
            let run = move |transaction: &mut WriteTransaction<'_>| {
                order.lock().push(name);
                add_rows(rows)(transaction)
            };
            store.writer.run(WriteCost::of(app), run).await.unwrap();
        });
    };
    let waiting = async |jobs: usize| {
        while stage.store.writer.jobs.as_ref().unwrap().capacity() > QUEUE_LEN - jobs {
            tokio::task::yield_now().await;
        }
    };
    let (large, small) = (AppId::generate(), AppId::generate());
    for _ in 0..LARGE {
        hand_over(large, "large", GROUP_ROWS);
    }
    // The thread has one and waits for the lock with it.
    waiting(LARGE - 1).await;
    hand_over(small, "small", 1);
    waiting(LARGE).await;
    other.execute_batch("COMMIT").unwrap();
    callers.join_all().await;
    let order = order.lock();
    let at = order.iter().position(|name| *name == "small").unwrap();
    assert!(at <= 2, "{order:?}");
    // Each of the large ones had a transaction of its own.
    let text = stage.metrics.encode();
    let groups = text
        .lines()
        .find_map(|line| line.strip_prefix("kvasm_commit_group_size_count "));
    let groups: usize = groups.expect(&text).parse().unwrap();
    assert!(groups >= LARGE, "{groups} groups");
}
