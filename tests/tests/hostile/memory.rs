//! Instance memory: fresh for each call, and how SDK plugins use it.

use kvasm::model::{App, AppName};
use kvasm::{Call, CallError, Plugin};
use kvasm_tests::guests::{TestHost, module_with, wasm};
use tokio::task::JoinSet;

/// Initial pages of a guest: more than a slot keeps resident between calls.
const PAGES: u32 = 48;
/// Pages that it grows to.
const GROWN: u32 = 96;
const SLOTS: u32 = 16;
const ROUNDS: usize = 40;

/// `fill` writes a pattern over its whole memory, before and after growing it. `scan` counts
/// the bytes that differ from the module's initial data, before and after growing, and fails
/// with the count. `control` scans after filling.
fn guest(data: &str, pages: u32, grown: u32) -> Vec<u8> {
    let fields = format!(
        r#"(func $fill
            (memory.fill (i32.const 64) (i32.const 0xa5)
              (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 64))))
          (func $count (result i32) (local $at i32) (local $end i32) (local $count i32)
            (local.set $at (i32.const 64))
            (local.set $end (i32.mul (memory.size) (i32.const 65536)))
            (loop $more
              (local.set $count (i32.add (local.get $count)
                (i64.ne (i64.load (local.get $at)) (i64.const 0))))
              (local.set $at (i32.add (local.get $at) (i32.const 8)))
              (br_if $more (i32.lt_u (local.get $at) (local.get $end))))
            (local.get $count))
          (func $grow (param $pages i32)
            (if (i32.eq (memory.grow (i32.sub (local.get $pages) (memory.size))) (i32.const -1))
              (then unreachable)))
          (func $scan (result i32) (local $count i32)
            ;; The data of the module is as it was, too.
            (local.set $count (i64.ne (i64.load (i32.const 0)) (i64.load (i32.const 8))))
            (local.set $count (i32.add (local.get $count) (call $count)))
            (call $grow (i32.const {grown}))
            (i32.add (local.get $count) (call $count)))
          (func $report (param $count i32) (result i32)
            (i32.store (i32.const 32) (local.get $count))
            (drop (call $output_write (i32.const 32) (i32.const 4)))
            (i32.const 0))
          (func (export "fill") (result i32)
            (call $grow (i32.const {pages}))
            (call $fill)
            (call $grow (i32.const {grown}))
            (call $fill)
            (i64.store (i32.const 0) (i64.const 0))
            (i32.const 0))
          (func (export "scan") (result i32)
            (call $grow (i32.const {pages}))
            (call $report (call $scan)))
          (func (export "control") (result i32)
            (call $grow (i32.const {pages}))
            (call $fill)
            (call $report (call $scan)))"#
    );
    module_with(&format!("{data}{data}"), &fields, "(i32.const 0)")
}

async fn scan(bench: &TestHost, plugin: &Plugin, function: &'static str) -> u32 {
    let response = bench.host.call(plugin, Call::function(function)).await;
    u32::from_le_bytes(response.unwrap().output.try_into().unwrap())
}

async fn app(bench: &TestHost, name: &str) -> App {
    let name = AppName::parse(name).unwrap();
    bench.host.create_app(name).await.unwrap()
}

/// Guests of two apps fill all their memory, in all slots at once. Guests of a third app, with
/// other sizes and data, then find none of it, whichever slot and part of it they get: memory
/// that is reset in place, memory that is returned to the system, and memory that a growth
/// adds.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fresh_instance_has_no_data_of_another_app() {
    let bench = TestHost::with(|builder| builder.instances(SLOTS)).await;
    let other = app(&bench, "other").await;
    let reader = app(&bench, "reader").await;
    let mut fillers = Vec::new();
    for (app, data) in [(&bench.app, "SECRET-1"), (&other, "SECRET-2")] {
        let wasm = guest(data, PAGES, GROWN);
        fillers.push(bench.host.load(app, wasm).await.unwrap());
    }
    // As large as the filled memory, smaller, and larger than the part that is reset in place.
    let mut readers = Vec::new();
    for (data, pages, grown) in [
        ("READER-1", PAGES, GROWN),
        ("READER-2", 1, 2),
        ("READER-3", 1, GROWN),
        ("READER-4", 20, 40),
    ] {
        let wasm = guest(data, pages, grown);
        readers.push(bench.host.load(&reader, wasm).await.unwrap());
    }
    // The scan detects leftover data.
    let all = (PAGES * 65536 - 64) / 8;
    assert!(scan(&bench, &readers[0], "control").await >= all);
    for round in 0..ROUNDS {
        let mut calls = JoinSet::new();
        for n in 0..SLOTS as usize {
            let (host, plugin) = (bench.host.clone(), fillers[n % 2].clone());
            calls.spawn(async move {
                let call = Call::function("fill");
                host.call(&plugin, call).await.map(|_| ())
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap().unwrap();
        }
        let mut calls = JoinSet::new();
        for n in 0..SLOTS as usize {
            let plugin = readers[(round + n) % readers.len()].clone();
            let host = bench.host.clone();
            calls.spawn(async move { host.call(&plugin, Call::function("scan")).await });
        }
        while let Some(call) = calls.join_next().await {
            let output = call.unwrap().unwrap().output;
            assert_eq!(output, [0; 4], "words of another's memory, round {round}");
        }
    }
}

/// Pages before and after an allocating function of the plugin `sdk`.
async fn pages(
    bench: &TestHost,
    plugin: &Plugin,
    function: &'static str,
    input: &str,
) -> (u32, u32) {
    let call = Call::function(function).input(input.as_bytes());
    let output = bench.host.call(plugin, call).await.unwrap().output;
    serde_json::from_slice(&output).unwrap()
}

#[tokio::test]
async fn small_sdk_calls_do_not_grow_memory() {
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm("sdk")).await;
    let (start, _) = pages(&bench, &plugin, "churn", "[0, 0]").await;
    for n in 0..100 {
        // All blocks at once, and one after another.
        let kept = pages(&bench, &plugin, "allocate", "[40, 1000]").await;
        let dropped = pages(&bench, &plugin, "churn", "[1000, 20000]").await;
        assert_eq!(
            (kept, dropped),
            ((start, start), (start, start)),
            "call {n}"
        );
    }
}

#[tokio::test]
async fn sdk_allocator_grows_memory_up_to_the_limit() {
    let bench = TestHost::new().await;
    let plugin = bench.load(wasm("sdk")).await;
    let limit = 64 * 16;
    for input in [
        // One block larger than the initial memory, many small ones, large ones.
        "[1, 60000000]",
        "[20000, 2000]",
        "[40, 1048576]",
        "[60, 1000000]",
    ] {
        let (before, after) = pages(&bench, &plugin, "allocate", input).await;
        assert!(after > before + 100 && after <= limit, "{before} {after}");
    }
    // A freed block is reused, also beyond the initial memory.
    let (before, after) = pages(&bench, &plugin, "churn", "[500, 5000000]").await;
    assert!(after <= before + 100, "{before} {after}");

    // Allocations over the limit fail, both for a guest that handles failure and one that does
    // not.
    for input in ["[70, 1048576]", "[1, 70000000]", "[40000, 2000]"] {
        let call = Call::function("allocate").input(input.as_bytes());
        let failure = bench.host.call(&plugin, call).await.unwrap_err();
        let CallError::Failed { message, .. } = &failure.error else {
            panic!("{failure:?}");
        };
        assert!(message.contains("no memory for block"), "{message}");
    }
    let call = Call::function("churn").input(b"[1, 70000000]");
    let failure = bench.host.call(&plugin, call).await.unwrap_err();
    let CallError::Trap { reason, .. } = &failure.error else {
        panic!("{failure:?}");
    };
    assert!(
        reason.contains("more memory than its limit of 67108864 bytes"),
        "{reason}"
    );
}
