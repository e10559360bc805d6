//! WASI preview 1: a C plugin with a libc runs, and has no access to the system.

use super::modules::load_error;
use kvasm::{Call, CallError, LoadError};
use kvasm_tests::guests::{TestHost, manifest, module_with, wasm};
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
            "info  without a line break",
        ] {
            assert!(text.contains(line), "{guest}: {line}: {text}");
        }
    }
}

/// An export named `write` must not become the symbol through which `println!` writes.
#[tokio::test]
async fn functions_may_have_the_names_of_c_symbols() {
    let bench = TestHost::new().await;
    for guest in ["sdk", "sdk-wasip1"] {
        let plugin = bench.load(wasm(guest)).await;
        let call = Call::function("write").input(b"5".to_vec());
        let response = bench.host.call(&plugin, call).await.unwrap();
        let lines = response.log.lines().iter().map(ToString::to_string);
        assert_eq!(lines.collect::<Vec<_>>(), ["info  write 5"], "{guest}");
        assert_eq!(response.output, b"6", "{guest}");
        for name in ["remove", "memcpy", "main"] {
            let call = Call::function(name);
            let response = bench.host.call(&plugin, call).await.unwrap();
            assert_eq!(response.output, name.as_bytes(), "{guest}");
        }
    }
}

/// Of two exports of a declared function, the host calls the one with the prefix.
#[tokio::test]
async fn export_with_the_prefix_precedes_the_one_without() {
    let bench = TestHost::new().await;
    let good = |name: &str| {
        format!(
            r#"(func (export "{name}") (result i32)
                (drop (call $output_write (i32.const 0) (i32.const 1))) (i32.const 0))"#
        )
    };
    let bad = |name: &str| format!(r#"(func (export "{name}") (param i32))"#);
    let prefixed = "kvasm_function:write";
    let section = manifest(&[r#"{"kind":"function","name":"write"}"#]);
    let module = |exports: [String; 2]| {
        module_with(
            "x",
            &format!("{section} {}", exports.concat()),
            "(i32.const 1)",
        )
    };
    for exports in [
        [good(prefixed), bad("write")],
        [bad("write"), good(prefixed)],
    ] {
        let wasm = module(exports);
        let inspected = bench.host.inspect(wasm.clone()).await.unwrap();
        assert_eq!(inspected.functions[0].not_callable, None);
        let plugin = bench.load(wasm).await;
        let written = bench.host.call(&plugin, Call::function("write")).await;
        assert_eq!(written.unwrap().output, b"x");
    }
    for exports in [
        [good("write"), bad(prefixed)],
        [bad(prefixed), good("write")],
    ] {
        let wasm = module(exports);
        let expected = LoadError::WrongType {
            name: "write".to_owned(),
            found: "(i32) -> ()".to_owned(),
        };
        assert_eq!(load_error(wasm).await.to_string(), expected.to_string());
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
