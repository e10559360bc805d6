//! Embedding the library: custom host functions and services.

use kvasm::model::AppName;
use kvasm::service::Services;
use kvasm::wasmtime::Caller;
use kvasm::{Call, Host, Invocation};
use kvasm_abi::Status;
use kvasm_tests::guests::{TestHost, module};

#[tokio::test]
async fn embedder_host_function_can_be_imported() {
    let bench = TestHost::with(|builder| {
        builder.extend(|linker| {
            linker.func_wrap("shop_v1", "app_len", |caller: Caller<'_, Invocation>| {
                caller.data().guest_state().app().len() as i32
            })?;
            Ok(())
        })
    })
    .await;
    let wasm = wat::parse_str(
        "(module (import \"shop_v1\" \"app_len\" (func $len (result i32)))
           (memory (export \"memory\") 1)
           (func (export \"run\") (result i32) (i32.sub (call $len) (i32.const 3))))",
    );
    bench.run(wasm.unwrap()).await.unwrap();
}

#[tokio::test]
async fn duplicate_host_function_name_is_rejected() {
    let built = Host::builder()
        .instances(1)
        .extend(|linker| linker.func_wrap("kvasm_v1", "kv_get", || {}).map(drop))
        .build();
    let error = built.err().unwrap();
    assert!(error.to_string().contains("linked"), "{error}");
}

/// The default services find nothing and do not acknowledge writes.
#[tokio::test]
async fn default_services_store_nothing() {
    let bench = TestHost::with(|builder| builder.services(Services::default())).await;
    let has = "(call $kv_has (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))";
    assert_eq!(bench.result("a", has).await.0, 0);
    let set = "(call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0))";
    let (status, _) = bench.result("a", set).await;
    assert_eq!(Status::from_code(status), Some(Status::Unavailable));
}

#[tokio::test]
async fn shared_module_sees_only_the_calling_apps_data() {
    let bench = TestHost::new().await;
    let other = bench
        .host
        .create_app(AppName::parse("other").unwrap())
        .await
        .unwrap();
    let body = "(drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0))) (i32.const 0)";
    let set = module("a", body);
    let has = module(
        "a",
        "(i32.wrap_i64 (call $kv_has (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)))",
    );
    bench.run(set).await.unwrap();
    bench.run(has.clone()).await.unwrap_err();
    let plugin = bench.host.load(&other, has).await.unwrap();
    bench
        .host
        .call(&plugin, Call::function("run"))
        .await
        .unwrap();
}
