//! WASI preview 1: a C plugin with a libc runs, and has no access to the system.

use kvasm::{Call, CallError};
use kvasm_tests::guests::{TestHost, wasm};
use std::time::Duration;

#[tokio::test]
async fn wasi_stdout_and_stderr_go_to_the_log() {
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm("wasi-c")).await;
    let response = bench
        .host
        .call(&plugin, Call::function("greet"))
        .await
        .unwrap();
    let lines: Vec<_> = response
        .log
        .lines()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(lines, ["info  hello 42", "warn  to standard error"]);
}

#[tokio::test]
async fn rust_for_wasip1_prints_and_reads_the_clock() {
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm("sdk-wasip1")).await;
    let call = Call::function("std_prints_and_reads_the_clock");
    let response = bench.host.call(&plugin, call).await.unwrap();
    let lines = response.log.lines().iter().map(ToString::to_string);
    assert_eq!(
        lines.collect::<Vec<_>>(),
        ["info  printed 1", "warn  to the error output"]
    );
    assert_eq!(response.output, b"true");
}

/// The macros of the SDK reach the log on both targets.
#[tokio::test]
async fn print_macros_of_the_sdk_reach_the_log_on_each_target() {
    let bench = TestHost::new().await;
    for guest in ["sdk", "sdk-wasip1"] {
        let plugin = bench.load(wasm(guest)).await;
        let response = bench.host.call(&plugin, Call::function("prints")).await;
        let response = response.unwrap();
        let lines = response.log.lines().iter().map(ToString::to_string);
        let text = lines.collect::<Vec<_>>().join("\n");
        for line in [
            "info  printed 1",
            "info  two",
            "lines",
            "warn  to the error output",
            "1 + 2 = 3",
            "\"text\" = \"text\"",
            "info  3 text",
        ] {
            assert!(text.contains(line), "{guest}: {line}: {text}");
        }
    }
}

#[tokio::test]
async fn wasi_has_no_files_environment_or_stdin() {
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm("wasi-c")).await;
    bench
        .host
        .call(&plugin, Call::function("reach"))
        .await
        .unwrap();
}

/// A host call cannot be interrupted, so none may generate millions of random bytes.
#[tokio::test]
async fn wasi_random_bytes_are_limited_per_call() {
    let bench = TestHost::new().await;
    let asking = |bytes: u32| {
        wat::parse_str(format!(
            r#"(module (import "wasi_snapshot_preview1" "random_get"
                (func $random (param i32 i32) (result i32)))
              (memory (export "memory") 32)
              (func (export "run") (result i32)
                (call $random (i32.const 0) (i32.const {bytes}))))"#
        ))
        .unwrap()
    };
    let most = 64 * 1024;
    let plugin = bench.load(asking(most)).await;
    let run = || Call::function("run");
    bench.host.call(&plugin, run()).await.unwrap();
    let plugin = bench.load(asking(most + 1)).await;
    let failure = bench.host.call(&plugin, run()).await.unwrap_err();
    let is_trap = matches!(failure.error, CallError::Trap { .. });
    let text = failure.to_string();
    assert!(
        is_trap && text.contains("65537") && text.contains("65536"),
        "{text}"
    );
}

#[tokio::test]
async fn wasi_proc_exit_sets_the_exit_code() {
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm("wasi-c")).await;
    let failure = bench
        .host
        .call(&plugin, Call::function("leave"))
        .await
        .unwrap_err();
    assert!(
        matches!(failure.error, CallError::Failed { code: 7, .. }),
        "{failure}"
    );
}

#[tokio::test]
async fn wasi_sleep_ends_at_the_deadline() {
    let bench = TestHost::with_limits(|limits| limits.wall_time = Duration::from_millis(200)).await;
    let plugin = bench.load(wasm("wasi-c")).await;
    let failure = bench
        .host
        .call(&plugin, Call::function("nap"))
        .await
        .unwrap_err();
    assert!(
        matches!(failure.error, CallError::Deadline { .. }),
        "{failure}"
    );
}
