//! Host functions that copy much memory acquire a CPU permit; those that reject the request do
//! not.

use kvasm::model::{Collection, Key, Op, Value};
use kvasm::service::Caller;
use kvasm::{Call, Plugin};
use kvasm_abi::{Address, ListOptions, encode_records};
use kvasm_tests::guests::{TestHost, module};
use std::pin::pin;
use std::task::{Context, Waker};

/// The size of the value "k" in "c".
const VALUE: usize = 200_000;
/// The address of a packed list of keys with "c" and "k".
const KEYS: u32 = 100;
/// The address of the options of a list with values.
const OPTIONS: u32 = 200;

async fn bench() -> TestHost {
    let bench = TestHost::with_limits(|limits| {
        limits.value_bytes = 300_000;
        limits.output_bytes = 300_000;
    })
    .await;
    let write = Op::Set {
        collection: Collection::parse("c").unwrap(),
        key: Key::parse("k").unwrap(),
        value: Value::bytes(vec![7; VALUE], VALUE).unwrap(),
        expires_at: None,
    };
    let caller = Caller::new(&bench.app, None);
    bench.host.kv().apply(&caller, write, None).await.unwrap();
    bench
}

/// A module of 9 MiB that runs this body.
async fn plugin(bench: &TestHost, body: &str) -> Plugin {
    let mut data = b"ck".to_vec();
    data.resize(KEYS as usize, 0);
    let key = Address {
        collection: b"c",
        key: b"k",
    };
    encode_records(&[key], &mut |piece: &[u8]| data.extend_from_slice(piece));
    data.resize(OPTIONS as usize, 0);
    let options = ListOptions {
        values: true,
        ..ListOptions::default()
    };
    data.extend_from_slice(&options.encode());
    let data: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let body = format!("(drop (memory.grow (i32.const 143))) {body}");
    bench.load(module(&data, &body)).await
}

/// Otherwise, many long-running calls that start at once would each delay others for a tick of
/// the clock.
#[tokio::test]
async fn function_after_a_long_run_acquires_a_cpu_permit() {
    let bench = bench().await;
    // Runs as many rounds as the first two bytes of its input say, times 2^16.
    let plugin = plugin(
        &bench,
        "(drop (call $input_read (i32.const 0) (i32.const 0) (i32.const 2)))
         (i32.store (i32.const 8) (i32.shl (i32.load16_u (i32.const 0)) (i32.const 16)))
         (loop $again
           (i32.store (i32.const 8) (i32.sub (i32.load (i32.const 8)) (i32.const 1)))
           (br_if $again (i32.gt_s (i32.load (i32.const 8)) (i32.const 0))))
         (i32.const 0)",
    )
    .await;
    let run = async |rounds: u16| {
        let call = Call::function("run").input(rounds.to_le_bytes().to_vec());
        bench.host.call(&plugin, call).await.unwrap();
    };
    run(0).await;
    assert!(completes_without_yielding(&bench, &plugin));
    run(1_000).await;
    assert!(!completes_without_yielding(&bench, &plugin));
    // Once it runs briefly again, it needs no permit.
    run(0).await;
    assert!(completes_without_yielding(&bench, &plugin));
}

/// Whether a call can finish without yielding: a permit lets others of its thread run first. On
/// a busy machine a guest may also be delayed for a tick, so each is tried often.
fn completes_without_yielding(bench: &TestHost, plugin: &Plugin) -> bool {
    (0..200).any(|_| {
        let call = Call::function("run").input(vec![0; 250_000]);
        let call = pin!(bench.host.call(plugin, call));
        let poll = call.poll(&mut Context::from_waker(Waker::noop()));
        poll.map(|ended| drop(ended.unwrap())).is_ready()
    })
}

/// A body that traps unless the result is as expected.
fn expect_result(call: &str, expected: &str) -> String {
    format!("(if (i64.ne {call} (i64.const {expected})) (then unreachable))")
}

const DONE: &str = "(i32.const 0)";

#[tokio::test]
async fn large_copies_acquire_a_cpu_permit() {
    let bench = bench().await;
    let (at, len) = (70_000, 250_000);
    let large = [
        format!("(drop (call $output_write (i32.const {at}) (i32.const {len})))"),
        format!("(drop (call $input_read (i32.const 0) (i32.const {at}) (i32.const {len})))"),
        format!(
            "(drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)
               (i32.const {at}) (i32.const {len}) (i32.const 1) (i32.const 0)))"
        ),
        format!(
            "(drop (call $kv_get (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
               (i32.const 1) (i32.const 0) (i32.const {at}) (i32.const {len})))"
        ),
        format!(
            "(if (i64.lt_s (call $kv_get_many (i32.const {KEYS}) (i32.const 14)
               (i32.const {at}) (i32.const {len})) (i64.const {VALUE})) (then unreachable))"
        ),
        format!(
            "(if (i64.lt_s (call $kv_list (i32.const 0) (i32.const 1) (i32.const {OPTIONS})
               (i32.const {at}) (i32.const {len})) (i64.const {VALUE})) (then unreachable))"
        ),
        // In bytes that are not a batch.
        format!(
            "(drop (call $kv_commit (i32.const {at}) (i32.const {len}) (i32.const 0) (i32.const 0)))"
        ),
    ];
    for call in large {
        let plugin = plugin(&bench, &format!("{call} {DONE}")).await;
        let run = bench
            .host
            .call(&plugin, Call::function("run").input(vec![0; 250_000]));
        run.await
            .unwrap_or_else(|failure| panic!("{call}: {failure}"));
        assert!(!completes_without_yielding(&bench, &plugin), "{call}");
    }
}

/// The value is in the result slot after a `kv_get` without a buffer. Reading a small part of
/// it is cheap.
#[tokio::test]
async fn small_copies_need_no_cpu_permit() {
    let bench = bench().await;
    for call in [
        expect_result(
            "(call $output_write (i32.const 0) (i32.const 1000))",
            "1000",
        ),
        expect_result(
            "(call $input_read (i32.const 249000) (i32.const 0) (i32.const 60000))",
            "1000",
        ),
        expect_result(
            "(call $input_read (i32.const 0) (i32.const 0) (i32.const 1000))",
            "1000",
        ),
        expect_result(
            "(call $result_read (i32.const 0) (i32.const 0) (i32.const 300000))",
            "0",
        ),
    ] {
        let plugin = plugin(&bench, &format!("{call} {DONE}")).await;
        assert!(completes_without_yielding(&bench, &plugin), "{call}");
    }
}

#[tokio::test]
async fn rejected_length_needs_no_cpu_permit() {
    let bench = bench().await;
    let too_large = kvasm_abi::Status::TooLarge.code().to_string();
    for call in [
        "(call $output_write (i32.const 0) (i32.const 300001))",
        "(call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)
           (i32.const 0) (i32.const 300001) (i32.const 1) (i32.const 0))",
        "(call $kv_commit (i32.const 0) (i32.const 8388608) (i32.const 0) (i32.const 0))",
    ] {
        let plugin = plugin(
            &bench,
            &format!("{} {DONE}", expect_result(call, &too_large)),
        )
        .await;
        assert!(completes_without_yielding(&bench, &plugin), "{call}");
    }
}
