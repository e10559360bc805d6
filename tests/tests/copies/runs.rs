//! Copies in runs of transactions and event handlers.

use super::{AT, MIB, SERIAL, allocated_during, patient, read_input};
use kvasm::model::{Claim, Collection, Delivery, Key, LeaseToken, Op, Timestamp, Value};
use kvasm::service::Caller as ServiceCaller;
use kvasm::store::{MemoryStore, Store};
use kvasm::{Call, Host};
use kvasm_tests::guests::{self, TestHost, manifest, module_with};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use uuid::Uuid;

/// A host on which "meanwhile" changes what a run has read, in the first `times` runs.
async fn conflicting(times: u32) -> TestHost {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (of_guest, left) = (Arc::clone(&store), Arc::new(AtomicU32::new(times)));
    let extend = |builder| {
        guests::meanwhile(builder, move |app| {
            let (store, left) = (Arc::clone(&of_guest), Arc::clone(&left));
            async move {
                let less = |left: u32| left.checked_sub(1);
                let order = Ordering::Relaxed;
                let Ok(left) = left.fetch_update(order, order, less) else {
                    return;
                };
                let op = Op::Set {
                    collection: Collection::parse("c").unwrap(),
                    key: Key::parse("k").unwrap(),
                    value: Value::json(left.to_string(), 100).unwrap(),
                    expires_at: None,
                };
                guests::write_directly(&store, app, vec![op]).await;
            }
        })
    };
    TestHost::with(|builder| extend(patient(builder)).shared_store(store)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_reruns_share_the_input() {
    const LOST: u32 = 3;
    let _alone = SERIAL.lock().await;
    let bench = conflicting(LOST).await;
    let transaction = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let key = "(i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)";
    let text = format!(
        "(module
            (import \"kvasm_v1\" \"kv_has\" (func $kv_has (param i32 i32 i32 i32) (result i64)))
            (import \"kvasm_v1\" \"kv_increment\"
                (func $kv_increment (param i32 i32 i32 i32 i64 i32) (result i64)))
            (import \"kvasm_v1\" \"input_read\"
                (func $input_read (param i32 i32 i32) (result i64)))
            (import \"test_v1\" \"meanwhile\" (func $meanwhile))
            (memory (export \"memory\") 1) (data (i32.const 0) \"ck\") {transaction}
            (func (export \"run\") (result i32) {}
                (drop (call $kv_has {key}))
                (call $meanwhile)
                (drop (call $kv_increment {key} (i64.const 1) (i32.const 8)))
                (i32.ne (local.get $n) (i32.const {}))))",
        read_input(),
        8 * MIB
    );
    let plugin = bench.load(wat::parse_str(text).unwrap()).await;
    let input = vec![7; 8 * MIB];
    let call = Call::function("run").input(input);
    let (made, response) = allocated_during(bench.host.call(&plugin, call)).await;
    let lost = response.unwrap().discarded.len();
    assert_eq!(lost, LOST as usize, "the runs with a conflict");
    assert_eq!(made, 0, "an owned input is not copied");
}

/// Claims the due delivery.
async fn claimed(host: &Host) -> (Delivery, LeaseToken) {
    let now = Timestamp::now();
    let queues = host.store().due(None, now, 1).await.unwrap();
    let claim = Claim {
        queue: queues[0].clone(),
        now,
        until: now.plus_ms(600_000),
        lease: Uuid::new_v4(),
        limit: 1,
    };
    let mut deliveries = host.store().claim(&claim).await.unwrap();
    let delivery = deliveries.remove(0);
    let receipt = LeaseToken {
        app: claim.queue.app,
        place: delivery.place.clone(),
        lease: claim.lease,
    };
    (delivery, receipt)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_handler_reads_the_delivery_value_without_a_copy() {
    let _alone = SERIAL.lock().await;
    let bench = TestHost::with(patient).await;
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    // Its last bytes, which show that the value was complete.
    let body = format!(
        "{} (i64.ne (i64.load (i32.sub (i32.add (local.get $n) (i32.const {AT})) (i32.const 8)))
            (i64.const 0x0706050403020100))",
        read_input()
    );
    let (host, actor) = (&bench.host, bench.host.operator("a test"));
    let wasm = module_with("", &watch, &body);
    host.deploy(&actor, &bench.app, wasm, true).await.unwrap();
    let app = host.app(&bench.app.name).await.unwrap().unwrap();
    let mut value = vec![9; MIB];
    value[MIB - 8..].copy_from_slice(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let write = Op::Set {
        collection: Collection::parse("c").unwrap(),
        key: Key::parse("k").unwrap(),
        value: Value::bytes(value, MIB).unwrap(),
        expires_at: None,
    };
    let caller = ServiceCaller::new(&app, None);
    host.kv().apply(&caller, write, None).await.unwrap();
    let (delivery, receipt) = claimed(host).await;
    let delivery = Arc::new(delivery);
    let (made, done) = allocated_during(host.deliver(&app, &delivery, receipt)).await;
    done.unwrap();
    assert_eq!(made, 0, "its value is not copied outside wasm");
}
