//! Classification of call failures in cases that are not obvious.

use kvasm::model::{AppName, Limits};
use kvasm::service::Stage;
use kvasm::{Blame, Call, CallError, CallFailure};
use kvasm_tests::guests::{TestHost, manifest, module_with};
use std::time::Duration;

const WALL_TIME: Duration = Duration::from_millis(300);

/// Runs a body that can read the clock, sleep for an hour, and wait for the embedder's function
/// `wait`, which never returns.
async fn run(body: &str) -> CallFailure {
    let limits = Limits {
        wall_time: WALL_TIME,
        ..Limits::default()
    };
    let bench = TestHost::with(|builder| {
        builder.limits(limits).extend(|linker| {
            linker.func_wrap_async("test", "wait", |_, ()| {
                Box::new(std::future::pending::<()>())
            })?;
            Ok(())
        })
    })
    .await;
    // A clock subscription: userdata, kind 0, clock 1, nanoseconds.
    let text = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "clock_time_get"
            (func $clock (param i32 i64 i32) (result i32)))
          (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll (param i32 i32 i32 i32) (result i32)))
          (import "test" "wait" (func $wait))
          (memory (export "memory") 1)
          (func $now (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 0))))
          (func $sleep (param $ns i64)
            (i32.store (i32.const 120) (i32.const 1))
            (i64.store (i32.const 128) (local.get $ns))
            (drop (call $poll (i32.const 104) (i32.const 200) (i32.const 1) (i32.const 300))))
          (func (export "run") (result i32) {body} (i32.const 0)))"#
    );
    bench.run(wat::parse_str(text).unwrap()).await.unwrap_err()
}

fn spent(failure: &CallFailure, stage: Stage) -> Duration {
    match &failure.error {
        CallError::Deadline { timeout, .. } => timeout.spent(stage),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn sleeping_past_the_deadline_is_the_guests_fault() {
    let failure = run("(call $now) (call $sleep (i64.const 3600000000000))").await;
    assert!(
        spent(&failure, Stage::Sleeping) >= WALL_TIME / 2,
        "{failure}"
    );
    assert_eq!(failure.error.blame(), Blame::Guest);
    assert!(failure.error.is_deterministic());
}

/// Earlier sleep stays counted as sleep, whatever the call waits for last.
#[tokio::test]
async fn sleep_time_is_counted_separately_from_other_waits() {
    let failure = run("(call $sleep (i64.const 50000000)) (call $now) (call $wait)").await;
    assert!(
        spent(&failure, Stage::Sleeping) >= WALL_TIME / 10,
        "{failure}"
    );
    assert!(spent(&failure, Stage::Other) > Duration::ZERO, "{failure}");
}

#[tokio::test]
async fn waiting_on_a_host_function_is_the_hosts_fault() {
    for body in ["(call $now) (call $wait)", "(call $wait)"] {
        let failure = run(body).await;
        assert_eq!(
            spent(&failure, Stage::Sleeping),
            Duration::ZERO,
            "{failure}"
        );
        assert!(spent(&failure, Stage::Other) >= WALL_TIME / 2, "{failure}");
        assert_eq!(failure.error.blame(), Blame::Host, "{failure}");
        assert!(!failure.error.is_deterministic());
    }
}

/// The app is deleted while its function runs.
#[tokio::test]
async fn app_deletion_during_a_call_is_not_the_guests_fault() {
    let bench = TestHost::new().await;
    let declare = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let set = "(drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)
        (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0))) (i32.const 0)";
    let wasm = module_with("a", &declare, set);
    let name = AppName::parse("gone").unwrap();
    let gone = bench.host.create_app(name).await.unwrap();
    let plugin = bench.host.load(&gone, wasm).await.unwrap();
    let actor = bench.host.operator("a test");
    bench.host.delete_app(&actor, &gone).await.unwrap();
    let call = bench.host.call(&plugin, Call::function("run"));
    let failure = call.await.unwrap_err();
    assert!(failure.to_string().contains("does not exist"), "{failure}");
    assert_eq!(failure.error.blame(), Blame::Caller, "{failure}");
    assert!(!failure.error.is_deterministic());
}
