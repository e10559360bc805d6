//! Handlers that read the app's configuration values.

use super::event_host::{EventHost, manifest, until};
use kvasm::model::{ConfigValue, SettingName};
use kvasm::store::MemoryStore;
use kvasm_store_testing::faulty::{Faults, FaultyStore, Operation, unavailable};
use kvasm_tests::guests::module_with;
use std::sync::Arc;

/// An app whose handler copies the configuration value "d" to "k" of the collection "d".
async fn copying() -> (EventHost, Faults) {
    let (store, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
    let mut stage = EventHost::over(store, Box::new(())).await;
    stage.start();
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    let get = "(i32.wrap_i64 (call $config_get (i32.const 0) (i32.const 1) (i32.const 1024)
        (i32.const 100)))";
    let copy = format!(
        "(drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
            (i32.const 1024) {get} (i32.const 0) (i32.const 0)))
         (i32.const 0)"
    );
    stage.deploy(module_with("dk", &watch, &copy)).await;
    (stage, faults)
}

async fn set_config(stage: &EventHost, value: &str) {
    let app = stage.app().await;
    let operator = stage.host.operator("a test");
    let (name, value) = (
        SettingName::parse("d"),
        ConfigValue::parse(value.as_bytes()),
    );
    let set = stage
        .host
        .admin()
        .set_config(&operator, &app, name.unwrap(), value.unwrap());
    set.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_read_the_settings_as_of_their_delivery() {
    let (stage, _) = copying().await;
    for value in ["7", "8"] {
        set_config(&stage, value).await;
        stage.set("c", "k", value).await;
        stage.wait_until_idle().await;
        assert_eq!(stage.get("d", "k").await.as_deref(), Some(value));
    }
    assert!(stage.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_is_retried_if_the_settings_cannot_be_read() {
    let (stage, faults) = copying().await;
    set_config(&stage, "7").await;
    faults.on(Operation::Settings).times(1).fail(unavailable);
    stage.set("c", "k", "1").await;
    until("the handler", async || stage.get("d", "k").await.is_some()).await;
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("7"));
    assert_eq!(faults.calls(Operation::Settings), 2);
    assert!(stage.dead_letters().await.is_empty());
}
