//! Load that fills the disk or occupies the only writer, and the effect on other apps.

use super::kit::{self, LoadHost, Neighbour};
use kvasm::model::{AppId, DELIVERY_BYTES, Resource, TRIGGERED_DELIVERIES_MAX};
use kvasm::store::{SqliteOptions, SqliteStore, StoreError};
use kvasm_store_testing::conformance::Kit;
use kvasm_store_testing::conformance::kit::{bytes, delete, reap_step, set};
use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::server::eventually;
use std::path::Path;
use std::sync::Arc;

/// A handler that writes 100 new keys of the collection that it watches. Their names begin with
/// its event id.
fn fan_out_handler() -> Vec<u8> {
    let sections = manifest(&[
        r#"{"kind":"function","name":"start"}"#,
        r#"{"kind":"on_change","name":"spread","collection":"c"}"#,
    ]);
    let set = "(call $kv_set (i32.const 0) (i32.const 1) (i32.const 1078) (i32.const 38)
        (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0))";
    let fields = format!(
        r#"{sections}
        (func (export "start") (result i32)
          (i64.gt_s (i64.const 0) (call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)
            (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0))))
        (func (export "spread") (result i32) (local $n i32)
          (drop (call $input_read (i32.const 0) (i32.const 1000) (i32.const 500)))
          (loop $more
            (i32.store8 (i32.const 1114) (i32.add (i32.const 48) (i32.div_u (local.get $n) (i32.const 10))))
            (i32.store8 (i32.const 1115) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
            (if (i64.gt_s (i64.const 0) {set}) (then unreachable))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 100))))
          (i32.const 0))"#
    );
    module_with("c1", &fields, "(i32.const 0)")
}

/// One write of a watched entry, whose handler writes 100 more, and so on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trigger_cascade_of_one_change_is_limited() {
    let _alone = kit::serial().await;
    let stage = LoadHost::new().await;
    let neighbour = Arc::new(Neighbour::new(&stage, "neighbour").await);
    let app = stage.server.deployed("spreading", fan_out_handler()).await;
    let watch = neighbour.spawn();
    let started = stage
        .server
        .anonymous()
        .call("spreading", "start", "")
        .await;
    started.expect(200);
    eventually("the trigger is paused, or all is done", async || {
        let left = stage.host().store().deliveries(app.id, None, 1).await;
        !stage.paused(&app).await.is_empty() || left.unwrap().is_empty()
    })
    .await;
    let usage = stage.host().store().usage(app.id).await.unwrap();
    assert!(usage.entries > 1, "the handler has run");
    assert!(
        usage.entries <= u64::from(TRIGGERED_DELIVERIES_MAX),
        "{usage:?}"
    );
    // Rejected deliveries wait for the trigger, or are dead letters by now.
    let left = stage.host().store().deliveries(app.id, None, 200).await;
    let left = left.unwrap().into_iter().filter_map(|left| left.error);
    let errors: Vec<_> = left.chain(stage.dead_letter_errors(&app).await).collect();
    assert!(!errors.is_empty());
    assert!(
        errors.iter().all(|error| error.contains("deliveries")),
        "{errors:?}"
    );
    watch.end().await.assert_unaffected();
    neighbour.assert_all_delivered(&stage).await;
    stage.stop().await;
}

async fn open(path: &Path) -> Kit {
    let store = SqliteStore::open(SqliteOptions::new(path)).await.unwrap();
    Kit::new(Arc::new(store), 0)
}

/// The size of a file and its WAL.
fn on_disk(path: &Path) -> u64 {
    let log = path.with_extension("db-wal");
    let len = |path: &Path| path.metadata().map_or(0, |meta| meta.len());
    len(path) + len(&log)
}

/// 100 paused triggers and one key, written until the quota is used up.
#[tokio::test]
async fn byte_quota_limits_the_file_size() {
    let _alone = kit::serial().await;
    const QUOTA: u64 = 1_000_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    let kit = open(&path).await;
    let app = kit.app().await;
    for at in 0..100 {
        let name = format!("t{at}");
        app.watch(&name, "c").await;
        app.pause(&name, true).await;
    }
    app.set_quota(None, Some(QUOTA)).await;
    let refused = loop {
        match app
            .try_commit(vec![], vec![set("c", "k", bytes("1"))])
            .await
        {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let StoreError::Quota { resource, .. } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(resource, Resource::Bytes);
    let used = app.quota_usage().await;
    assert!(used.deliveries <= QUOTA / DELIVERY_BYTES, "{used:?}");
    drop((app, kit));
    // The WAL is checkpointed by now.
    let taken = on_disk(&path);
    assert!(taken < 2 * QUOTA, "{taken} bytes on disk");
}

#[tokio::test]
async fn freed_space_is_returned_to_the_disk() {
    let _alone = kit::serial().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    let kit = open(&path).await;
    let app = kit.app().await;
    for at in 0..2_000 {
        app.set("c", &format!("k{at}"), bytes(vec![7; 16 * 1024]))
            .await;
    }
    for from in (0..2_000).step_by(500) {
        let ops = (from..from + 500).map(|at| delete("c", &format!("k{at}")));
        app.commit(vec![], ops.collect()).await;
    }
    let mut steps = 0;
    while kit.store.reclaim_space().await.unwrap() {
        steps += 1;
        // Others write between two steps, none of which is large.
        app.set("d", "k", bytes("1")).await;
    }
    assert!(steps >= 10, "{steps} steps");
    assert!(!kit.store.reclaim_space().await.unwrap());
    drop((app, kit));
    let left = on_disk(&path);
    assert!(left < 8 * 1024 * 1024, "{left} bytes are left");
    // The file is intact.
    let kit = open(&path).await;
    kit.app().await.set("c", "k", bytes("1")).await;
}

/// Inserts entries of an app, bypassing the store, which would take a while.
fn fill(path: &Path, app: AppId, entries: u32) {
    let file = rusqlite::Connection::open(path).unwrap();
    file.busy_timeout(std::time::Duration::from_secs(60))
        .unwrap();
    let insert = "WITH RECURSIVE n(at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM n WHERE at + 1 < ?2)
        INSERT INTO kv_entries (app_id, collection, key, value, size, version, created_at, updated_at)
        SELECT ?1, 'c', format('k%06d', at), zeroblob(200), 400, at + 1, 1, 1 FROM n";
    let id = app.uuid().into_bytes();
    let made = file.execute(insert, (id, entries)).unwrap();
    assert_eq!(made, entries as usize);
}

/// A large app is deleted while a neighbour continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_large_app_does_not_block_other_writers() {
    let _alone = kit::serial().await;
    const ENTRIES: u32 = 200_000;
    // Like the upkeep's.
    const STEP: u32 = 500;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvasm.db");
    let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
    let stage = LoadHost::over(Arc::new(store), Box::new(folder), |builder| builder).await;
    let neighbour = Arc::new(Neighbour::new(&stage, "neighbour").await);
    let store = stage.host().store();
    let kit = Kit::new(Arc::clone(store), 0);
    let big = kit.app().await;
    fill(&path, big.id, ENTRIES);
    let watch = neighbour.spawn();
    assert!(big.delete_app().await.unwrap());
    assert_eq!(big.get("c", "k000001").await, None);
    let mut steps = 0;
    loop {
        let reaped = reap_step(&**store, STEP).await;
        if reaped == 0 {
            break;
        }
        assert!(reaped <= u64::from(STEP));
        steps += 1;
        // A neighbour's write can run after each step.
        neighbour.run(1).await.assert_unaffected();
    }
    assert!(steps >= ENTRIES / STEP, "{steps} steps");
    watch.end().await.assert_unaffected();
    neighbour.assert_all_delivered(&stage).await;
    stage.stop().await;
}

/// Four clients export a large app repeatedly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_do_not_starve_neighbour_writes() {
    const ENTRIES: usize = 2_000;
    let _alone = kit::serial().await;
    let stage = LoadHost::new().await;
    let neighbour = Arc::new(Neighbour::new(&stage, "neighbour").await);
    let big = stage.server.app("big", false).await;
    let kit = Kit::new(Arc::clone(stage.host().store()), 0);
    let tenant = kvasm_store_testing::conformance::kit::Tenant {
        id: big.id,
        ..kit.app().await
    };
    for from in (0..ENTRIES).step_by(100) {
        let value = |at| set("c", &format!("k{at}"), bytes(vec![7; 16 * 1024]));
        let ops = (from..from + 100).map(value).collect();
        tenant.commit(vec![], ops).await;
    }
    let end = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let loops: Vec<_> = (0..4)
        .map(|_| {
            let (api, end) = (stage.server.root.clone(), Arc::clone(&end));
            tokio::spawn(async move {
                let mut exports = 0;
                while !end.load(std::sync::atomic::Ordering::Relaxed) {
                    let answer = api.get("/v1/apps/big/kv/export").await.expect(200);
                    assert_eq!(answer.text().lines().count(), ENTRIES);
                    exports += 1;
                }
                exports
            })
        })
        .collect();
    neighbour.run(100).await.assert_unaffected();
    end.store(true, std::sync::atomic::Ordering::Relaxed);
    for exports in loops {
        assert!(exports.await.unwrap() > 0);
    }
    neighbour.assert_all_delivered(&stage).await;
    stage.stop().await;
}

/// Four clients make writes that create 10,000 deliveries in each commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fan_out_commits_do_not_starve_neighbour_writes() {
    const CLIENTS: usize = 4;
    const COMMITS: usize = 2;
    let _alone = kit::serial().await;
    let stage = LoadHost::new().await;
    let neighbour = Arc::new(Neighbour::new(&stage, "neighbour").await);
    let kit = Kit::new(Arc::clone(stage.host().store()), 0);
    let app = kit.app().await;
    for at in 0..100 {
        let name = format!("t{at}");
        app.watch(&name, "c").await;
        app.pause(&name, true).await;
    }
    let watch = neighbour.spawn();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let app = app.clone();
            tokio::spawn(async move {
                for commit in 0..COMMITS {
                    let ops =
                        (0..100).map(|at| set("c", &format!("{client}-{commit}-{at}"), bytes("1")));
                    app.commit(vec![], ops.collect()).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    watch.end().await.assert_unaffected();
    assert_eq!(
        app.quota_usage().await.deliveries,
        (CLIENTS * COMMITS * 10_000) as u64
    );
    neighbour.assert_all_delivered(&stage).await;
    stage.stop().await;
}
