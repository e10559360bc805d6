//! Hosts that add, switch and remove plugins at once.

use super::usage::audit;
use super::{connect, deadlocks, options, psql};
use kvasm::model::{AppId, Change, Changed, Digest, Exports, NewPlugin, PluginVersion, WriteBatch};
use kvasm::store::{Store, StoreError};
use kvasm_tests::conformance::kit::{NOW, absent, bytes, set};
use std::sync::Arc;
use tokio::task::JoinSet;

const DIGEST: Digest = Digest([9; 32]);

fn plugin(app: AppId) -> Change {
    Change::AddPlugin(NewPlugin {
        app,
        digest: DIGEST,
        wasm: vec![5; 20_000].into(),
        exports: Exports::default(),
        activate: false,
    })
}

async fn change(store: &Arc<dyn Store>, change: Change) -> Changed {
    store.change(change, audit()).await.expect("a change")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_add_and_remove_the_same_module() {
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
                    let added = change(&store, plugin(app)).await;
                    assert_eq!(added, Changed::Plugin(PluginVersion(number)));
                }
                let version = PluginVersion(1);
                let deleted = change(&store, Change::DeletePlugin { app, version }).await;
                assert_eq!(deleted, Changed::Done);
                let module = store.module(DIGEST).await.expect("a module");
                assert_eq!(module.expect("version 2 has it").len(), 20_000);
                if round % 2 == 0 {
                    assert!(store.delete_app(app).await.expect("a deletion"));
                } else {
                    let version = PluginVersion(2);
                    change(&store, Change::DeletePlugin { app, version }).await;
                    let added = change(&store, plugin(app)).await;
                    assert_eq!(added, Changed::Plugin(PluginVersion(3)));
                    let deleted = change(&store, Change::DeleteApp(app)).await;
                    assert_eq!(deleted, Changed::Done);
                }
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.expect("a worker");
    }
    reap(&*hosts[0]).await;
    let left = "SELECT (SELECT count(*) FROM modules), (SELECT count(*) FROM plugins), \
                (SELECT count(*) FROM app_usage)";
    assert_eq!(psql(&options.url, left).await.trim(), "0|0|0");
    drop(hosts);
    assert_eq!(deadlocks(&options.url).await, 0);
}

/// Versions of one app are numbered without a gap, and each activation replaces
/// the one before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_upload_to_one_app() {
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
            let Changed::Plugin(version) = change(&store, plugin(app)).await else {
                panic!("no version");
            };
            let activation = Change::ActivatePlugin { app, version };
            assert_eq!(change(&store, activation).await, Changed::Plugin(version));
            version.0
        });
    }
    let mut versions = workers.join_all().await;
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<_>>());
    let mut back = 0;
    while let Changed::Plugin(_) = match hosts[1]
        .store
        .change(Change::RollBackPlugin(app), audit())
        .await
    {
        Ok(changed) => changed,
        Err(StoreError::NothingToRollBackTo) => Changed::Nothing,
        Err(error) => panic!("{error:?}"),
    } {
        back += 1;
    }
    assert_eq!(back, 7, "the first that was active replaced none");
}

/// A batch and its audit row are there together or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_brings_its_audit_row() {
    let options = options().await;
    let kit = connect(options).await;
    let app = kit.app().await;
    let batch = |checks| WriteBatch {
        checks,
        ops: vec![set("c", "k", bytes("x"))],
        audit: Some(Box::new(audit())),
        ..WriteBatch::new(app.id, NOW)
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
    assert_eq!(rows.len(), 2);
}
