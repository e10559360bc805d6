//! Tests of Postgres alone: hosts that share a database, outages, and traffic on the wire.

mod concurrent_delivery;
mod connecting;
mod dead_rows;
mod errors;
mod modules;
mod one_round_trip;
mod outages;
mod proxy;
mod sharing;
mod usage;
mod wire;

use kvasm::store::{PostgresOptions, PostgresStore};
use kvasm_store_testing::conformance::Kit;
use kvasm_store_testing::conformance::rng;
use kvasm_tests::postgres::fresh_database;
use std::sync::Arc;
use std::time::Duration;

/// Options for a new database on the shared cluster, with long timeouts, so that no test fails
/// on a busy machine.
async fn options() -> PostgresOptions {
    let url = tokio::task::spawn_blocking(fresh_database)
        .await
        .expect("a database");
    PostgresOptions {
        acquire_timeout: Duration::from_secs(60),
        statement_timeout: Duration::from_secs(60),
        ..PostgresOptions::new(url)
    }
}

async fn connect(options: PostgresOptions) -> Kit {
    let store = PostgresStore::connect(options).await.expect("a store");
    let seed = rng::seed();
    Kit::new(Arc::new(store), seed)
}

/// Runs psql, which blocks, on the shared cluster.
async fn psql(url: &str, sql: impl Into<String>) -> String {
    let database = url.rsplit('/').next().expect("a database").to_owned();
    let sql = sql.into();
    tokio::task::spawn_blocking(move || {
        kvasm_tests::postgres::shared()
            .psql(&database, &sql)
            .expect("psql")
    })
    .await
    .expect("psql")
}

/// The number of deadlocks that Postgres has resolved. Waits until all stores on the database
/// are dropped: a session reports its deadlocks at its end at the latest.
async fn deadlocks(url: &str) -> u64 {
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND pid <> pg_backend_pid()";
    while psql(url, sessions).await.trim() != "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let count = psql(url, sql).await;
    count.trim().parse().expect("a number")
}
