//! Traffic on the wire, and stalled connections.

use super::proxy::{self, ProxyStats};
use super::{connect, options, psql};
use kvasm::model::{Applied, ListQuery};
use kvasm::store::{PostgresOptions, StoreError};
use kvasm_store_testing::conformance::event_kit::increment;
use kvasm_store_testing::conformance::kit::{
    self, Tenant, absent, at_version, bytes, delete, list, set,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A store with one connection, through a proxy.
async fn behind_proxy() -> (Tenant, Arc<ProxyStats>) {
    let options = options().await;
    let (url, line) = proxy::start(&options.url).await;
    let kit = connect(PostgresOptions {
        url,
        max_connections: 1,
        ..options
    })
    .await;
    (kit.app().await, line)
}

/// The number of statements that a call sends, once they are prepared.
async fn statements<T>(line: &ProxyStats, call: impl AsyncFn() -> T) -> usize {
    call().await;
    call().await;
    let [before, _, prepared] = line.seen();
    call().await;
    let [after, _, prepared_after] = line.seen();
    assert_eq!(prepared, prepared_after, "a statement was prepared again");
    after - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_key_operations_take_one_round_trip() {
    let (app, line) = behind_proxy().await;
    app.set("c", "k", bytes("1")).await;
    let counts = [
        (
            "get",
            statements(&line, async || app.get("c", "k").await).await,
        ),
        (
            "get of an absent entry",
            statements(&line, async || app.get("c", "x").await).await,
        ),
        (
            "has",
            statements(&line, async || app.has("c", "k").await).await,
        ),
        (
            "set",
            statements(&line, async || app.set("c", "k", bytes("2")).await).await,
        ),
        (
            "page",
            statements(&line, async || app.page(&list("c")).await).await,
        ),
        (
            "delete",
            statements(&line, async || app.delete("c", "y").await).await,
        ),
    ];
    for (call, count) in counts {
        assert_eq!(count, 1, "{call}");
    }
    let values = ListQuery {
        with_values: true,
        reverse: true,
        ..list("c")
    };
    assert_eq!(statements(&line, async || app.page(&values).await).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guarded_single_key_writes_take_one_round_trip() {
    let (app, line) = behind_proxy().await;
    let version = app.set("c", "k", bytes("1")).await;
    let wins = async || {
        let [Applied::Deleted { .. }, Applied::Set(_)] = [
            app.commit(vec![absent("c", "n")], vec![delete("c", "n")])
                .await[0],
            app.commit(vec![absent("c", "m")], vec![set("c", "m", bytes("1"))])
                .await[0],
        ] else {
            panic!("other answers");
        };
        let entry = app.get("c", "m").await.unwrap();
        let again = vec![set("c", "m", bytes("2"))];
        app.commit(vec![at_version("c", "m", entry.version)], again)
            .await;
        let entry = app.get("c", "m").await.unwrap();
        app.commit(
            vec![at_version("c", "m", entry.version)],
            vec![delete("c", "m")],
        )
        .await;
    };
    assert_eq!(statements(&line, wins).await, 6);
    let loses = async || {
        let set = || vec![set("c", "k", bytes("2"))];
        let old = kvasm::model::Version(version.0 - 1);
        app.expect_conflict(vec![absent("c", "k")], set()).await;
        app.expect_conflict(vec![at_version("c", "k", old)], set())
            .await;
        app.expect_conflict(vec![at_version("c", "k", old)], vec![delete("c", "k")])
            .await;
        app.expect_conflict(vec![absent("c", "k")], vec![delete("c", "k")])
            .await;
    };
    assert_eq!(statements(&line, loses).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggered_writes_and_claims_take_one_round_trip() {
    let (app, line) = behind_proxy().await;
    app.watch("t", "c").await;
    // Each claim finds one: an empty claim is followed by a query for a probe.
    for key in ["k1", "k2", "k3"] {
        app.set("c", key, bytes("1")).await;
    }
    let counts = [
        (
            "set",
            statements(&line, async || app.set("c", "k", bytes("1")).await).await,
        ),
        (
            "increment",
            statements(&line, async || {
                app.commit(vec![], vec![increment("c", "n", 1)]).await
            })
            .await,
        ),
        (
            "delete",
            statements(&line, async || app.delete("c", "k").await).await,
        ),
        ("due", statements(&line, async || app.due().await).await),
        (
            "claim",
            statements(&line, async || app.claim("t", 1).await).await,
        ),
        (
            "sweep",
            statements(&line, async || app.store.sweep(app.id, app.now, 10).await).await,
        ),
    ];
    for (call, count) in counts {
        assert_eq!(count, 1, "{call}");
    }
    // An empty claim may mean that failures have paused the trigger.
    while !app.claim("t", 10).await.is_empty() {}
    let nothing = statements(&line, async || app.claim("t", 1).await).await;
    assert_eq!(nothing, 2, "an empty claim, and a query for a probe");
    let acknowledged = async || {
        app.set("c", "another", bytes("1")).await;
        let mut claimed = app.claim("t", 10).await;
        let (_, receipt) = claimed.pop().expect("a delivery");
        app.acknowledge(&receipt, vec![set("d", "k", bytes(""))])
            .await
            .expect("done");
    };
    assert_eq!(
        statements(&line, acknowledged).await,
        3,
        "a set, a claim, the handler's writes"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_take_one_round_trip() {
    let (app, line) = behind_proxy().await;
    let sets = || {
        (0..100)
            .map(|at| set("c", &format!("k{at}"), bytes("x")))
            .collect::<Vec<_>>()
    };
    let bulk = statements(&line, async || app.commit(vec![], sets()).await).await;
    assert_eq!(bulk, 1, "sets of different keys");
    let mixed = async || {
        let mut ops = sets();
        ops.extend((100..200).map(|at| delete("c", &format!("k{at}"))));
        app.commit(vec![], ops).await;
    };
    assert_eq!(statements(&line, mixed).await, 1, "sets and deletions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_takes_its_reads_and_one_round_trip() {
    let (app, line) = behind_proxy().await;
    for key in ["a", "b"] {
        app.set("c", key, bytes("1")).await;
    }
    let read = async |key| {
        let entry = app.get("c", key).await.unwrap();
        at_version("c", key, entry.version)
    };
    let sets = || vec![set("c", "a", bytes("2")), set("c", "b", bytes("2"))];
    let transfer = async || {
        let checks = vec![read("a").await, read("b").await];
        app.commit(checks, sets()).await;
    };
    assert_eq!(
        statements(&line, transfer).await,
        3,
        "two reads, two writes"
    );
    let with_an_absent_one = async || {
        let checks = vec![read("a").await, absent("c", "z")];
        app.commit(checks, vec![set("d", "k", bytes("2")), delete("c", "x")])
            .await;
    };
    let count = statements(&line, with_an_absent_one).await;
    assert_eq!(count, 2, "a read, and a batch that creates and deletes");
    let loses = async || {
        let checks = vec![absent("c", "z"), absent("c", "b")];
        assert_eq!(app.expect_conflict(checks, sets()).await, [1]);
    };
    assert_eq!(statements(&line, loses).await, 1, "a conflict");
    let checks_alone = async || {
        let checks = vec![read("a").await, absent("c", "z")];
        app.commit(checks, vec![]).await;
        let failed = app.expect_conflict(vec![absent("c", "z"), absent("c", "a")], vec![]);
        assert_eq!(failed.await, [1]);
    };
    assert_eq!(statements(&line, checks_alone).await, 3, "only checks");
    let keys = ["a", "b", "z"].map(|key| (kit::collection("c"), kit::key(key)));
    let many = async || {
        let found = app.store.get_many(app.id, &keys, app.now, 100).await;
        assert_eq!(found.expect("entries").iter().flatten().count(), 2);
    };
    assert_eq!(statements(&line, many).await, 1, "a read of many entries");
}

/// Writes that need a transaction. Finding out that a trigger watches costs one more round
/// trip.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_trips_of_the_transaction_path() {
    let (app, line) = behind_proxy().await;
    app.watch("t", "c").await;
    let watched = async || {
        let ops = vec![set("c", "a", bytes("2")), delete("d", "b")];
        app.commit(vec![], ops).await;
    };
    // The failed attempt; BEGIN, the app, the keys, the set, the deletion, the deliveries, the
    // usage, COMMIT.
    assert_eq!(statements(&line, watched).await, 9);
    // A key that is checked twice: its read; BEGIN, the app, the keys, a re-read, the sets,
    // COMMIT.
    let transaction = async || {
        let entry = app.get("e", "a").await.unwrap();
        let check = at_version("e", "a", entry.version);
        let sets = ["a", "b"].map(|key| set("e", key, bytes("2")));
        app.commit(vec![check.clone(), check], sets.to_vec()).await;
    };
    for key in ["a", "b"] {
        app.set("e", key, bytes("1")).await;
    }
    assert_eq!(statements(&line, transaction).await, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recently_used_connection_is_not_pinged() {
    let (app, line) = behind_proxy().await;
    app.set("c", "k", bytes("1")).await;
    let [statements, pings, _] = line.seen();
    for _ in 0..50 {
        app.get("c", "k").await;
    }
    let [after, pings_after, _] = line.seen();
    assert_eq!(after - statements, 50);
    // On a very busy machine, a second may pass between two calls.
    let pings = pings_after - pings;
    assert!(pings < 10, "{pings} pings for 50 calls");
}

/// The connection stalls indefinitely: calls time out, and later ones work again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_connection_makes_calls_unavailable() {
    let base = options().await;
    let (url, line) = proxy::start(&base.url).await;
    let kit = connect(PostgresOptions {
        url,
        max_connections: 2,
        acquire_timeout: Duration::from_millis(500),
        statement_timeout: Duration::from_millis(500),
        ..PostgresOptions::new("")
    })
    .await;
    let app = kit.app().await;
    app.set("c", "k", bytes("1")).await;
    line.stalled.store(true, Ordering::SeqCst);
    let calls: Vec<_> = (0..6)
        .map(|at| {
            let app = app.clone();
            tokio::spawn(async move {
                let (c, k) = (
                    kvasm_store_testing::conformance::kit::collection("c"),
                    kvasm_store_testing::conformance::kit::key("k"),
                );
                match at % 3 {
                    0 => app.store.get(app.id, &c, &k, app.now).await.map(drop),
                    1 => app
                        .try_commit(vec![], vec![set("c", "k", bytes("2"))])
                        .await
                        .map(drop),
                    _ => {
                        let ops = vec![delete("c", "l"), set("c", "k", bytes("3"))];
                        app.try_commit(vec![], ops).await.map(drop)
                    }
                }
            })
        })
        .collect();
    for call in calls {
        let result = call.await.expect("no panic");
        assert!(
            matches!(result, Err(StoreError::Unavailable(_))),
            "{result:?}"
        );
    }
    line.stalled.store(false, Ordering::SeqCst);
    until_it_works(&app).await;
}

/// Calls until one succeeds. Earlier ones may fail only with `Unavailable`.
async fn until_it_works(app: &Tenant) {
    for _ in 0..600 {
        match app
            .try_commit(vec![], vec![set("c", "k", bytes("back"))])
            .await
        {
            Ok(_) => return,
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the store did not recover");
}

/// Callers are cancelled at random moments: no transaction stays open, no connection is lost,
/// and every batch is either complete or absent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_callers_leave_no_open_transaction() {
    let options = PostgresOptions {
        max_connections: 2,
        ..options().await
    };
    let url = options.url.clone();
    let kit = connect(options).await;
    let app = kit.app().await;
    let mut rng = kit.rng();
    for round in 0..300_usize {
        let (a, b) = (format!("a{}", round % 10), format!("b{}", round % 10));
        let value = bytes(round.to_string());
        let ops = vec![
            delete("c", "nothing"),
            set("c", &a, value.clone()),
            set("c", &b, value),
        ];
        let patience = Duration::from_micros(rng.below(3000) as u64);
        let call = async {
            match round % 4 {
                0 => drop(app.get("c", &a).await),
                1 => drop(app.page(&list("c")).await),
                _ => drop(app.try_commit(vec![], ops).await),
            }
        };
        let _ = tokio::time::timeout(patience, call).await;
    }
    for at in 0..10 {
        let a = app.value("c", &format!("a{at}")).await;
        assert_eq!(a, app.value("c", &format!("b{at}")).await, "half a batch");
    }
    // Both connections are available and idle.
    let both = tokio::join!(app.has("c", "a0"), app.has("c", "a1"));
    let keys = app.keys("c").await;
    let has = |key: &str| keys.iter().any(|found| found == key);
    assert_eq!(both, (has("a0"), has("a1")));
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
               AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'";
    for _ in 0..100 {
        if psql(&url, sql).await.trim() == "0" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a transaction stayed open");
}
