//! Input, output, context, log, clock and randomness.

use kvasm::model::{Principal, TraceContext};
use kvasm::{Blame, Call, CallError};
use kvasm_abi::Status;
use kvasm_tests::guests::{TestHost, module, report};

#[tokio::test]
async fn input_and_output_round_trip() {
    let bench = TestHost::new().await;
    let body = "(drop (call $input_read (i32.const 1) (i32.const 0) (i32.const 100)))
        (drop (call $output_write (i32.const 0) (i32.wrap_i64 (call $input_len))))
        (i32.const 0)";
    let plugin = bench.load(module("", body)).await;
    let call = Call::function("run").input("hello");
    let output = bench.host.call(&plugin, call).await.unwrap().output;
    assert_eq!(output, b"ello\0");
}

#[tokio::test]
async fn input_and_output_limits_are_enforced() {
    let bench = TestHost::with_limits(|limits| {
        limits.input_bytes = 4;
        limits.output_bytes = 4;
    })
    .await;
    let plugin = bench.load(module("", "(i32.const 0)")).await;
    let call = |input: &str| Call::function("run").input(input);
    bench.host.call(&plugin, call("four")).await.unwrap();
    let failure = bench.host.call(&plugin, call("fives")).await.unwrap_err();
    assert_eq!(failure.error.blame(), Blame::Caller);
    assert_eq!(
        failure.to_string(),
        "the input is 5 bytes; the limit is 4 bytes"
    );

    let body = "(if (i64.ne (call $output_write (i32.const 0) (i32.const 4)) (i64.const 4)) (then unreachable))
        (if (i64.ne (call $output_write (i32.const 0) (i32.const 1)) (i64.const -5)) (then unreachable))
        (i32.const 0)";
    let response = bench.run(module("four", body)).await.unwrap();
    assert_eq!(response.output, b"four");
}

#[tokio::test]
async fn failed_function_reports_its_output_as_the_reason() {
    let bench = TestHost::new().await;
    // 3 says that the function refuses its input.
    for (code, blame) in [(3, Blame::Caller), (9, Blame::Guest)] {
        let body =
            format!("(drop (call $output_write (i32.const 0) (i32.const 4))) (i32.const {code})");
        let failure = bench.run(module("no\\1b!", &body)).await.unwrap_err();
        let CallError::Failed {
            code: found,
            message,
        } = &failure.error
        else {
            panic!("{failure}");
        };
        assert_eq!((*found, message.as_str()), (code, "no\\u{1b}!"));
        assert_eq!(failure.error.blame(), blame);
    }
}

#[tokio::test]
async fn guest_can_read_its_context() {
    let bench = TestHost::new().await;
    let body = "(drop (call $output_write (i32.const 0) (i32.wrap_i64 (call $context (i32.const 0) (i32.const 500))))) (i32.const 0)";
    let plugin = bench.load(module("", body)).await;
    for (call, caller) in [
        (Call::function("run"), "public"),
        (
            Call::function("run").principal(Principal::for_app(bench.app.id, [])),
            "principal",
        ),
    ] {
        let response = bench.host.call(&plugin, call).await.unwrap();
        let context: serde_json::Value = serde_json::from_slice(&response.output).unwrap();
        // The call starts a trace, whose id is its request id.
        let parent = context["traceparent"].as_str().unwrap();
        let id = response.request_id.simple().to_string();
        assert_eq!((&parent[3..35], parent.len()), (id.as_str(), 55));
        let expected = serde_json::json!({
            "app": "app",
            "function": "run",
            "request_id": response.request_id.to_string(),
            "caller": caller,
            "transaction": false,
            "traceparent": parent,
        });
        assert_eq!(context, expected);
    }
}

/// A caller decides how long a context is, so a guest must read one that does not fit.
#[tokio::test]
async fn context_with_the_longest_tracestate_can_be_read() {
    let bench = TestHost::new().await;
    let body = "(local $len i32)
        (local.set $len (i32.wrap_i64 (call $context (i32.const 0) (i32.const 100))))
        (drop (call $result_read (i32.const 0) (i32.const 1024) (local.get $len)))
        (drop (call $output_write (i32.const 1024) (local.get $len))) (i32.const 0)";
    let plugin = bench.load(module("", body)).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let members = [("a", 128), ("b", 128), ("c", 128), ("d", 125)];
    let members = members.map(|(key, len)| format!("{key}={}", "v".repeat(len - 2)));
    let state = members.join(",");
    let trace = TraceContext::parse(parent.as_bytes(), [state.as_bytes()]).unwrap();
    let call = Call::function("run").trace(trace.clone());
    let response = bench.host.call(&plugin, call).await.unwrap();
    let context: serde_json::Value = serde_json::from_slice(&response.output).unwrap();
    assert_eq!(context["traceparent"], parent);
    assert_eq!(context["tracestate"], trace.state().unwrap());
    assert_eq!(trace.state().unwrap().len(), 512);
}

#[tokio::test]
async fn log_lines_are_limited_and_escaped() {
    let bench = TestHost::with_limits(|limits| {
        limits.log_lines = 2;
        limits.log_line_bytes = 5;
    })
    .await;
    let log = |level: i32, len: i32| {
        format!("(drop (call $log (i32.const {level}) (i32.const 0) (i32.const {len})))")
    };
    let body = format!("{}{}{}(i32.const 0)", log(2, 3), log(5, 9), log(1, 1));
    let response = bench.run(module("ab\\07defgh", &body)).await.unwrap();
    let lines: Vec<_> = response
        .log
        .lines()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(lines, ["warn  ab\\u{7}", "trace ab\\u{7}de..."]);
    assert_eq!(response.log.dropped(), 1);
    for level in ["0", "6", "-1"] {
        let body = format!("(call $log (i32.const {level}) (i32.const 0) (i32.const 1))");
        let (status, message) = bench.result("", &body).await;
        assert_eq!(
            Status::from_code(status),
            Some(Status::Invalid),
            "{message}"
        );
    }
}

#[tokio::test]
async fn log_lines_before_a_trap_are_kept() {
    let bench = TestHost::new().await;
    let body = "(drop (call $log (i32.const 1) (i32.const 0) (i32.const 4))) unreachable";
    let failure = bench.run(module("last", body)).await.unwrap_err();
    assert_eq!(failure.log.lines()[0].message, "last");
}

#[tokio::test]
async fn clock_and_random_bytes_work() {
    let bench = TestHost::new().await;
    let before = kvasm::model::Timestamp::now().0;
    let (now, _) = bench.result("", "(call $now_ms)").await;
    assert!((before..=kvasm::model::Timestamp::now().0).contains(&now));
    let random = module(
        "",
        &report("(i64.load (i32.wrap_i64 (call $random_fill (i32.const 0) (i32.const 8))))"),
    );
    let call = || Call::function("run");
    let first = bench.result_of(random.clone(), call()).await.0;
    assert_ne!(first, bench.result_of(random, call()).await.0);
}
