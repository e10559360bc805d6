//! The cost of a call, as the host counts it.

use super::packed::{add, at, batch, check, delete, records, set};
use kvasm::model::{App, AppName, Cost};
use kvasm::{Call, CallError, CallFailure};
use kvasm_abi::IMPORTS;
use kvasm_tests::guests::{TestHost, module, module_with};
use std::time::Duration;

const PAGE: u64 = 65_536;
/// The collection "c", the keys "k" and "l", and the JSON 123.
const DATA: &str = "ckl123";

/// Calls a function with the addresses of "c" and "k", and these further arguments.
fn on_k(function: &str, rest: &str) -> String {
    format!(
        "(drop (call ${function} (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1) {rest}))"
    )
}

/// Like [`on_k`], for "l".
fn on_l(function: &str, rest: &str) -> String {
    format!(
        "(drop (call ${function} (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 1) {rest}))"
    )
}

/// The arguments of a `kv_set` of 123.
const SET: &str = "(i32.const 3) (i32.const 3) (i32.const 0) (i32.const 0)";
/// The arguments of a `kv_get` without room for the value.
const GET: &str = "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)";

async fn cost_of(data: &str, body: &[String]) -> Cost {
    let body = format!("{} (i32.const 0)", body.join(" "));
    let host = TestHost::new().await;
    host.run(module(data, &body)).await.unwrap().cost
}

/// Bytes as module data in the text format.
fn data(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}

#[tokio::test]
async fn reads_and_writes_are_counted_exactly() {
    let body = [
        on_k("kv_set", SET),
        on_k("kv_get", GET),
        on_l("kv_get", GET),
        on_k("kv_has", ""),
        on_l("kv_increment", "(i64.const 5) (i32.const 64)"),
    ];
    let cost = cost_of(DATA, &body).await;
    let expected = Cost {
        runs: 1,
        cpu: cost.cpu,
        memory_bytes: PAGE,
        entries_read: 3,
        entries_written: 2,
        bytes_read: 3,
        bytes_written: 3,
        host_calls: 5,
        fetches: 0,
    };
    assert_eq!(cost, expected);
}

#[tokio::test]
async fn deletions_and_listed_entries_are_counted() {
    let list = "(drop (call $kv_list (i32.const 0) (i32.const 1) (i32.const 0)
        (i32.const 1024) (i32.const 4096)))";
    // With values: size 52, mask `values`, at 64.
    let values = "(i32.store (i32.const 64) (i32.const 52))
        (i32.store (i32.const 68) (i32.const 0x40)) (i32.store (i32.const 112) (i32.const 1))
        (drop (call $kv_list (i32.const 0) (i32.const 1) (i32.const 64)
            (i32.const 1024) (i32.const 4096)))";
    let body = [
        on_k("kv_set", SET),
        on_l("kv_set", SET),
        list.to_owned(),
        values.to_owned(),
        on_k("kv_delete", "(i32.const 0)"),
    ];
    let cost = cost_of(DATA, &body).await;
    assert_eq!((cost.entries_written, cost.bytes_written), (3, 6));
    assert_eq!((cost.entries_read, cost.bytes_read), (4, 6));
}

#[tokio::test]
async fn keys_and_operations_of_batches_are_counted() {
    let ops = [
        set("c", "a", "[1]"),
        set("c", "b", "22"),
        add("c", "n", 1),
        delete("c", "b"),
    ];
    let commit = batch(&[check("c", "a", 0)], &ops);
    let keys = records(&[at("c", "a"), at("c", "absent"), at("c", "n")]);
    let call = |function: &str, ptr: usize, len: usize| {
        format!(
            "(drop (call ${function} (i32.const {ptr}) (i32.const {len}) (i32.const 8192)
                (i32.const 4096)))"
        )
    };
    // The second commit fails its check, and writes nothing.
    let body = [
        call("kv_commit", 0, commit.len()),
        call("kv_commit", 0, commit.len()),
        call("kv_get_many", commit.len(), keys.len()),
    ];
    let cost = cost_of(&data(&[commit, keys].concat()), &body).await;
    assert_eq!((cost.entries_written, cost.bytes_written), (4, 5));
    assert_eq!((cost.entries_read, cost.bytes_read), (3, 4));
    assert_eq!(cost.host_calls, 3);
}

/// Every function counts as a host call, whatever it answers; those that fail read and write
/// nothing.
#[tokio::test]
async fn each_call_of_the_abi_counts_as_a_host_call() {
    let calls = IMPORTS.iter().map(|import| {
        let zero = |param: &str| format!("({param}.const 0)");
        let zeros: Vec<_> = import.params.split_whitespace().map(zero).collect();
        format!("(drop (call ${} {}))", import.name, zeros.join(" "))
    });
    let cost = cost_of("", &calls.collect::<Vec<_>>()).await;
    let expected = Cost {
        runs: 1,
        cpu: cost.cpu,
        memory_bytes: PAGE,
        host_calls: IMPORTS.len() as u64,
        ..Cost::default()
    };
    assert_eq!(cost, expected);
}

#[tokio::test]
async fn peak_memory_includes_growth_but_not_refused_growth() {
    let grow = |pages: u32| format!("(drop (memory.grow (i32.const {pages})))");
    let cost = cost_of("", &[grow(7)]).await;
    assert_eq!(cost.memory_bytes, 8 * PAGE);
    // One above the limit, and one above the module's own maximum.
    let cost = cost_of("", &[grow(3), grow(65_000), grow(1)]).await;
    assert_eq!(cost.memory_bytes, 5 * PAGE);
    let text = "(module (memory (export \"memory\") 1 3)
        (func (export \"run\") (result i32)
            (drop (memory.grow (i32.const 1))) (drop (memory.grow (i32.const 2))) (i32.const 0)))";
    let host = TestHost::new().await;
    let wasm = wat::parse_str(text).unwrap();
    assert_eq!(host.run(wasm).await.unwrap().cost.memory_bytes, 2 * PAGE);
}

#[tokio::test]
async fn looping_call_costs_about_its_cpu_limit() {
    const LIMIT: Duration = Duration::from_millis(200);
    let host = TestHost::with_limits(|limits| {
        limits.cpu_time = LIMIT;
        limits.wall_time = Duration::from_secs(60);
    })
    .await;
    let failure = host.run(module("", "(loop (br 0)) unreachable")).await;
    let CallFailure { error, cost, .. } = failure.unwrap_err();
    assert!(matches!(error, CallError::CpuTime { .. }), "{error}");
    assert!(cost.cpu >= LIMIT, "{cost:?}");
    assert!(cost.cpu < LIMIT * 5, "{cost:?}");
    let idle = host.run(module("", "(i32.const 0)")).await.unwrap();
    assert!(idle.cost.cpu < LIMIT, "{:?}", idle.cost);
}

#[tokio::test]
async fn failed_calls_have_a_cost() {
    let host = TestHost::new().await;
    for end in ["unreachable", "(i32.const 1)"] {
        let body = format!("{} {end}", on_k("kv_set", SET));
        let cost = host.run(module(DATA, &body)).await.unwrap_err().cost;
        assert_eq!(
            (cost.runs, cost.entries_written, cost.host_calls),
            (1, 1, 1),
            "{end}"
        );
        assert_eq!(cost.memory_bytes, PAGE);
    }
    let plugin = host.load(module("", "(i32.const 0)")).await;
    let unknown = host.host.call(&plugin, Call::function("absent")).await;
    assert_eq!(unknown.unwrap_err().cost, Cost::default());
}

/// Deploys a module whose `run` has this body, calls it, and returns the costs of the log lines.
async fn logged(body: &str) -> Vec<Option<Cost>> {
    let host = TestHost::new().await.host;
    let app = host
        .create_app(AppName::parse("shop").unwrap())
        .await
        .unwrap();
    let actor = host.operator("test");
    let wasm = module_with(DATA, "", body);
    host.deploy(&actor, &app, wasm, true).await.unwrap();
    let app: App = host.app(&app.name).await.unwrap().unwrap();
    let _ = host.invoke(&app, Call::function("run")).await;
    let lines = host.logs().read(app.id, 0, usize::MAX).into_iter();
    lines.map(|line| line.cost.map(|cost| *cost)).collect()
}

#[tokio::test]
async fn last_log_line_of_a_call_has_its_cost() {
    let log = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 1)))";
    for (end, count) in [("(i32.const 0)", 2), ("unreachable", 3)] {
        let costs = logged(&format!("{log} {log} {} {end}", on_k("kv_has", ""))).await;
        assert_eq!(costs.len(), count, "{end}");
        let (last, others) = costs.split_last().unwrap();
        assert!(others.iter().all(Option::is_none), "{end}");
        let cost = last.unwrap();
        assert_eq!((cost.entries_read, cost.host_calls), (1, 3), "{end}");
    }
}
