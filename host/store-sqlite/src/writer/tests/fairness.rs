//! The turns that administrators' writes take.

use super::*;
use kvasm_core::store::Registry;
use kvasm_core::{Audit, Digest, Exports, NewPlugin};
use uuid::Uuid;

/// Each is committed in a turn of its app.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_are_scheduled_with_their_app() {
    const LARGE: u8 = 20;
    let stage = patient(Duration::from_secs(60)).await;
    let (large, small) = (stage.app("large").await, stage.app("small").await);
    let lock = stage.other_process();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut callers = JoinSet::new();
    let mut upload = |app: AppId, wasm: u8| {
        let store = Arc::clone(&stage.store);
        callers.spawn(async move {
            let plugin = NewPlugin {
                app,
                digest: Digest([wasm; 32]),
                wasm: vec![wasm].into(),
                exports: Exports::default(),
                activate: false,
            };
            let audit = Audit {
                id: Uuid::now_v7(),
                at: Timestamp(1),
                token: None,
                actor: "test".to_owned(),
                action: "test".into(),
                app: None,
                detail: serde_json::json!({}),
                request_id: Uuid::nil(),
            };
            store.add_plugin(plugin, audit).await.unwrap();
        });
    };
    let waiting = async |jobs: usize| {
        while stage.store.writer.jobs.as_ref().unwrap().capacity() > QUEUE_LEN - jobs {
            tokio::task::yield_now().await;
        }
    };
    for wasm in 1..=LARGE {
        upload(large, wasm);
    }
    // The thread has one and waits for the lock with it.
    waiting(usize::from(LARGE) - 1).await;
    upload(small, 0);
    waiting(usize::from(LARGE)).await;
    lock.execute_batch("COMMIT").unwrap();
    callers.join_all().await;
    let before = "SELECT count(*) FROM modules
        WHERE rowid < (SELECT rowid FROM modules WHERE wasm = x'00')";
    let before: i64 = lock.query_row(before, [], |row| row.get(0)).unwrap();
    assert!(before <= 2, "{before} uploads of another app came first");
}
