//! Invalid timers, through a guest: the expected status, a message with the limit and the size, and
//! no timer.

use kvasm::Call;
use kvasm::model::{AppId, AppName, DeliveryFilter, Grant, Limits, Principal, Scope, Timestamp};
use kvasm_abi::{Status, TIMER_AFTER_MS_MAX, TIMER_AT_MS_MAX};
use kvasm_tests::guests::{TestHost, manifest, module_with, report};

/// "t", a NUL, and invalid UTF-8.
const DATA: &str = "t\\00\\ff";
const RUN: &str = r#"{"kind":"function","name":"run"}"#;
const TRANSACTION: &str = r#"{"kind":"function","name":"run","transaction":true}"#;
const ON_TIMER: &str = r#"{"kind":"on_timer","name":"on_timer"}"#;

fn set((name, len): (u32, u32), flags: i32, ms: i64, payload_len: u32) -> String {
    format!(
        "(call $timer_set (i32.const {name}) (i32.const {len}) (i32.const {flags}) (i64.const {ms})
          (i32.const 0) (i32.const {payload_len}))"
    )
}

fn cancel((name, len): (u32, u32)) -> String {
    format!("(call $timer_cancel (i32.const {name}) (i32.const {len}))")
}

fn plugin(run: &str, body: &str) -> Vec<u8> {
    let section = manifest(&[run, ON_TIMER]);
    let grow = "(func $grow (drop (memory.grow (i32.const 40))))";
    let handler = "(func (export \"on_timer\") (result i32) (i32.const 0))";
    let fields = format!("{section} {grow} {handler}");
    module_with(DATA, &fields, &format!("(call $grow) {}", report(body)))
}

/// A host whose app grants timers.
async fn bench() -> TestHost {
    let bench = TestHost::new().await;
    bench.grant(Grant::Timers).await;
    bench
}

async fn timers(bench: &TestHost) -> usize {
    let timers = bench.host.store().timers(bench.app.id, None, 100).await;
    timers.unwrap().len()
}

#[tokio::test]
async fn invalid_timers_are_rejected() {
    let bench = bench().await;
    let t = (0, 1);
    let value = Limits::default().value_bytes as u32 + 1;
    for run in [RUN, TRANSACTION] {
        for (body, status, words) in [
            (set((0, 0), 0, 1, 0), Status::Invalid, "timer name is empty"),
            (set((0, 2), 0, 1, 0), Status::Invalid, "NUL"),
            (set((2, 1), 0, 1, 0), Status::Invalid, "not valid UTF-8"),
            (
                set((8, 257), 0, 1, 0),
                Status::TooLarge,
                "257 bytes; the limit is 256",
            ),
            (
                set(t, 2, 1, 0),
                Status::Unsupported,
                "unknown flags of timer_set: 0x2",
            ),
            (set(t, -1, 1, 0), Status::Unsupported, "unknown flags"),
            (set(t, 0, -1, 0), Status::Invalid, "it must be from 0 to"),
            (
                set(t, 1, i64::MIN, 0),
                Status::Invalid,
                "it must be from 0 to",
            ),
            (
                set(t, 0, TIMER_AT_MS_MAX + 1, 0),
                Status::Invalid,
                "253402300800000",
            ),
            (
                set(t, 1, TIMER_AFTER_MS_MAX + 1, 0),
                Status::Invalid,
                "it must be from 0 to",
            ),
            (
                set(t, 1, i64::MAX, 0),
                Status::Invalid,
                "it must be from 0 to",
            ),
            (
                set(t, 0, 1, value),
                Status::TooLarge,
                "the payload is 1048577 bytes",
            ),
            (cancel((0, 0)), Status::Invalid, "timer name is empty"),
            (cancel((8, 257)), Status::TooLarge, "257 bytes"),
        ] {
            let wasm = plugin(run, &body);
            let (result, message) = bench.result_of(wasm, Call::function("run")).await;
            assert_eq!(Status::from_code(result), Some(status), "{body}: {message}");
            assert!(
                message.contains(words),
                "{body}: {message:?} lacks {words:?}"
            );
            assert_eq!(timers(&bench).await, 0, "{body}");
        }
    }
}

#[tokio::test]
async fn largest_timer_is_accepted() {
    let bench = bench().await;
    // Of 256 bytes that are not NUL.
    let name = "(memory.fill (i32.const 1000) (i32.const 97) (i32.const 256))";
    let value = Limits::default().value_bytes as u32;
    for (flags, ms) in [(0, TIMER_AT_MS_MAX), (1, TIMER_AFTER_MS_MAX)] {
        let body = format!(
            "(block (result i64) {name} {})",
            set((1000, 256), flags, ms, value)
        );
        let (result, message) = bench
            .result_of(plugin(RUN, &body), Call::function("run"))
            .await;
        assert_eq!(result, 0, "{message}");
        assert_eq!(timers(&bench).await, 1);
        let all = bench
            .host
            .store()
            .timers(bench.app.id, None, 1)
            .await
            .unwrap();
        assert!(
            all[0].due_at.unwrap().0 >= TIMER_AFTER_MS_MAX,
            "{:?}",
            all[0].due_at
        );
    }
}

#[tokio::test]
async fn plugin_without_a_handler_of_timers_cannot_set_one() {
    let bench = bench().await;
    // The last one is a batch that cancels "t".
    let batch = "(block (result i64)
        (i32.store (i32.const 104) (i32.const 1)) (i32.store (i32.const 108) (i32.const 4))
        (i32.store (i32.const 116) (i32.const 1)) (i32.store8 (i32.const 120) (i32.const 116))
        (call $kv_commit (i32.const 100) (i32.const 21) (i32.const 0) (i32.const 0)))";
    for body in [set((0, 1), 1, 0, 0), cancel((0, 1)), batch.to_owned()] {
        let (result, message) = bench.result(DATA, &body).await;
        assert_eq!(
            Status::from_code(result),
            Some(Status::Invalid),
            "{body}: {message}"
        );
        assert!(message.contains("no handler of timers"), "{message}");
        let (result, message) = bench
            .result_of(plugin(RUN, &body), Call::function("run"))
            .await;
        assert!(result >= 0, "{body}: {message}");
    }
    assert_eq!(timers(&bench).await, 0);
}

#[tokio::test]
async fn timers_are_denied_unless_the_app_grants_them_now() {
    let bench = TestHost::new().await;
    let other = bench.host.create_app(AppName::parse("other").unwrap());
    let other = other.await.unwrap();
    let operator = bench.host.operator("test");
    let admin = bench.host.admin();
    let granted = admin.add_grants(&operator, &other, vec![Grant::Timers]);
    granted.await.unwrap();
    let batch = "(block (result i64)
        (i32.store (i32.const 104) (i32.const 1)) (i32.store (i32.const 108) (i32.const 4))
        (i32.store (i32.const 116) (i32.const 1)) (i32.store8 (i32.const 120) (i32.const 116))
        (call $kv_commit (i32.const 100) (i32.const 21) (i32.const 0) (i32.const 0)))";
    for run in [RUN, TRANSACTION] {
        for body in [set((0, 1), 1, 0, 0), cancel((0, 1)), batch.to_owned()] {
            let plugin = bench.load(plugin(run, &body)).await;
            let denied = async || {
                let output = bench.host.call(&plugin, Call::function("run")).await;
                let output = output.unwrap().output;
                let status = i64::from_le_bytes(output[..8].try_into().unwrap());
                let message = String::from_utf8_lossy(&output[8..]).into_owned();
                let denied = Status::from_code(status) == Some(Status::Denied);
                assert_eq!(
                    denied,
                    message.contains("kvasm grant APP timers"),
                    "{message}"
                );
                denied
            };
            assert!(denied().await, "{body}");
            assert_eq!(timers(&bench).await, 0, "{body}");
            bench.grant(Grant::Timers).await;
            assert!(!denied().await, "{body}");
            let revoked = admin.revoke_grants(&operator, &bench.app, vec![Grant::Timers]);
            revoked.await.unwrap();
            let before = timers(&bench).await;
            assert!(denied().await, "{body}");
            assert_eq!(timers(&bench).await, before, "{body}");
            let all = DeliveryFilter::default();
            let audit = operator.audit("test", None, Timestamp::now(), serde_json::json!({}));
            let store = bench.host.store();
            let discarded = store.discard_deliveries(bench.app.id, all, 10, audit);
            discarded.await.unwrap();
        }
    }
}

#[tokio::test]
async fn timers_require_the_scope_to_write_for_a_principal() {
    let bench = bench().await;
    for (body, run) in [
        (set((0, 1), 1, 0, 0), RUN),
        (cancel((0, 1)), RUN),
        (set((0, 1), 1, 0, 0), TRANSACTION),
        (cancel((0, 1)), TRANSACTION),
    ] {
        let plugin = bench.load(plugin(run, &body)).await;
        for scope in Scope::ALL {
            let own = Principal::for_app(bench.app.id, [scope]);
            let foreign = Principal::for_app(AppId::generate(), Scope::ALL);
            for (principal, denied) in [(own, scope != Scope::ScriptWrite), (foreign, true)] {
                let call = Call::function("run").principal(principal);
                let output = bench.host.call(&plugin, call).await.unwrap().output;
                let status = Status::from_code(i64::from_le_bytes(output[..8].try_into().unwrap()));
                assert_eq!(status == Some(Status::Denied), denied, "{body} {scope}");
            }
        }
    }
}

#[tokio::test]
async fn manifest_with_a_wrong_handler_of_timers_is_rejected() {
    let bench = bench().await;
    let handler = "(func (export \"due\") (result i32) (i32.const 0))";
    for (line, words) in [
        (r#"{"kind":"on_timer","name":"due"}"#, "must be named"),
        (ON_TIMER, "does not export a function"),
        (r#"{"kind":"on_timer"}"#, "missing field"),
    ] {
        let fields = format!("{} {handler}", manifest(&[line]));
        let wasm = module_with("", &fields, "(i32.const 0)");
        let Err(error) = bench.host.load(&bench.app, wasm).await else {
            panic!("{line} was accepted");
        };
        assert!(error.to_string().contains(words), "{error} lacks {words:?}");
    }
    // Without a manifest, every export is a function, and none handles timers.
    let (result, _) = bench.result(DATA, &set((0, 1), 1, 0, 0)).await;
    assert_eq!(Status::from_code(result), Some(Status::Invalid));
}
