//! Uses that a plugin must declare and its app must grant, through a guest that tries them.

use kvasm::model::{ConfigValue, Grant, SettingKind, SettingName};
use kvasm::service::Keyring;
use kvasm::{Call, Host, Plugin};
use kvasm_abi::Status;
use kvasm_tests::guests::{TestHost, manifest, meanwhile, module_with, report};
use std::sync::Arc;
use std::sync::OnceLock;

const DECLARATION: &str = r#"{"kind":"function","name":"run"} {"kind":"secret","name":"key"}"#;
/// Reads the secret "key".
const READ: &str = "(call $secret_get (i32.const 0) (i32.const 3) (i32.const 64) (i32.const 1024))";

fn secret(name: &str) -> Grant {
    Grant::Secret {
        name: SettingName::parse(name).unwrap(),
    }
}

async fn bench() -> TestHost {
    let bench = TestHost::with(|builder| builder.secrets(Keyring::ephemeral().unwrap())).await;
    set_secret(&bench, "key", b"hunter2").await;
    bench
}

async fn set_secret(bench: &TestHost, name: &str, value: &[u8]) {
    let (host, actor) = (&bench.host, bench.host.operator("test"));
    let name = SettingName::parse(name).unwrap();
    let set = host.admin().set_secret(&actor, &bench.app, name, value);
    set.await.unwrap();
}

async fn grant(bench: &TestHost, grants: Vec<Grant>) {
    let actor = bench.host.operator("test");
    let granted = bench.host.admin().add_grants(&actor, &bench.app, grants);
    assert!(granted.await.unwrap() > 0);
}

async fn revoke(bench: &TestHost, grants: Vec<Grant>) {
    let actor = bench.host.operator("test");
    let revoked = bench.host.admin().revoke_grants(&actor, &bench.app, grants);
    assert!(revoked.await.unwrap() > 0);
}

fn reader(lines: &[&str]) -> Vec<u8> {
    module_with("key", &manifest(lines), &report(READ))
}

/// The result of reading the secret, and its message.
async fn read(bench: &TestHost, plugin: &Plugin) -> (i64, String) {
    let output = bench.host.call(plugin, Call::function("run")).await;
    let output = output.unwrap().output;
    let (result, message) = output.split_at(8);
    let result = i64::from_le_bytes(result.try_into().unwrap());
    (result, String::from_utf8(message.to_vec()).unwrap())
}

#[track_caller]
fn assert_denied((result, message): (i64, String), why: &str) {
    assert_eq!(Status::from_code(result), Some(Status::Denied), "{message}");
    assert!(message.contains(why), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[tokio::test]
async fn secret_is_read_only_if_it_is_declared_and_granted() {
    let bench = bench().await;
    let undeclared = bench
        .load(reader(&[r#"{"kind":"function","name":"run"}"#]))
        .await;
    let no_manifest = bench.load(module_with("key", "", &report(READ))).await;
    let declared = bench.load(reader(&[DECLARATION])).await;
    let not_declared = "the plugin does not declare that it needs the secret \"key\"";
    let not_granted = "the app does not grant the secret \"key\"; someone with app:admin can \
                       grant it with `kvasm grant APP secret key`";
    assert_denied(read(&bench, &undeclared).await, not_declared);
    assert_denied(read(&bench, &declared).await, not_granted);
    // A grant of something else.
    grant(&bench, vec![secret("keys"), secret("ke"), Grant::Timers]).await;
    assert_denied(read(&bench, &declared).await, not_granted);
    grant(&bench, vec![secret("key")]).await;
    assert_eq!(read(&bench, &declared).await.0, 7);
    assert_denied(read(&bench, &undeclared).await, not_declared);
    assert_denied(read(&bench, &no_manifest).await, not_declared);
    revoke(&bench, vec![secret("key")]).await;
    assert_denied(read(&bench, &declared).await, not_granted);
}

/// Permission is checked before the secret is looked up: the message reveals nothing of it.
#[tokio::test]
async fn secret_without_permission_is_as_if_it_did_not_exist() {
    let bench = bench().await;
    let of_absent = module_with(
        "yek",
        &manifest(&[r#"{"kind":"function","name":"run"} {"kind":"secret","name":"yek"}"#]),
        &report(READ),
    );
    let absent = bench.load(of_absent).await;
    let present = bench.load(reader(&[DECLARATION])).await;
    let (absent, there) = (read(&bench, &absent).await, read(&bench, &present).await);
    assert_eq!(absent.0, there.0);
    assert_eq!(absent.1.replace("yek", "key"), there.1);
}

#[tokio::test]
async fn grant_of_another_app_is_of_no_use() {
    let bench = bench().await;
    let other = kvasm::model::AppName::parse("other").unwrap();
    let other = TestHost {
        app: bench.host.create_app(other).await.unwrap(),
        host: bench.host.clone(),
    };
    set_secret(&other, "key", b"another").await;
    grant(&other, vec![secret("key")]).await;
    let plugin = bench.load(reader(&[DECLARATION])).await;
    assert_denied(read(&bench, &plugin).await, "does not grant");
    // The same module in the app that grants it.
    let plugin = other.load(reader(&[DECLARATION])).await;
    assert_eq!(read(&other, &plugin).await.0, "another".len() as i64);
}

/// The grant is revoked between two reads of one run. The value would be as of its start.
#[tokio::test]
async fn grant_revoked_in_mid_call_is_of_no_use_from_then_on() {
    static BENCH: OnceLock<(Host, kvasm::model::App)> = OnceLock::new();
    let bench = TestHost::with(|builder| {
        let builder = builder.secrets(Keyring::ephemeral().unwrap());
        meanwhile(builder, |_| async {
            let (host, app) = BENCH.get().unwrap();
            let actor = host.operator("test");
            let name = SettingName::parse("key").unwrap();
            let admin = host.admin();
            admin.set_secret(&actor, app, name, b"new").await.unwrap();
            let revoked = admin.revoke_grants(&actor, app, vec![secret("key")]);
            assert_eq!(revoked.await.unwrap(), 1);
        })
    })
    .await;
    assert!(BENCH.set((bench.host.clone(), bench.app.clone())).is_ok());
    set_secret(&bench, "key", b"hunter2").await;
    grant(&bench, vec![secret("key")]).await;
    let text = format!(
        "(module
            (import \"test_v1\" \"meanwhile\" (func $meanwhile))
            (import \"kvasm_v1\" \"secret_get\"
                (func $secret_get (param i32 i32 i32 i32) (result i64)))
            (import \"kvasm_v1\" \"error_message\"
                (func $error_message (param i32 i32) (result i64)))
            (import \"kvasm_v1\" \"output_write\" (func $output_write (param i32 i32) (result i64)))
            (memory (export \"memory\") 1) (data (i32.const 0) \"key\") {}
            (func (export \"run\") (result i32)
                (if (i64.ne {READ} (i64.const 7)) (then unreachable))
                (call $meanwhile)
                {}))",
        manifest(&[DECLARATION]),
        report(READ)
    );
    let plugin = bench.load(wat::parse_str(text).unwrap()).await;
    assert_denied(read(&bench, &plugin).await, "does not grant");
    // Granted again, the next run reads the new value.
    grant(&bench, vec![secret("key")]).await;
    let again = bench.load(reader(&[DECLARATION])).await;
    assert_eq!(read(&bench, &again).await.0, 3);
}

#[tokio::test]
async fn declared_default_is_read_until_the_value_is_set() {
    let bench = bench().await;
    let lines = r#"{"kind":"function","name":"run"}
        {"kind":"config","name":"key","type":"integer","default":12345}"#;
    let get = "(call $config_get (i32.const 0) (i32.const 3) (i32.const 64) (i32.const 1024))";
    let plugin = module_with("key", &manifest(&[lines]), &report(get));
    let plugin = bench.load(plugin).await;
    assert_eq!(read(&bench, &plugin).await.0, 5);
    let (actor, name) = (
        bench.host.operator("test"),
        SettingName::parse("key").unwrap(),
    );
    let value = ConfigValue::parse(b"7").unwrap();
    let admin = bench.host.admin();
    let set = admin.set_config(&actor, &bench.app, name.clone(), value);
    set.await.unwrap();
    assert_eq!(read(&bench, &plugin).await.0, 1);
    let unset = admin.unset_setting(&actor, &bench.app, SettingKind::Config, name);
    unset.await.unwrap();
    assert_eq!(read(&bench, &plugin).await.0, 5);
}

/// The permissions of other host functions are those of the same object.
#[tokio::test]
async fn permissions_are_checked_against_declaration_and_grant() {
    use kvasm::model::{
        Granted, HttpOrigin, Needs, OriginPattern, Permissions, Settings, Timestamp,
    };
    let pattern = |text: &str| OriginPattern::parse(text).unwrap();
    let origin = |text: &str| HttpOrigin::parse(text).unwrap();
    let permissions = |declared: &[&str], granted: &[&str], timers: bool| {
        let granted = granted.iter().map(|text| Grant::HttpOrigin {
            origin: pattern(text),
        });
        let needs = Needs {
            http: declared.iter().map(|text| pattern(text)).collect(),
            timers,
            ..Needs::default()
        };
        let grants = granted.chain([Grant::Timers]);
        let grants = grants.map(|grant| Granted {
            grant,
            granted_at: Timestamp(0),
        });
        let settings = Settings {
            grants: grants.collect(),
            ..Settings::default()
        };
        Permissions::new(Arc::new(needs), Arc::new(settings))
    };
    // Declared narrowly and granted widely, and the opposite: what both include.
    for (declared, granted) in [
        ("https://*.example.com", "https://a.example.com"),
        ("https://a.example.com", "https://*.example.com"),
    ] {
        let both = permissions(&[declared], &[granted], true);
        both.allows_http(&origin("https://a.example.com")).unwrap();
        for other in [
            "https://b.example.com",
            "https://example.com",
            "https://a.example.com.evil.test",
            "http://a.example.com",
            "https://a.example.com:8443",
        ] {
            both.allows_http(&origin(other)).unwrap_err();
        }
    }
    let undeclared = permissions(&[], &["https://a.example.com"], false);
    let error = undeclared.allows_http(&origin("https://a.example.com"));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("does not declare that it needs HTTP requests to https://a.example.com"),
        "{error}"
    );
    assert!(
        undeclared
            .allows_timers()
            .unwrap_err()
            .to_string()
            .contains("needs timers")
    );
    permissions(&[], &[], true).allows_timers().unwrap();
}
