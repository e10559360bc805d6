//! Hosts that add, activate and remove plugins concurrently.

use super::usage::audit;
use super::{connect, deadlocks, options, psql};
use kvasm::model::{AppId, Commit, Digest, Exports, NewPlugin, PluginVersion};
use kvasm::store::{Store, StoreError};
use kvasm_store_testing::conformance::kit::{KIT_ACTION, absent, bytes, reap, set};
use std::sync::Arc;
use tokio::task::JoinSet;

const DIGEST: Digest = Digest([9; 32]);

async fn add(store: &Arc<dyn Store>, app: AppId) -> u32 {
    let plugin = NewPlugin {
        app,
        digest: DIGEST,
        wasm: vec![5; 20_000].into(),
        exports: Exports::default(),
        activate: false,
    };
    store
        .add_plugin(plugin, audit())
        .await
        .expect("a version")
        .0
}

async fn delete(store: &Arc<dyn Store>, app: AppId, version: u32) -> bool {
    let deleted = store.delete_plugin(app, PluginVersion(version), audit());
    deleted.await.expect("a deletion")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_concurrently_add_and_remove_a_module() {
    let options = options().await;
    let hosts = [
        connect(options.clone()).await,
        connect(options.clone()).await,
    ];
    let mut workers = JoinSet::new();
    for worker in 0..6_usize {
        let store = Arc::clone(&hosts[worker % 2].store);
        let kit = hosts[worker % 2].clone();
        workers.spawn(async move {
            for round in 0..15_u32 {
                let app = kit.app().await.id;
                for number in 1..=2 {
                    assert_eq!(add(&store, app).await, number);
                }
                assert!(delete(&store, app, 1).await);
                let module = store.module(DIGEST).await.expect("a module");
                assert_eq!(module.expect("version 2 has it").len(), 20_000);
                if round % 2 == 1 {
                    assert!(delete(&store, app, 2).await);
                    assert_eq!(add(&store, app).await, 3);
                }
                let deleted = store.delete_app(app, audit()).await;
                assert!(deleted.expect("a deletion"));
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.expect("a worker");
    }
    reap(&*hosts[0].store).await;
    let left = "SELECT (SELECT count(*) FROM modules), (SELECT count(*) FROM plugins), \
                (SELECT count(*) FROM app_usage)";
    assert_eq!(psql(&options.url, left).await.trim(), "0|0|0");
    drop(hosts);
    assert_eq!(deadlocks(&options.url).await, 0);
}

/// Versions of an app are numbered without gaps, and each activation replaces the previous one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_concurrently_upload_to_one_app() {
    let options = options().await;
    let hosts = [
        connect(options.clone()).await,
        connect(options.clone()).await,
    ];
    let app = hosts[0].app().await.id;
    let mut workers = JoinSet::new();
    for worker in 0..8_usize {
        let store = Arc::clone(&hosts[worker % 2].store);
        workers.spawn(async move {
            let version = add(&store, app).await;
            let activation = store.activate_plugin(app, PluginVersion(version), audit());
            activation.await.expect("an activation");
            version
        });
    }
    let mut versions = workers.join_all().await;
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<_>>());
    let mut back = 0;
    loop {
        match hosts[1].store.roll_back_plugin(app, audit()).await {
            Ok(_) => back += 1,
            Err(StoreError::NothingToRollBackTo) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(back, 7, "the first active version replaced none");
}

/// A batch and its audit row are both stored, or neither is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_and_audit_row_commit_together() {
    let options = options().await;
    let kit = connect(options).await;
    let app = kit.app().await;
    let batch = |checks| Commit {
        audit: Some(Box::new(audit())),
        ..app.batch(checks, vec![set("c", "k", bytes("x"))])
    };
    let refused = app.store.commit(batch(vec![absent("c", "k")])).await;
    assert!(refused.is_ok(), "{refused:?}");
    let refused = app.store.commit(batch(vec![absent("c", "k")])).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { .. })),
        "{refused:?}"
    );
    app.store.commit(batch(vec![])).await.expect("a set");
    let rows = app.store.audit(None, None, 10).await.expect("the log");
    let rows = rows.iter().filter(|row| row.action != KIT_ACTION);
    assert_eq!(rows.count(), 2);
}
