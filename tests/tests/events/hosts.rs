//! Several hosts, and several apps.

use super::stage::{Stage, manifest};
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{AppName, Collection, Key, Value};
use kvasm::service::{Caller, Write};
use kvasm::store::MemoryStore;
use kvasm_tests::guests::module_with;
use std::sync::Arc;
use std::time::Duration;

/// Adds 1 to the entry "k" of "d" for each change in "c".
pub fn counter() -> Vec<u8> {
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    let add = "(drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
        (i64.const 1) (i32.const 16))) (i32.const 0)";
    module_with("dk", &watch, add)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_share_the_work_and_count_each_change_once() {
    let store = Arc::new(MemoryStore::new());
    let mut one = Stage::over(store.clone(), Box::new(())).await;
    let mut two = Stage::over(store, Box::new(())).await;
    one.deploy(counter()).await;
    let options = DispatchOptions {
        poll: Duration::from_millis(5),
        ..DispatchOptions::default()
    };
    one.start_with(options.clone());
    two.start_with(options);
    for n in 0..200 {
        one.set("c", &(n % 20).to_string(), "1").await;
    }
    one.settle().await;
    assert_eq!(one.get("d", "k").await.as_deref(), Some("200"));
    two.stop().await;
    one.set("c", "x", "1").await;
    one.settle().await;
    assert_eq!(one.get("d", "k").await.as_deref(), Some("201"));
}

/// An app with a backlog that never ends does not stand before another app.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_one_app_does_not_hold_up_another() {
    let mut stage = Stage::over(Arc::new(MemoryStore::new()), Box::new(())).await;
    stage.deploy(counter()).await;
    let mut quiet = Stage::over(Arc::clone(stage.host.store()), Box::new(())).await;
    quiet.name = AppName::parse("quiet").unwrap();
    stage.host.create_app(quiet.name.clone()).await.unwrap();
    quiet.deploy(counter()).await;
    for n in 0..5_000 {
        let app = stage.app().await;
        let write = Write {
            collection: Collection::parse("c").unwrap(),
            key: Key::parse(n.to_string()).unwrap(),
            value: Value::json("1", 10).unwrap(),
            ttl_ms: None,
            expect: None,
        };
        stage
            .host
            .kv()
            .set(&Caller::new(&app, None), write)
            .await
            .unwrap();
    }
    stage.start();
    quiet.set("c", "one", "1").await;
    stage.host.wakes().wake();
    quiet.settle().await;
    let left = stage.outstanding().await.len();
    assert!(left > 0, "the backlog was gone before the other's event");
    assert_eq!(quiet.get("d", "k").await.as_deref(), Some("1"));
    stage.stop().await;
}
