//! Several hosts on one database.

use super::{connect, deadlocks, options, psql};
use kvasm::store::{PostgresStore, Store, StoreError};
use kvasm_store_testing::conformance::kit::{Tenant, absent, app as new_app, bytes, set};
use kvasm_store_testing::conformance::{races, versions};
use kvasm_tests::postgres::{Session, shared};
use std::sync::Arc;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_migrations_succeed() {
    let options = options().await;
    let mut hosts = JoinSet::new();
    for _ in 0..8 {
        hosts.spawn(PostgresStore::connect(options.clone()));
    }
    for store in hosts.join_all().await {
        store
            .expect("each host connects")
            .ping()
            .await
            .expect("each host works");
    }
    PostgresStore::migrate(&options)
        .await
        .expect("migrating again does nothing");
    let applied = psql(
        &options.url,
        "SELECT count(*), count(DISTINCT version) FROM _sqlx_migrations",
    );
    let applied = applied.await;
    let (all, distinct) = applied.trim().split_once('|').expect("two numbers");
    assert_eq!(all, distinct);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_share_writes_and_apps() {
    let options = options().await;
    let one = connect(options.clone()).await;
    let two = connect(options).await;
    let app = one.app().await;
    let there = Tenant {
        store: Arc::clone(&two.store),
        ..app.clone()
    };
    for round in 0..20_u8 {
        let (from, to) = if round % 2 == 0 {
            (&app, &there)
        } else {
            (&there, &app)
        };
        let version = from.set("c", "k", bytes([round])).await;
        let entry = to.get("c", "k").await.expect("what the other host wrote");
        assert_eq!((entry.value, entry.version), (bytes([round]), version));
    }
    assert_eq!(
        there
            .expect_conflict(vec![absent("c", "k")], vec![set("c", "k", bytes("x"))])
            .await,
        [0]
    );
    assert!(two.delete_app(app.id).await.expect("deletion"));
    assert_eq!(app.get("c", "k").await, None);
}

/// Batches and deletions of apps take their locks in one order. A deadlock would not fail this
/// test, but block for a second until Postgres resolves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_batches_do_not_deadlock() {
    let options = options().await;
    for property in 0..4 {
        let kit = connect(options.clone()).await;
        match property {
            0 => races::batches_in_opposite_key_orders_do_not_deadlock(kit).await,
            1 => races::crossed_absence_checks_prevent_write_skew(kit).await,
            2 => races::app_deletion_during_concurrent_writes(kit).await,
            _ => versions::versions_increase_under_concurrent_batches(kit).await,
        }
    }
    assert_eq!(deadlocks(&options.url).await, 0);
}

/// Each text column that is compared has an explicit collation, independent of the database's
/// default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_columns_use_bytewise_collation() {
    let options = options().await;
    connect(options.clone()).await;
    let sql = "SELECT c.relname || '.' || a.attname || '=' || l.collname
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_collation l ON l.oid = a.attcollation
        WHERE c.relname IN ('apps', 'kv_entries', 'triggers', 'deliveries', 'dead_letters')
        AND c.relkind = 'r' AND l.collname = 'C' AND a.attnum > 0 ORDER BY 1";
    let found = psql(&options.url, sql).await;
    let found: Vec<_> = found.lines().collect();
    assert_eq!(
        found,
        [
            "apps.name=C",
            "dead_letters.collection=C",
            "dead_letters.key=C",
            "dead_letters.trigger_name=C",
            "deliveries.collection=C",
            "deliveries.key=C",
            "deliveries.trigger_name=C",
            "kv_entries.collection=C",
            "kv_entries.key=C",
            "triggers.collection=C",
            "triggers.name=C",
            "triggers.prefix=C",
        ]
    );
}

#[test]
fn database_not_in_utf8_is_rejected() {
    let sql = "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER 'libc' LOCALE 'C' TEMPLATE template0";
    shared()
        .psql("postgres", sql)
        .expect("a database in LATIN1");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let options = kvasm::store::PostgresOptions::new(shared().url("latin"));
    let error = runtime
        .block_on(PostgresStore::connect(options))
        .err()
        .expect("the connection must fail");
    let kvasm::store::StoreError::Failed(cause) = error else {
        panic!("{error:?}")
    };
    assert!(cause.to_string().contains("LATIN1"), "{cause}");
}

/// Postgres grants the shared lock of a writer past a deletion that waits for an exclusive one, so
/// that writers that overlap could hold a deletion off forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn app_deletion_is_not_starved_by_overlapping_writers() {
    let options = options().await;
    let url = options.url.clone();
    let kit = connect(options).await;
    let app = kit.app().await;
    let name = app.app_row().await.name;
    let database = url.rsplit('/').next().expect("a name").to_owned();
    let hold = format!(
        "BEGIN; SELECT id FROM apps WHERE id = '{}' FOR KEY SHARE",
        app.id
    );
    let writer = tokio::task::spawn_blocking(move || {
        let mut session = Session::start(shared(), &database).expect("a session");
        session.run(&hold).expect("the lock of a writer");
        session
    });
    let writer = writer.await.expect("a session");
    let deletion = {
        let app = app.clone();
        tokio::spawn(async move { app.delete_app().await })
    };
    // New writers are refused although the first has not ended.
    loop {
        match app
            .try_commit(vec![], vec![set("c", "k", bytes("x"))])
            .await
        {
            Ok(_) => assert!(!deletion.is_finished(), "no writer was refused"),
            Err(StoreError::AppNotFound) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(
        !deletion.is_finished(),
        "it did not wait for the first writer"
    );
    tokio::task::spawn_blocking(|| drop(writer))
        .await
        .expect("the end of the writer");
    assert!(deletion.await.expect("a deletion").expect("a deletion"));
    kit.create(&new_app(name.as_str()))
        .await
        .expect("the name is free");
}
