//! Errors are classified by their cause, not by their text.

use super::{connect, options, psql};
use kvasm::store::{PostgresOptions, PostgresStore, StoreError};
use kvasm_store_testing::conformance::kit::{absent, at_version, bytes, delete, set};
use kvasm_tests::postgres::shared;
use std::time::Duration;

async fn refusal(url: String) -> StoreError {
    let options = PostgresOptions {
        acquire_timeout: Duration::from_secs(20),
        ..PostgresOptions::new(url)
    };
    PostgresStore::connect(options)
        .await
        .err()
        .expect("the connection must fail")
}

#[tokio::test]
async fn unreachable_server_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = refusal(format!("postgres://postgres@127.0.0.1:{port}/postgres")).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn invalid_address_fails() {
    let database = tokio::task::spawn_blocking(|| shared().url("no_such_database"))
        .await
        .unwrap();
    for url in [database, "postgres://[".to_owned(), "nonsense".to_owned()] {
        let error = refusal(url).await;
        assert!(matches!(error, StoreError::Failed(_)), "{error:?}");
    }
}

#[test]
fn debug_output_of_options_hides_the_password() {
    let options = PostgresOptions::new("postgres://me:secret@host/db");
    assert!(!format!("{options:?}").contains("secret"));
}

/// Locks the entries in another session until the guard is dropped.
struct TableLock {
    url: String,
    session: Option<tokio::task::JoinHandle<String>>,
}

impl TableLock {
    async fn take(url: &str) -> TableLock {
        let session = tokio::spawn({
            let url = url.to_owned();
            async move {
                // The statement fails when its session is terminated below.
                let database = url.rsplit('/').next().unwrap().to_owned();
                let sql = "SET application_name = 'lock'; BEGIN; LOCK TABLE kv_entries; SELECT pg_sleep(600)";
                tokio::task::spawn_blocking(move || {
                    shared()
                        .psql(&database, sql)
                        .err()
                        .map(|e| e.to_string())
                        .unwrap_or_default()
                })
                .await
                .unwrap()
            }
        });
        let sql = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                   WHERE a.application_name = 'lock' AND a.datname = current_database() AND l.granted \
                   AND l.mode = 'AccessExclusiveLock'";
        while psql(url, sql).await.trim() == "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        TableLock {
            url: url.to_owned(),
            session: Some(session),
        }
    }

    async fn release(mut self) {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE application_name = 'lock' AND datname = current_database()";
        psql(&self.url, sql).await;
        self.session.take().unwrap().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statement_timeout_and_full_pool_are_unavailable() {
    let options = PostgresOptions {
        max_connections: 2,
        acquire_timeout: Duration::from_millis(300),
        statement_timeout: Duration::from_millis(600),
        ..options().await
    };
    let url = options.url.clone();
    PostgresStore::migrate(&PostgresOptions {
        acquire_timeout: Duration::from_secs(60),
        ..options.clone()
    })
    .await
    .expect("a schema");
    let kit = connect(options).await;
    let app = kit.app().await;
    let version = app.set("c", "k", bytes("1")).await;
    let lock = TableLock::take(&url).await;
    // Two wait for the lock until their statements time out; the others wait for a connection.
    let batches = [
        (vec![], vec![set("c", "k", bytes("2"))]),
        (
            vec![at_version("c", "k", version)],
            vec![set("c", "k", bytes("2"))],
        ),
        (vec![absent("c", "l")], vec![delete("c", "l")]),
        (
            vec![absent("c", "l")],
            vec![set("c", "k", bytes("2")), delete("c", "l")],
        ),
        (vec![], vec![delete("c", "k")]),
        (
            vec![],
            vec![set("c", "l", bytes("2")), set("c", "m", bytes("2"))],
        ),
    ];
    let calls = batches.map(|(checks, ops)| {
        let app = app.clone();
        tokio::spawn(async move { app.try_commit(checks, ops).await })
    });
    for call in calls {
        let result = call.await.unwrap();
        assert!(
            matches!(result, Err(StoreError::Unavailable(_))),
            "{result:?}"
        );
    }
    lock.release().await;
    // None of them was applied, and the store works.
    let entry = loop {
        let (c, k) = (
            kvasm_store_testing::conformance::kit::collection("c"),
            kvasm_store_testing::conformance::kit::key("k"),
        );
        match app.store.get(app.id, &c, &k, app.now).await {
            Ok(entry) => break entry.unwrap(),
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!((entry.value, entry.version), (bytes("1"), version));
}

/// A table that differs from the schema is a permanent failure, not an outage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_schema_is_a_permanent_failure() {
    let options = options().await;
    let kit = connect(options.clone()).await;
    let app = kit.app().await;
    psql(
        &options.url,
        "ALTER TABLE kv_entries RENAME COLUMN bytes TO octets",
    )
    .await;
    for ops in [
        vec![set("c", "k", bytes("1"))],
        vec![delete("c", "k"), set("c", "k", bytes("1"))],
    ] {
        let result = app.try_commit(vec![], ops).await;
        assert!(matches!(result, Err(StoreError::Failed(_))), "{result:?}");
    }
    psql(
        &options.url,
        "ALTER TABLE kv_entries RENAME COLUMN octets TO bytes",
    )
    .await;
    app.set("c", "k", bytes("1")).await;
}
