//! Scope checks of host functions, through a guest.

use kvasm::model::{AppId, Grant, Principal, Scope, SettingName};
use kvasm::{Call, Plugin};
use kvasm_abi::Status;
use kvasm_tests::guests::{TestHost, manifest, module, module_with, report};

const READS: [&str; 8] = [
    "(call $kv_get (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))",
    "(call $kv_has (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))",
    "(call $kv_list (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0))",
    "(call $kv_get_many (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 0))",
    // Checks alone change nothing; this one requires that "a" in "a" does not exist.
    "(block (result i64) (i32.store (i32.const 100) (i32.const 1)) (i32.store (i32.const 104) (i32.const 1)) (i32.store8 (i32.const 108) (i32.const 97)) (i32.store (i32.const 109) (i32.const 1)) (i32.store8 (i32.const 113) (i32.const 97)) (call $kv_commit (i32.const 100) (i32.const 26) (i32.const 0) (i32.const 0)))",
    "(call $dead_letters (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))",
    "(call $config_get (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0))",
    "(call $secret_get (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0))",
];
const WRITES: [&str; 6] = [
    "(call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0))",
    "(call $kv_delete (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))",
    "(call $kv_increment (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i64.const 1) (i32.const 8))",
    "(call $kv_add (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i64.const 1))",
    // A dead letter that does not exist.
    "(block (result i64) (memory.fill (i32.const 200) (i32.const 48) (i32.const 32)) (call $dead_letter_replay (i32.const 200) (i32.const 32)))",
    // A deletion of "a" in "a".
    "(block (result i64) (i32.store (i32.const 104) (i32.const 1)) (i32.store (i32.const 108) (i32.const 1)) (i32.store (i32.const 112) (i32.const 1)) (i32.store8 (i32.const 116) (i32.const 97)) (i32.store (i32.const 117) (i32.const 1)) (i32.store8 (i32.const 121) (i32.const 97)) (call $kv_commit (i32.const 100) (i32.const 22) (i32.const 0) (i32.const 0)))",
];

async fn denied(bench: &TestHost, plugin: &Plugin, principal: Option<Principal>) -> bool {
    let mut call = Call::function("run");
    if let Some(principal) = principal {
        call = call.principal(principal);
    }
    let output = bench.host.call(plugin, call).await.unwrap().output;
    let status = i64::from_le_bytes(output[..8].try_into().unwrap());
    Status::from_code(status) == Some(Status::Denied)
}

#[tokio::test]
async fn host_calls_require_their_scope_for_a_principal() {
    let bench = TestHost::new().await;
    let actor = bench.host.operator("test");
    let secret = Grant::Secret {
        name: SettingName::parse("a").unwrap(),
    };
    let grants = bench
        .host
        .admin()
        .add_grants(&actor, &bench.app, vec![secret]);
    grants.await.unwrap();
    let declared = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"secret","name":"a"}"#,
    ]);
    let calls = READS.iter().map(|body| (body, Scope::ScriptRead));
    let calls = calls.chain(WRITES.iter().map(|body| (body, Scope::ScriptWrite)));
    for (body, needed) in calls {
        let plugin = bench.load(module_with("a", &declared, &report(body))).await;
        assert!(!denied(&bench, &plugin, None).await, "{body}");
        for scope in Scope::ALL {
            let own = Principal::for_app(bench.app.id, [scope]);
            let foreign = Principal::for_app(AppId::generate(), Scope::ALL);
            let expected = scope != needed;
            assert_eq!(
                denied(&bench, &plugin, Some(own)).await,
                expected,
                "{body} {scope}"
            );
            assert!(denied(&bench, &plugin, Some(foreign)).await, "{body}");
        }
    }
}

#[tokio::test]
async fn denied_call_names_the_missing_scope() {
    let bench = TestHost::new().await;
    let wasm = module("a", &report(WRITES[0]));
    let call = Call::function("run").principal(Principal::for_app(bench.app.id, []));
    let (_, message) = bench.result_of(wasm, call).await;
    assert!(message.contains("script:write"), "{message}");
}
