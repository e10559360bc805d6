//! A server that is stopped or killed and restarted during a stream of writes.

use super::{connect, options, psql};
use kvasm::model::{Applied, Value, Version};
use kvasm::store::{PostgresOptions, StoreError};
use kvasm_store_testing::conformance::Kit;
use kvasm_store_testing::conformance::kit::{Tenant, bytes, collection, delete, key, list, set};
use kvasm_tests::postgres::{Cluster, Options, Stop};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug)]
enum Outage {
    Stop(Stop),
    Kill9,
}

/// What a writer knows about one key.
#[derive(Default)]
struct KeyHistory {
    /// The last acknowledged write.
    acknowledged: Option<(Value, Version)>,
    /// Later writes that failed with `Unavailable`: each may have been applied.
    unsure: Vec<Value>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    unavailable: AtomicUsize,
}

/// Writes its own keys until it is stopped. Every third write is a batch of two keys, which
/// must stay equal.
async fn write(
    app: Tenant,
    writer: usize,
    progress: Arc<Progress>,
) -> BTreeMap<String, KeyHistory> {
    let mut known: BTreeMap<String, KeyHistory> = BTreeMap::new();
    let mut count = 0_usize;
    while !progress.stop.load(Ordering::SeqCst) {
        count += 1;
        let value = bytes(count.to_string());
        let keys = match count % 3 {
            0 => vec![format!("w{writer}-pair-a"), format!("w{writer}-pair-b")],
            _ => vec![format!("w{writer}-{}", count % 5)],
        };
        let mut ops: Vec<_> = keys.iter().map(|k| set("c", k, value.clone())).collect();
        if count.is_multiple_of(2) {
            // Forces a transaction of several statements.
            ops.push(delete("c", "nothing"));
        }
        match app.try_commit(vec![], ops).await {
            Ok(applied) => {
                progress.acknowledged.fetch_add(1, Ordering::SeqCst);
                for (k, applied) in keys.into_iter().zip(applied) {
                    let Applied::Set(version) = applied else {
                        panic!("{applied:?}")
                    };
                    let acknowledged = Some((value.clone(), version));
                    known.insert(
                        k,
                        KeyHistory {
                            acknowledged,
                            unsure: Vec::new(),
                        },
                    );
                }
            }
            Err(StoreError::Unavailable(_)) => {
                progress.unavailable.fetch_add(1, Ordering::SeqCst);
                for k in keys {
                    known.entry(k).or_default().unsure.push(value.clone());
                }
            }
            Err(error) => panic!("while the server was away: {error:?}"),
        }
    }
    known
}

/// Waits until a count has grown by `by`, for at most a minute.
async fn wait_for_growth(count: &AtomicUsize, by: usize, what: &str) {
    let goal = count.load(Ordering::SeqCst) + by;
    for _ in 0..6000 {
        if count.load(Ordering::SeqCst) >= goal {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no more {what} writes");
}

async fn survive(outages: Vec<Outage>) {
    let start = || {
        Cluster::start(Options {
            durable: true,
            ..Options::default()
        })
    };
    let mut cluster = tokio::task::spawn_blocking(start)
        .await
        .unwrap()
        .expect("a cluster");
    let kit = connect(PostgresOptions {
        acquire_timeout: Duration::from_millis(500),
        ..PostgresOptions::new(cluster.url("postgres"))
    })
    .await;
    let app = kit.app().await;
    let progress = Arc::new(Progress::default());
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        writers.spawn(write(app.clone(), writer, Arc::clone(&progress)));
    }
    for outage in outages {
        println!("{outage:?}");
        wait_for_growth(&progress.acknowledged, 50, "acknowledged").await;
        cluster = tokio::task::spawn_blocking(move || {
            match outage {
                Outage::Stop(how) => cluster.stop(how).expect("the server stops"),
                Outage::Kill9 => cluster.kill().expect("the server dies"),
            }
            cluster
        })
        .await
        .unwrap();
        wait_for_growth(&progress.unavailable, 4, "unavailable").await;
        assert_reads_are_unavailable(&app).await;
        cluster = tokio::task::spawn_blocking(move || {
            cluster.restart().expect("the server starts");
            cluster
        })
        .await
        .unwrap();
        // The same store reconnects automatically.
        wait_for_growth(&progress.acknowledged, 50, "acknowledged").await;
    }
    progress.stop.store(true, Ordering::SeqCst);
    for known in writers.join_all().await {
        compare(&app, known).await;
    }
    drop((app, kit));
    tokio::task::spawn_blocking(move || drop(cluster))
        .await
        .unwrap();
}

async fn assert_reads_are_unavailable(app: &Tenant) {
    let unavailable = |result: Result<(), StoreError>| {
        assert!(
            matches!(result, Err(StoreError::Unavailable(_))),
            "{result:?}"
        );
    };
    let (c, k) = (collection("c"), key("k"));
    unavailable(app.store.get(app.id, &c, &k, app.now).await.map(drop));
    unavailable(app.store.has(app.id, &c, &k, app.now).await.map(drop));
    unavailable(app.store.list(app.id, &list("c"), app.now).await.map(drop));
    unavailable(app.store.ping().await);
    unavailable(app.store.apps(None, 10).await.map(drop));
    unavailable(
        app.store
            .delete_app(kvasm::model::AppId::generate(), app.audit_row("test"))
            .await
            .map(drop),
    );
}

async fn compare(app: &Tenant, known: BTreeMap<String, KeyHistory>) {
    for (k, known) in &known {
        let found = app.get("c", k).await;
        let acknowledged = known.acknowledged.as_ref();
        match (&found, acknowledged) {
            (None, Some(lost)) => panic!("{k}: {lost:?} was acknowledged and is lost"),
            (None, None) => {}
            (Some(entry), _) => {
                let same = acknowledged.is_some_and(|(value, version)| {
                    entry.value == *value && entry.version == *version
                });
                let later = known.unsure.contains(&entry.value)
                    && acknowledged.is_none_or(|(_, version)| entry.version > *version);
                assert!(same || later, "{k}: {entry:?} is not the last write");
            }
        }
        if let Some(prefix) = k.strip_suffix("pair-a") {
            let other = app.value("c", &format!("{prefix}pair-b")).await;
            assert_eq!(found.map(|entry| entry.value), other, "half a batch");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_a_server_restart() {
    survive(vec![
        Outage::Stop(Stop::Fast),
        Outage::Stop(Stop::Immediate),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill_9_of_the_server() {
    survive(vec![Outage::Kill9, Outage::Kill9]).await;
}

/// All connections are cut while idle, and used again immediately.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_retry_on_dead_pooled_connections() {
    let options = PostgresOptions {
        max_connections: 4,
        ..options().await
    };
    let url = options.url.clone();
    let kit: Kit = connect(options).await;
    let app = kit.app().await;
    app.set("c", "k", bytes("1")).await;
    for round in 0..5 {
        // Fills the pool, so that several connections are dead.
        let mut reads = JoinSet::new();
        for _ in 0..8 {
            let app = app.clone();
            reads.spawn(async move { app.get("c", "k").await });
        }
        assert!(reads.join_all().await.iter().all(Option::is_some));
        let sql = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let ended: usize = psql(&url, sql).await.trim().parse().unwrap();
        assert!(ended > 0);
        // Each of these fails if it gives up at the first dead connection, or retries on
        // another dead one.
        match round % 4 {
            0 => assert!(app.get("c", "k").await.is_some()),
            1 => assert!(app.has("c", "k").await),
            2 => assert_eq!(app.keys("c").await, ["k"]),
            _ => kit.store.ping().await.unwrap(),
        }
    }
}
