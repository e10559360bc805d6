//! WASI preview 1: a C plugin with a libc runs, and reaches nothing.

use kvasm::{Call, CallError};
use kvasm_tests::guests::{Bench, wasm};
use std::time::Duration;

#[tokio::test]
async fn standard_output_and_error_go_to_the_log() {
    let bench = Bench::new().await;
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
async fn there_are_no_files_no_environment_and_no_input() {
    let bench = Bench::new().await;
    let plugin = bench.load(wasm("wasi-c")).await;
    bench
        .host
        .call(&plugin, Call::function("reach"))
        .await
        .unwrap();
}

#[tokio::test]
async fn exit_ends_the_call_with_its_code() {
    let bench = Bench::new().await;
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
async fn sleep_ends_at_the_deadline() {
    let bench = Bench::limited(|limits| limits.wall_time = Duration::from_millis(200)).await;
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
