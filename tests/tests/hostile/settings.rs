//! Configuration values and secrets, read by guests.

use kvasm::model::{
    App, AppName, Collection, ConfigValue, Grant, Key, Op, SettingKind, SettingName, Value,
};
use kvasm::service::Keyring;
use kvasm::store::{MemoryStore, Store};
use kvasm::{Blame, Call, Host, Plugin};
use kvasm_abi::Status;
use kvasm_store_testing::faulty::{FaultyStore, Operation, unavailable};
use kvasm_tests::guests::{
    TestHost, manifest, meanwhile, module, module_with, report, write_directly,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

const SECRET: &str = "correct-horse-battery-staple";

/// Writes a value of the app to the output, or its status.
fn read(import: &str, name: &str) -> String {
    let len = name.len();
    format!("(call ${import} (i32.const 0) (i32.const {len}) (i32.const 1024) (i32.const 31000))")
}

/// Appends the value that `read` returns to the output, and a line break.
fn write(import: &str, name: &str) -> String {
    let read = read(import, name);
    format!(
        "(drop (call $output_write (i32.const 1024) (i32.wrap_i64 {read})))
         (drop (call $output_write (i32.const 512) (i32.const 1)))"
    )
}

/// "currency" at 0, a line break at 512.
const DATA: &str = "currency";
const LINE_BREAK: &str = "(data (i32.const 512) \"\\n\")";

fn name(name: &str) -> SettingName {
    SettingName::parse(name).unwrap()
}

async fn set_config(host: &Host, app: &App, at: &str, value: &str) {
    let value = ConfigValue::parse(value.as_bytes()).unwrap();
    let operator = host.operator("test");
    let set = host.admin().set_config(&operator, app, name(at), value);
    set.await.unwrap();
}

async fn set_secret(host: &Host, app: &App, at: &str, secret: &[u8]) {
    let operator = host.operator("test");
    let set = host.admin().set_secret(&operator, app, name(at), secret);
    set.await.unwrap();
    grant(host, app, at).await;
}

async fn grant(host: &Host, app: &App, at: &str) {
    let operator = host.operator("test");
    let grants = vec![Grant::Secret { name: name(at) }];
    let granted = host.admin().add_grants(&operator, app, grants);
    granted.await.unwrap();
}

/// Declares the function `run` and the secret "currency".
fn declared() -> String {
    let run = r#"{"kind":"function","name":"run"}"#;
    manifest(&[run, r#"{"kind":"secret","name":"currency"}"#])
}

/// Runs `body`, which leaves a result on the stack, in a plugin that declares its secret.
async fn result(bench: &TestHost, body: &str) -> (i64, String) {
    let wasm = module_with(DATA, &declared(), &report(body));
    bench.result_of(wasm, Call::function("run")).await
}

async fn bench() -> TestHost {
    TestHost::with(|builder| builder.secrets(Keyring::ephemeral().unwrap())).await
}

async fn output(host: &Host, plugin: &Plugin) -> String {
    let response = host.call(plugin, Call::function("run")).await.unwrap();
    String::from_utf8(response.output).unwrap()
}

#[tokio::test]
async fn absent_settings_differ_from_empty_ones() {
    let bench = bench().await;
    grant(&bench.host, &bench.app, DATA).await;
    for import in ["config_get", "secret_get"] {
        let (status, message) = result(&bench, &read(import, DATA)).await;
        assert_eq!(Status::from_code(status), Some(Status::NotFound));
        assert!(message.contains("currency"), "{message}");
    }
    set_config(&bench.host, &bench.app, DATA, "").await;
    assert_eq!(result(&bench, &read("config_get", DATA)).await.0, 0);
    // The secret of the same name is still absent.
    let (status, _) = result(&bench, &read("secret_get", DATA)).await;
    assert_eq!(Status::from_code(status), Some(Status::NotFound));
    set_secret(&bench.host, &bench.app, DATA, b"").await;
    assert_eq!(result(&bench, &read("secret_get", DATA)).await.0, 0);
}

#[tokio::test]
async fn setting_names_are_validated() {
    let bench = bench().await;
    for import in ["config_get", "secret_get"] {
        for (data, len, status) in [
            ("", 0, Status::Invalid),
            ("a b", 3, Status::Invalid),
            ("a/b", 3, Status::Invalid),
            ("\\00", 1, Status::Invalid),
            ("\\ff", 1, Status::Invalid),
            ("", 65, Status::TooLarge),
            ("", 65_536, Status::TooLarge),
        ] {
            let call = format!(
                "(call ${import} (i32.const 0) (i32.const {len}) (i32.const 0) (i32.const 0))"
            );
            let (code, message) = bench.result(data, &call).await;
            assert_eq!(Status::from_code(code), Some(status), "{data:?}: {message}");
            assert!(message.contains("name of the setting"), "{message}");
        }
    }
}

/// Longer than the guest's buffer: the guest fetches the rest with `result_read`.
#[tokio::test]
async fn long_settings_are_returned_through_the_result_slot() {
    let bench = bench().await;
    let long = "x".repeat(16 * 1024);
    set_config(&bench.host, &bench.app, DATA, &long).await;
    set_secret(&bench.host, &bench.app, DATA, long.as_bytes()).await;
    for import in ["config_get", "secret_get"] {
        let body = format!(
            "(local $len i32)
             (local.set $len (i32.wrap_i64 (call ${import} (i32.const 0) (i32.const 8) (i32.const 1024) (i32.const 16383))))
             (drop (call $result_read (i32.const 0) (i32.const 1024) (local.get $len)))
             (drop (call $output_write (i32.const 1024) (local.get $len)))
             (i32.const 0)"
        );
        let plugin = bench.load(module_with(DATA, &declared(), &body)).await;
        assert_eq!(output(&bench.host, &plugin).await, long, "{import}");
    }
}

#[tokio::test]
async fn apps_read_only_their_own_settings() {
    let bench = bench().await;
    let other = AppName::parse("other").unwrap();
    let other = bench.host.create_app(other).await.unwrap();
    set_config(&bench.host, &bench.app, DATA, "EUR").await;
    set_secret(&bench.host, &bench.app, DATA, SECRET.as_bytes()).await;
    let both = [write("config_get", DATA), write("secret_get", DATA)].concat();
    let wasm = module_with(
        DATA,
        &format!("{LINE_BREAK} {}", declared()),
        &format!("{both} (i32.const 0)"),
    );
    let own = bench.load(wasm.clone()).await;
    assert_eq!(output(&bench.host, &own).await, format!("EUR\n{SECRET}\n"));
    grant(&bench.host, &other, DATA).await;
    for import in ["config_get", "secret_get"] {
        let wasm = module_with(DATA, &declared(), &report(&read(import, DATA)));
        let foreign = bench.host.load(&other, wasm).await.unwrap();
        let call = Call::function("run");
        let result = bench.host.call(&foreign, call).await.unwrap().output;
        let code = i64::from_le_bytes(result[..8].try_into().unwrap());
        assert_eq!(Status::from_code(code), Some(Status::NotFound));
    }
    set_config(&bench.host, &other, DATA, "USD").await;
    set_secret(&bench.host, &other, DATA, b"other").await;
    let foreign = bench.host.load(&other, wasm).await.unwrap();
    assert_eq!(output(&bench.host, &foreign).await, "USD\nother\n");
    assert_eq!(output(&bench.host, &own).await, format!("EUR\n{SECRET}\n"));
}

/// The host and app that `meanwhile` changes.
type Target = Arc<OnceLock<(Host, App)>>;

/// A host whose plugins' `meanwhile` sets the currency to "USD", the secret to "new", and the
/// entry "c" in "c", the first time that it is called.
async fn changing() -> TestHost {
    let target = Target::default();
    let (of_work, changed) = (Arc::clone(&target), Arc::new(AtomicBool::new(false)));
    let bench = TestHost::with(|builder| {
        let builder = builder.secrets(Keyring::ephemeral().unwrap());
        meanwhile(builder, move |_| {
            let (target, changed) = (Arc::clone(&of_work), Arc::clone(&changed));
            async move {
                if changed.swap(true, Ordering::Relaxed) {
                    return;
                }
                let (host, app) = target.get().unwrap();
                set_config(host, app, DATA, "USD").await;
                set_secret(host, app, DATA, b"new").await;
                let op = Op::Set {
                    collection: Collection::parse("c").unwrap(),
                    key: Key::parse("c").unwrap(),
                    value: Value::json("1", 10).unwrap(),
                    expires_at: None,
                };
                write_directly(host.store(), app.id, vec![op]).await;
            }
        })
    })
    .await;
    let _ = target.set((bench.host.clone(), bench.app.clone()));
    set_config(&bench.host, &bench.app, DATA, "EUR").await;
    set_secret(&bench.host, &bench.app, DATA, b"old").await;
    bench
}

/// A module whose function `run` writes both settings before and after `meanwhile`.
fn before_and_after(fields: &str, between: &str) -> Vec<u8> {
    let both = [write("config_get", DATA), write("secret_get", DATA)].concat();
    let get = "(param i32 i32 i32 i32) (result i64)";
    let text = format!(
        r#"(module
          (import "kvasm_v1" "config_get" (func $config_get {get}))
          (import "kvasm_v1" "secret_get" (func $secret_get {get}))
          (import "kvasm_v1" "kv_has" (func $kv_has {get}))
          (import "kvasm_v1" "kv_increment" (func $kv_increment (param i32 i32 i32 i32 i64 i32) (result i64)))
          (import "kvasm_v1" "output_write" (func $output_write (param i32 i32) (result i64)))
          (import "test_v1" "meanwhile" (func $meanwhile))
          (memory (export "memory") 1) (data (i32.const 0) "{DATA}") {LINE_BREAK} {fields}
          (func (export "run") (result i32) {both} {between} (call $meanwhile) {both}
            (i32.const 0)))"#
    );
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn run_sees_the_settings_of_its_start() {
    let bench = changing().await;
    let plugin = bench.load(before_and_after(&declared(), "")).await;
    let seen = output(&bench.host, &plugin).await;
    assert_eq!(seen, "EUR\nold\nEUR\nold\n");
    let seen = output(&bench.host, &plugin).await;
    assert_eq!(seen, "USD\nnew\nUSD\nnew\n");
}

#[tokio::test]
async fn rerun_of_a_transaction_sees_the_settings_of_the_first_run() {
    let bench = changing().await;
    let declare = manifest(&[
        r#"{"kind":"function","name":"run","transaction":true}"#,
        r#"{"kind":"secret","name":"currency"}"#,
    ]);
    // Reads the entry "c" that `meanwhile` changes, and writes "u": the first run is in conflict.
    let uses = "(drop (call $kv_has (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)))
        (drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
          (i64.const 1) (i32.const 600)))";
    let plugin = bench.load(before_and_after(&declare, uses)).await;
    let response = bench.host.call(&plugin, Call::function("run")).await;
    let response = response.unwrap();
    assert_eq!(response.cost.runs, 2);
    assert_eq!(response.output, b"EUR\nold\nEUR\nold\n");
}

#[tokio::test]
async fn host_without_the_key_reports_an_internal_error_without_details() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let host = |keyring| {
        let builder = Host::builder().instances(16).secrets(keyring);
        builder.shared_store(Arc::clone(&store)).build().unwrap()
    };
    let sealing = host(Keyring::ephemeral().unwrap());
    let app = AppName::parse("app").unwrap();
    let app = sealing.create_app(app).await.unwrap();
    set_config(&sealing, &app, DATA, "EUR").await;
    set_secret(&sealing, &app, DATA, SECRET.as_bytes()).await;
    let folder = tempfile::tempdir().unwrap();
    let lost = Keyring::file(folder.path().join("lost.key"));
    let damaged = folder.path().join("damaged.key");
    std::fs::write(&damaged, "not a key").unwrap();
    for keyring in [
        Keyring::default(),
        Keyring::ephemeral().unwrap(),
        lost,
        Keyring::file(damaged),
    ] {
        let bench = TestHost {
            host: host(keyring),
            app: app.clone(),
        };
        let (status, message) = result(&bench, &read("secret_get", DATA)).await;
        assert_eq!(Status::from_code(status), Some(Status::Internal));
        let text =
            "internal error: the operator can find the cause in the host's log by request id";
        assert_eq!(message, text);
        // Configuration values need no key.
        assert_eq!(result(&bench, &read("config_get", DATA)).await.0, 3);
    }
    // Nothing was destroyed.
    let sealing = TestHost { host: sealing, app };
    let secret = result(&sealing, &read("secret_get", DATA)).await.0;
    assert_eq!(secret, SECRET.len() as i64);
}

/// The settings are read once, and only for apps that have any and plugins that read them.
#[tokio::test]
async fn settings_are_read_from_the_store_only_if_needed() {
    let (store, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
    let bench = TestHost::with(|builder| builder.shared_store(store)).await;
    let reads = module(DATA, &report(&read("config_get", DATA)));
    let reading = bench.load(reads).await;
    let text =
        r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (i32.const 0)))"#;
    let other = bench.load(wat::parse_str(text).unwrap()).await;
    let call = async |plugin: &Plugin| bench.host.call(plugin, Call::function("run")).await;
    call(&reading).await.unwrap();
    assert_eq!(faults.calls(Operation::Settings), 0);
    set_config(&bench.host, &bench.app, DATA, "EUR").await;
    faults.on(Operation::Settings).fail(unavailable);
    call(&other).await.unwrap();
    assert_eq!(faults.calls(Operation::Settings), 0);
    let failed = call(&reading).await.unwrap_err();
    assert_eq!(failed.error.blame(), Blame::Host);
    assert_eq!(
        failed.error.to_string(),
        "the app's settings cannot be read: the store cannot be reached; try again later"
    );
    faults.clear();
    for _ in 0..5 {
        call(&reading).await.unwrap();
    }
    assert_eq!(faults.calls(Operation::Settings), 2);
    let (host, app) = (&bench.host, &bench.app);
    let operator = host.operator("test");
    let unset = host
        .admin()
        .unset_setting(&operator, app, SettingKind::Config, name(DATA));
    unset.await.unwrap();
    let output = call(&reading).await.unwrap().output;
    let code = i64::from_le_bytes(output[..8].try_into().unwrap());
    assert_eq!(Status::from_code(code), Some(Status::NotFound));
}

/// However often they read settings.
#[tokio::test]
async fn concurrent_runs_share_what_was_read_from_the_store() {
    let (store, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
    let bench = TestHost::with(|builder| builder.shared_store(store)).await;
    set_config(&bench.host, &bench.app, DATA, "EUR").await;
    let read = read("config_get", DATA);
    let many = format!(
        "(local $left i32) (local.set $left (i32.const 100))
         (loop $again (drop {read})
           (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
         (i32.const 0)"
    );
    let plugin = bench.load(module(DATA, &many)).await;
    let call = async || {
        let call = bench.host.call(&plugin, Call::function("run"));
        assert_eq!(call.await.unwrap().cost.host_calls, 100);
    };
    tokio::join!(call(), call());
    let read = faults.calls(Operation::Settings);
    assert!((1..=2).contains(&read), "{read} reads");
    for _ in 0..5 {
        tokio::join!(call(), call());
    }
    assert_eq!(faults.calls(Operation::Settings), read);
}

/// The host adds the secret to nothing that it says about a run which has read it.
#[tokio::test]
async fn failures_of_a_run_do_not_contain_the_secret_that_it_has_read() {
    let bench = bench().await;
    set_secret(&bench.host, &bench.app, DATA, SECRET.as_bytes()).await;
    let read = read("secret_get", DATA);
    for end in [
        "unreachable",
        "(i32.const 1)",
        "(i32.const 2)",
        "(loop (br 0)) unreachable",
        "(drop (call $log (i32.const 1) (i32.const 1024) (i32.const -1))) (i32.const 0)",
    ] {
        let plugin = bench
            .load(module_with(
                DATA,
                &declared(),
                &format!("(drop {read}) {end}"),
            ))
            .await;
        let failed = bench.host.call(&plugin, Call::function("run")).await;
        let failed = failed.unwrap_err();
        let shown = format!("{failed} {failed:?} {:?}", failed.error.trace());
        assert!(!shown.contains(SECRET), "{end}: {shown}");
        let bytes = format!("{:?}", SECRET.as_bytes());
        assert!(!shown.contains(&bytes), "{end}: {shown}");
    }
    let logs = format!("{:?}", bench.host.metrics().encode());
    assert!(!logs.contains(SECRET));
}
