//! Opens an empty store of each kind.

use kvasm::store::{MemoryStore, PostgresStore, SqliteOptions, SqliteStore};
use kvasm_store_testing::conformance::Fixture;
use kvasm_store_testing::faulty::FaultyStore;
use kvasm_tests::postgres::{fresh_database, store_options};
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
    let store = PostgresStore::connect(store_options(url))
        .await
        .expect("a store on the database");
    Fixture {
        store: Arc::new(store),
        keep: Box::new(()),
    }
}
