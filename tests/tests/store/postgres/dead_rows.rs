//! Queues during a long snapshot, so that dead rows cannot be removed.

use super::{connect, deadlocks, options, psql};
use kvasm_store_testing::conformance::kit::{Tenant, bytes, set};
use kvasm_tests::postgres::{Session, shared};

/// A server statistic, read once all stores on the database are dropped.
async fn counted(url: &str, sql: &str) -> u64 {
    // Sessions report their statistics at their end at the latest.
    deadlocks(url).await;
    let number = psql(url, sql).await;
    number.trim().parse().expect("a number")
}

/// Creates deliveries of the trigger `t`, in commits of a thousand.
async fn fill(app: &Tenant, thousands: u32) {
    for thousand in 0..thousands {
        let key = |n| format!("{thousand}-{n}");
        let sets = (0..1_000).map(|n| set("c", &key(n), bytes("value")));
        app.commit(vec![], sets.collect()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claim_updates_are_heap_only() {
    let options = options().await;
    let url = options.url.clone();
    {
        let app = connect(options).await.app().await;
        app.watch("t", "c").await;
        for n in 0..200 {
            app.set("c", &format!("k{n}"), bytes("value")).await;
        }
        for _ in 0..25 {
            assert_eq!(app.claim("t", 8).await.len(), 8);
        }
        assert!(app.claim("t", 8).await.is_empty());
    }
    let updates = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'deliveries'";
    assert_eq!(counted(&url, updates).await, 200);
    // Except those without free space on their page, which earlier updates may have used up.
    let hot = "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'deliveries'";
    let hot = counted(&url, hot).await;
    assert!(hot >= 150, "{hot} of 200");
}

/// Fifty thousand dead rows precede the live deliveries. Each query and each claim from the
/// beginning reads all of them, and only a few may do so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn due_and_claim_do_not_rescan_dead_rows() {
    const GONE: u32 = 50;
    const ROUNDS: u32 = 200;
    let options = options().await;
    let url = options.url.clone();
    let snapshot;
    {
        let app = connect(options).await.app().await;
        app.watch("t", "c").await;
        app.set("c", "before", bytes("1")).await;
        let database = url.rsplit('/').next().expect("a name").to_owned();
        let hold = move || {
            let mut session = Session::start(shared(), &database).expect("a session");
            let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM deliveries";
            session.run(sql).expect("a snapshot");
            session
        };
        snapshot = tokio::task::spawn_blocking(hold).await.expect("a session");
        fill(&app, GONE).await;
        psql(&url, "DELETE FROM deliveries").await;
        let later = app.later(60_000);
        for round in 0..ROUNDS {
            later.set("c", &format!("k{round}"), bytes("1")).await;
            assert_eq!(later.due().await, ["t"]);
            let claimed = later.claim("t", 1).await;
            let [(_, receipt)] = &claimed[..] else {
                panic!("{claimed:?}");
            };
            later.acknowledge(receipt, vec![]).await.expect("done");
        }
    }
    tokio::task::spawn_blocking(|| drop(snapshot))
        .await
        .expect("the end");
    let reads =
        "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'deliveries_due'";
    let read = counted(&url, reads).await;
    // All of them twice per round would be 20,000,000.
    let each = u64::from(GONE) * 1_000;
    assert!(read >= each, "{read}: the test reads nothing");
    let allowed = each * u64::from(ROUNDS) / 2;
    assert!(read < allowed, "{read} of {allowed} index entries");
}
