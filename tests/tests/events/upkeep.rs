//! What the dispatcher removes automatically.

use super::event_host::{EventHost, collection, until};
use kvasm::dispatch::{DispatchOptions, Dispatcher};
use kvasm::model::{
    App, AppName, Audit, Batch, Claim, Commit, DeadReason, FailedAttempt, Key, LeaseToken, Op,
    ProbeDelay, Queue, Timestamp, TriggerName, Value, Verdict,
};
use kvasm::store::{
    MemoryStore, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, Store,
};
use kvasm_store_testing::conformance::Kit;
use kvasm_store_testing::conformance::kit::{bytes, set};
use kvasm_tests::guests::module;
use kvasm_tests::postgres;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

fn options() -> DispatchOptions {
    DispatchOptions {
        upkeep: Duration::from_millis(20),
        dead_letters_per_app: 3,
        ..DispatchOptions::default()
    }
}

async fn entries(stage: &EventHost) -> u64 {
    let app = stage.app().await.id;
    stage.host.store().usage(app).await.unwrap().entries
}

/// More than one step removes, in several collections; other entries stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_removes_only_expired_entries() {
    let mut stage = EventHost::over(Arc::new(MemoryStore::new()), Box::new(())).await;
    let app = stage.app().await.id;
    let now = Timestamp::now();
    let set = |n: usize| Op::Set {
        collection: collection(if n.is_multiple_of(2) { "c" } else { "d" }),
        key: Key::parse(n.to_string()).unwrap(),
        value: Value::json("1", 10).unwrap(),
        expires_at: (n < 1_200).then_some(Timestamp(now.0 + 1)),
    };
    for first in [0, 700] {
        let batch = Commit::new(app, now, Batch::of((first..first + 700).map(set).collect()));
        stage.host.store().commit(batch).await.unwrap();
    }
    assert_eq!(entries(&stage).await, 1_400);
    stage.start_with(options());
    until("expired entries are removed", async || {
        entries(&stage).await == 200
    })
    .await;
    let text = stage.host.metrics().encode();
    assert!(
        text.contains("kvasm_upkeep_total{name=\"expired_entries\"} 1200"),
        "{text}"
    );
}

/// Dead letters over the limit are removed, oldest first, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn excess_dead_letters_are_removed_and_counted() {
    let mut stage = EventHost::over(Arc::new(MemoryStore::new()), Box::new(())).await;
    stage.deploy(super::hosts::counter()).await;
    for n in 0..5 {
        stage.set("c", &n.to_string(), "1").await;
        dead_letter(&stage).await;
    }
    let ids: Vec<_> = stage
        .dead_letters()
        .await
        .iter()
        .map(|letter| letter.id)
        .collect();
    stage.start_with(options());
    until("two are removed", async || {
        stage.dead_letters().await.len() == 3
    })
    .await;
    let left: Vec<_> = stage
        .dead_letters()
        .await
        .iter()
        .map(|letter| letter.id)
        .collect();
    assert_eq!(left, ids[..3], "the newest stay");
    until("they are counted", async || {
        let text = stage.host.metrics().encode();
        text.contains("kvasm_upkeep_total{name=\"dead_letters\"} 2")
    })
    .await;
}

/// Only dead letters over the maximum age are removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_dead_letters_are_removed() {
    for (age, left) in [
        (Duration::from_millis(1), 0),
        (Duration::from_secs(3_600), 2),
    ] {
        let mut stage = EventHost::over(Arc::new(MemoryStore::new()), Box::new(())).await;
        stage.deploy(super::hosts::counter()).await;
        for n in 0..2 {
            stage.set("c", &n.to_string(), "1").await;
            dead_letter(&stage).await;
        }
        stage.start_with(DispatchOptions {
            dead_letter_retention: age,
            ..options()
        });
        // Expired entries are removed in each round. Once that has happened twice, a whole
        // round has run in between.
        for _ in 0..2 {
            let expired = Op::Set {
                collection: collection("e"),
                key: Key::parse("k").unwrap(),
                value: Value::json("1", 10).unwrap(),
                expires_at: Some(Timestamp(1)),
            };
            let batch = Commit::new(stage.app().await.id, Timestamp(0), Batch::of(vec![expired]));
            stage.host.store().commit(batch).await.unwrap();
            until("a round has been made", async || entries(&stage).await == 2).await;
        }
        until("old dead letters are removed", async || {
            stage.dead_letters().await.len() == left
        })
        .await;
        stage.stop().await;
        assert_eq!(stage.dead_letters().await.len(), left, "{age:?}");
    }
}

/// Another host deletes an app that this one has called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_state_of_a_deleted_app_is_dropped() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let stage = EventHost::over(Arc::clone(&store), Box::new(())).await;
    let log = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 5))) (i32.const 0)";
    stage.deploy(module("hello", log)).await;
    let mut kept = EventHost::over(Arc::clone(&store), Box::new(())).await;
    kept.name = AppName::parse("kept").unwrap();
    stage.host.create_app(kept.name.clone()).await.unwrap();
    kept.deploy(module("hello", log)).await;
    let (gone, kept) = (stage.app().await, kept.app().await);
    for app in [&gone, &kept] {
        let call = kvasm::Call::function("run");
        stage.host.invoke(app, call).await.unwrap();
    }
    let has_series = |app: &str| {
        let text = stage.host.metrics().encode();
        text.contains(&format!("kvasm_invocations_total{{app=\"{app}\""))
    };
    let has_log = |app: &App| !stage.host.logs().read(app.id, 0, 9).is_empty();
    assert!(has_series("app") && has_series("kept") && has_log(&gone) && has_log(&kept));
    let other = EventHost::over(store, Box::new(())).await;
    let operator = other.host.operator("a test");
    other.host.delete_app(&operator, &gone).await.unwrap();
    assert!(has_series("app") && has_log(&gone));
    let dispatcher = Dispatcher::new(stage.host.clone(), options());
    let dispatcher = tokio::spawn(dispatcher.run(std::future::pending()));
    until("its log and its metrics are removed", async || {
        !has_series("app") && !has_log(&gone)
    })
    .await;
    assert!(has_series("kept") && has_log(&kept));
    dispatcher.abort();
    // On the host that deletes it, at once.
    stage.host.delete_app(&operator, &kept).await.unwrap();
    assert!(!has_series("kept") && !has_log(&kept));
}

/// Dead-letters the only delivery.
async fn dead_letter(stage: &EventHost) {
    let (app, now) = (stage.app().await.id, Timestamp::now());
    let claim = Claim {
        queue: Queue {
            app,
            trigger: TriggerName::parse("run").unwrap(),
        },
        now,
        until: now.plus_ms(1_000),
        lease: Uuid::new_v4(),
        limit: 1,
    };
    let [delivery] = stage
        .host
        .store()
        .claim(&claim)
        .await
        .unwrap()
        .try_into()
        .unwrap();
    let failed = FailedAttempt {
        receipt: LeaseToken {
            app,
            place: delivery.place,
            lease: claim.lease,
        },
        now,
        verdict: Verdict::DeadLetter(DeadReason::Attempts),
        deterministic: false,
        probe: ProbeDelay::default(),
        error: "enough".to_owned(),
        trace: None,
        plugin: None,
    };
    assert!(stage.host.store().fail(&failed).await.unwrap().is_held());
}

/// Deletes a big app and leaves the rest to the dispatcher. `number` runs a query directly on
/// the database; `spare` is the query for the pages to release.
async fn deleted_app_is_removed(
    store: Arc<dyn Store>,
    keep: Box<dyn std::any::Any + Send + Sync>,
    spare: &'static str,
    number: impl AsyncFn(&'static str) -> i64,
) {
    const ENTRIES: usize = 2_500;
    let mut stage = EventHost::over(store, keep).await;
    let kit = Kit::new(Arc::clone(stage.host.store()), 0);
    let (big, other) = (kit.app().await, kit.app().await);
    big.watch("t", "watched").await;
    big.set("watched", "k", bytes("1")).await;
    for from in (0..ENTRIES).step_by(500) {
        let ops = (from..from + 500).map(|at| set("c", &format!("k{at}"), bytes([7; 4_000])));
        big.commit(vec![], ops.collect()).await;
    }
    other.set("c", "k", bytes("1")).await;
    for at in 0..20 {
        let audit = Audit {
            app: Some((other.id, other.name.clone())),
            ..other.audit_row("a test's")
        };
        let store = stage.host.store();
        store
            .set_public(other.id, at % 2 == 0, audit)
            .await
            .unwrap();
    }
    assert!(big.delete_app().await.unwrap());
    // Without the dispatcher, nothing has happened.
    let left = "SELECT (SELECT count(*) FROM kv_entries) + (SELECT count(*) FROM deliveries)
                + (SELECT count(*) FROM apps WHERE deleted_at IS NOT NULL)";
    assert_eq!(number(left).await, 1 + ENTRIES as i64 + 1 + 1 + 1);
    stage.start_with(DispatchOptions {
        audit_of_app: 5,
        ..options()
    });
    until("the rows of the deleted app are removed", async || {
        number(left).await == 1
    })
    .await;
    let audit = "SELECT count(*) FROM audit WHERE action = 'a test''s'";
    until("the oldest audit rows are removed", async || {
        number(audit).await == 5
    })
    .await;
    until("they are counted", async || {
        let text = stage.host.metrics().encode();
        text.contains("kvasm_upkeep_total{name=\"audit\"} 15")
            && text.contains("kvasm_upkeep_total{name=\"rows_of_deleted_apps\"}")
    })
    .await;
    assert_eq!(other.value("c", "k").await, Some(bytes("1")));
    until("free space is released", async || number(spare).await <= 0).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_app_and_old_audit_rows_are_removed_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
    let file = rusqlite::Connection::open(&path).unwrap();
    let number = |sql: &str| file.query_row(sql, [], |row| row.get(0)).unwrap();
    // 1,024 pages and a tenth of the file are kept.
    let spare = "SELECT freelist_count - 1024 - page_count / 10
                 FROM pragma_freelist_count, pragma_page_count";
    let number = async |sql: &'static str| number(sql);
    deleted_app_is_removed(Arc::new(store), Box::new(folder), spare, number).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_app_and_old_audit_rows_are_removed_on_postgres() {
    let url = tokio::task::spawn_blocking(postgres::fresh_database);
    let url = url.await.unwrap();
    let patience = Duration::from_secs(60);
    let store = PostgresStore::connect(PostgresOptions {
        acquire_timeout: patience,
        statement_timeout: patience,
        ..PostgresOptions::new(url.clone())
    });
    let store = store.await.unwrap();
    let number = async |sql: &'static str| {
        let database = url.rsplit('/').next().unwrap().to_owned();
        let psql = move || postgres::shared().psql(&database, sql).unwrap();
        let text = tokio::task::spawn_blocking(psql).await.unwrap();
        text.trim().parse().unwrap()
    };
    // Postgres releases space on its own.
    deleted_app_is_removed(Arc::new(store), Box::new(()), "SELECT 0", number).await;
}
