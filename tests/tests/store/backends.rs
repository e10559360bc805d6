//! Opens an empty store of each kind.

use kvasm::store::{MemoryStore, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore};
use kvasm_store_testing::conformance::Fixture;
use kvasm_store_testing::faulty::FaultyStore;
use kvasm_tests::postgres::fresh_database;
use std::sync::Arc;

pub async fn memory() -> Fixture {
    Fixture {
        store: Arc::new(MemoryStore::new()),
        keep: Box::new(()),
    }
}

/// A store that could fail, without faults.
pub async fn faulty() -> Fixture {
    let (store, _) = FaultyStore::over(Arc::new(MemoryStore::new()));
    Fixture {
        store,
        keep: Box::new(()),
    }
}

pub async fn sqlite() -> Fixture {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let store = SqliteStore::open(options).await.expect("a new SQLite file");
    Fixture {
        store: Arc::new(store),
        keep: Box::new(folder),
    }
}

pub async fn postgres() -> Fixture {
    // Starting the shared cluster blocks, and may take seconds.
    let url = tokio::task::spawn_blocking(fresh_database)
        .await
        .expect("a database");
    let mut options = PostgresOptions::new(url);
    // Tests run concurrently on one small server.
    options.max_connections = 8;
    // On a busy machine, a long wait is not a failure.
    options.acquire_timeout = std::time::Duration::from_secs(60);
    options.statement_timeout = std::time::Duration::from_secs(60);
    let store = PostgresStore::connect(options)
        .await
        .expect("a store on the database");
    Fixture {
        store: Arc::new(store),
        keep: Box::new(()),
    }
}
