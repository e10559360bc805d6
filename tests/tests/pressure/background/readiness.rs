//! `/readyz` when the host cannot work. Full disks are covered in `tests/tests/serve/stores.rs`
//! and, for Postgres, in `full_postgres.rs`.

use super::stage::{BackgroundHost, Database};
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{Batch, Collection, Commit, Key, Op, Timestamp, Value as Entry};
use kvasm::service::HealthLimits;
use kvasm::store::{PostgresOptions, PostgresStore};
use kvasm_store_testing::faulty::{Operation, failed};
use kvasm_tests::guests::wasm;
use kvasm_tests::postgres::{Cluster, Options};
use kvasm_tests::server::{ApiResponse, Server, eventually};
use serde_json::{Value, json};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

async fn becomes_ready(server: &Server) {
    let anonymous = server.anonymous();
    eventually("the host is ready", async || {
        anonymous.get("/readyz").await.status == 200
    })
    .await;
}

/// Waits until the server is unready for this reason. Returns the answer to an administrator.
async fn becomes_unready(server: &Server, kind: &str) -> Value {
    let anonymous = server.anonymous();
    eventually("the host is not ready", async || {
        anonymous.get("/readyz").await.status != 200
    })
    .await;
    let answer = anonymous.get("/readyz").await;
    answer.expect_problem(503, kind);
    assert!(answer.json().get("failing").is_none(), "{}", answer.text());
    let answer = server.root.get("/readyz").await;
    answer.expect_problem(503, kind);
    answer.json()["failing"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_lock_makes_the_host_unready() {
    let mut stage = BackgroundHost::sqlite().await;
    stage.start();
    becomes_ready(&stage.server).await;
    let Database::Sqlite(path) = &stage.database else {
        panic!("it is on SQLite");
    };
    let other = rusqlite::Connection::open(path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let failing = becomes_unready(&stage.server, "store-unavailable").await;
    assert_eq!(failing[0]["name"], "store");
    other.execute_batch("COMMIT").unwrap();
    becomes_ready(&stage.server).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_postgres_makes_the_host_unready() {
    let start = || Cluster::start(Options::default()).unwrap();
    // Its own cluster, as the setting applies to all databases of a cluster.
    let cluster = tokio::task::spawn_blocking(start).await.unwrap();
    let options = PostgresOptions::new(cluster.url("postgres"));
    let store = PostgresStore::connect(options).await.unwrap();
    let server = Server::with(|builder| builder.store(store)).await;
    becomes_ready(&server).await;
    let read_only = |value: &str| {
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        cluster.psql("postgres", &set).unwrap();
        cluster.psql("postgres", "SELECT pg_reload_conf()").unwrap();
    };
    read_only("on");
    let failing = becomes_unready(&server, "store-unavailable").await;
    let cause = failing[0]["cause"].as_str().unwrap();
    assert!(cause.contains("read-only"), "{cause}");
    read_only("off");
    becomes_ready(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_task_makes_the_host_unready_with_a_reason() {
    let mut stage = BackgroundHost::sqlite().await;
    stage.start();
    becomes_ready(&stage.server).await;
    let rename = |from: &str, to: &str| format!("ALTER TABLE {from} RENAME TO {to}");
    stage.database.sql(&rename("triggers", "others")).await;
    let failing = becomes_unready(&stage.server, "not-ready").await;
    let failing = failing.as_array().unwrap();
    let schedules = failing.iter().find(|task| task["name"] == "schedules");
    let cause = schedules.unwrap()["cause"].as_str().unwrap();
    assert!(cause.contains("triggers"), "{cause}");
    eventually("it is started again and again", async || {
        stage.has_metric("kvasm_task_restarts_total{name=\"schedules\"}")
    })
    .await;
    stage.database.sql(&rename("others", "triggers")).await;
    becomes_ready(&stage.server).await;
    stage.stop().await;
}

/// A task whose call of the store does not return reports no failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_task_makes_the_host_unready_with_a_reason() {
    let mut stage = BackgroundHost::sqlite_with(HealthLimits {
        stalled: Some(Duration::from_secs(2)),
        ..HealthLimits::default()
    })
    .await;
    stage.start_with(DispatchOptions {
        upkeep: Duration::from_millis(20),
        ..DispatchOptions::default()
    });
    becomes_ready(&stage.server).await;
    stage.faults.on(Operation::PruneAudit).hang();
    eventually("the reason is shown", async || {
        let answer = stage.server.root.get("/readyz").await;
        if answer.status == 200 {
            return false;
        }
        let failing = answer.json();
        let failing = failing["failing"].as_array().into_iter().flatten();
        let stalled = failing.filter(|task| task["name"] == "housekeeping");
        stalled
            .filter_map(|task| task["cause"].as_str())
            .any(|cause| cause.contains("same item") && cause.contains("the limit is 2s"))
    })
    .await;
    // Requests are served meanwhile.
    stage.server.app("app", true).await;
    put(&stage.server, "1").await.expect(200);
    stage.faults.clear();
    becomes_ready(&stage.server).await;
    assert!(stage.has_metric("kvasm_task_completed_time_seconds{name=\"housekeeping\"} 1"));
    assert!(stage.has_metric("kvasm_schedules_late_seconds 0"));
    stage.stop().await;
}

/// While a table that a task needs is missing, the task is reported as failing.
async fn shows_as(task: &str, table: &str) {
    let mut stage = BackgroundHost::sqlite().await;
    stage.start_with(DispatchOptions {
        upkeep: Duration::from_millis(20),
        ..DispatchOptions::default()
    });
    becomes_ready(&stage.server).await;
    let rename = |from: &str, to: &str| format!("ALTER TABLE {from} RENAME TO {to}");
    stage.database.sql(&rename(table, "others")).await;
    eventually("it shows in the metrics", async || {
        stage.has_metric(&format!("kvasm_task_failing{{name=\"{task}\"}} 1"))
    })
    .await;
    let failing = becomes_unready(&stage.server, "not-ready").await;
    let failing = failing.as_array().unwrap();
    let found = failing.iter().find(|failing| failing["name"] == task);
    let cause = found.unwrap()["cause"].as_str().unwrap();
    assert!(cause.contains(table), "{cause}");
    stage.database.sql(&rename("others", table)).await;
    becomes_ready(&stage.server).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_housekeeping_makes_the_host_unready() {
    shows_as("housekeeping", "audit").await;
}

/// The input of a call.
const ADD: &str = r#"{"name": "n", "by": 1}"#;

/// Calls do not need the history of hosts, and it loses none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_heartbeats_are_shown_and_affect_nothing() {
    let mut stage = BackgroundHost::sqlite().await;
    stage.faults.on(Operation::Beat).fail(failed);
    stage.start();
    eventually("it shows in the metrics", async || {
        stage.has_metric("kvasm_task_failing{name=\"heartbeats\"} 1")
    })
    .await;
    becomes_ready(&stage.server).await;
    stage.server.deployed("shop", wasm("counter")).await;
    for _ in 0..3 {
        stage.server.root.call("shop", "add", ADD).await.expect(200);
    }
    let overview = stage.server.root.get("/v1/overview").await.expect(200);
    assert_eq!(overview.json()["failing_tasks"], json!(["heartbeats"]));
    stage.faults.clear();
    // The next heartbeat has what the failed ones had to write.
    eventually("the history is complete", async || {
        let overview = stage.server.root.get("/v1/overview").await.expect(200);
        let overview = overview.json();
        overview["total"]["calls"] == 3 && overview["failing_tasks"] == json!([])
    })
    .await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_reaper_makes_the_host_unready() {
    shows_as("reaper", "apps").await;
}

/// A poll of the queues that takes minutes because it waits for a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_queue_poll_does_not_delay_shutdown() {
    let mut stage = BackgroundHost::postgres(Duration::from_secs(600)).await;
    let lock = "LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE";
    let hold = stage.database.hold(lock).await;
    stage.start();
    eventually("the poll waits for the lock", async || {
        // The polls of the claims and of the rescue.
        let waits = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND query LIKE '%due_queues%'";
        stage.database.sql(waits).await == "2"
    })
    .await;
    let stopped = tokio::time::timeout(Duration::from_secs(60), stage.stop()).await;
    assert!(stopped.is_ok(), "the stop waits for the poll");
    drop(hold);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_dispatcher_makes_the_host_unready() {
    let mut stage = BackgroundHost::sqlite().await;
    stage.start();
    becomes_ready(&stage.server).await;
    stage.abort().await;
    let failing = becomes_unready(&stage.server, "not-ready").await;
    assert_eq!(failing[0]["name"], "dispatcher");
    // Another dispatcher takes over.
    stage.start();
    becomes_ready(&stage.server).await;
    stage.stop().await;
}

const ENTRY: &str = "/v1/apps/app/kv/entry?collection=c&key=k";

async fn put(server: &Server, value: &'static str) -> ApiResponse {
    let kind = "application/octet-stream";
    server.root.bytes("PUT", ENTRY, kind, value).await
}

/// Panics when woken, and panics again when the payload of that panic is dropped.
struct PanicOnWake;

impl Wake for PanicOnWake {
    fn wake(self: Arc<Self>) {
        std::panic::panic_any(PanicOnWake);
    }
}

impl Drop for PanicOnWake {
    fn drop(&mut self) {
        // Not where the test drops it.
        if std::thread::current().name() == Some("kvasm-sqlite") {
            panic!("the writer dies");
        }
    }
}

/// The writer thread survives a panic, but not a second one while it handles the first. The
/// code that an embedder's executor runs when a task is woken runs on that thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_writer_makes_the_host_unready_but_healthy() {
    let mut stage = BackgroundHost::sqlite().await;
    stage.start();
    becomes_ready(&stage.server).await;
    let app = stage.server.app("app", true).await;
    put(&stage.server, "1").await.expect(200);
    let Database::Sqlite(path) = &stage.database else {
        panic!("it is on SQLite");
    };
    // Ensures that a task is waiting when the answer arrives.
    let lock = rusqlite::Connection::open(path).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let op = Op::Set {
        collection: Collection::parse("c").unwrap(),
        key: Key::parse("k").unwrap(),
        value: Entry::bytes(b"2".to_vec(), 1).unwrap(),
        expires_at: None,
    };
    let batch = Commit::new(app.id, Timestamp::now(), Batch::of(vec![op]));
    let store = Arc::clone(stage.server.host.store());
    let mut commit = store.commit(batch);
    let waker = Waker::from(Arc::new(PanicOnWake));
    let polled = commit.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    lock.execute_batch("COMMIT").unwrap();

    let failing = becomes_unready(&stage.server, "store-unavailable").await;
    assert_eq!(failing[0]["name"], "store");
    let cause = failing[0]["cause"].as_str().unwrap();
    assert!(cause.contains("the writer thread has stopped"), "{cause}");
    let anonymous = stage.server.anonymous();
    anonymous.get("/healthz").await.expect(200);
    // Writes fail immediately, and reads continue.
    put(&stage.server, "3")
        .await
        .expect_problem(500, "internal");
    let found = stage.server.root.get(ENTRY);
    assert_eq!(found.await.expect(200).text(), "2");
    drop(commit);
    stage.stop().await;
}
