//! WebAssembly's garbage collection and exceptions: objects count against the limits of memory and CPU
//! time like anything else.

use kvasm::model::Limits;
use kvasm::{Call, CallError, CallFailure};
use kvasm_tests::guests::{TestHost, meanwhile, module_importing, module_with};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Barrier;

/// A list of nodes, an array of bytes, and a tag.
const TYPES: &str = "
    (type $node (struct (field (ref null $node)) (field i64) (field i64)))
    (type $bytes (array (mut i8)))
    (tag $tag (param i32))
    (global $keep (mut (ref null $node)) (ref.null $node))
    (global $array (mut (ref null $bytes)) (ref.null $bytes))";
const ENOUGH: Duration = Duration::from_secs(600);

fn guest(fields: &str, body: &str) -> Vec<u8> {
    module_with("", &format!("{TYPES} {fields}"), body)
}

/// A host on which only the CPU time is short.
async fn host_with_cpu_time(cpu_time: Duration) -> TestHost {
    TestHost::with_limits(|limits| {
        limits.cpu_time = cpu_time;
        limits.wall_time = ENOUGH;
    })
    .await
}

#[track_caller]
fn assert_trap(failure: &CallFailure, words: &[&str]) {
    let CallError::Trap { reason, .. } = &failure.error else {
        panic!("{failure:?}");
    };
    for words in words {
        assert!(reason.contains(words), "{reason}");
    }
}

/// Keeps a list that never ends.
const HOARD: &str = "
    (loop $more
      (global.set $keep (struct.new $node (global.get $keep) (i64.const 1) (i64.const 2)))
      (br $more))
    (i32.const 0)";

#[tokio::test]
async fn objects_count_against_the_memory_limit() {
    let bench = host_with_cpu_time(ENOUGH).await;
    let limit = Limits::default().memory_bytes as u64;
    let failure = bench.run(guest("", HOARD)).await.unwrap_err();
    assert_trap(
        &failure,
        &["heap", "more memory than its limit of 67108864 bytes"],
    );
    let used = failure.cost.memory_bytes;
    assert!(used > limit / 4 && used <= limit, "{used}");

    // A memory and the heap share the limit: here 8 MiB are left.
    let grow = "(if (i32.eq (memory.grow (i32.const 895)) (i32.const -1)) (then unreachable))";
    let failure = bench
        .run(guest("", &format!("{grow} {HOARD}")))
        .await
        .unwrap_err();
    assert_trap(&failure, &["heap", "its limit"]);
    let used = failure.cost.memory_bytes;
    assert!(used > limit / 8 * 7 && used <= limit, "{used}");

    // And the other way round.
    let fill = "(global.set $array (array.new_default $bytes (i32.const 20000000)))";
    let grown = guest("", &format!("{fill} (memory.grow (i32.const 600))"));
    let failure = bench.run(grown).await.unwrap_err();
    assert!(
        matches!(failure.error, CallError::Failed { code: -1, .. }),
        "{failure:?}"
    );
}

#[tokio::test]
async fn garbage_is_collected() {
    let bench = host_with_cpu_time(ENOUGH).await;
    // 400 MB of arrays and 160 MB of nodes in cycles, of which only the last ones are kept.
    let body = "(local $n i32)
        (loop $more
          (global.set $array (array.new_default $bytes (i32.const 100000)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $n) (i32.const 4000))))
        (local.set $n (i32.const 0))
        (loop $more
          (global.set $keep (struct.new $node (ref.null $node) (i64.const 1) (i64.const 2)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $n) (i32.const 4000000))))
        (i32.wrap_i64 (i64.sub (struct.get $node 1 (global.get $keep)) (i64.const 1)))";
    let response = bench.run(guest("", body)).await.unwrap();
    assert!(response.cost.memory_bytes <= Limits::default().memory_bytes as u64);
}

#[tokio::test]
async fn objects_that_cannot_fit_trap() {
    let bench = host_with_cpu_time(ENOUGH).await;
    for length in ["67108864", "0x7fffffff", "-1"] {
        let new = format!("(drop (array.new_default $bytes (i32.const {length}))) (i32.const 0)");
        let failure = bench.run(guest("", &new)).await.unwrap_err();
        assert_trap(&failure, &[]);
    }
    // While the module is instantiated.
    let global = "(global (ref $bytes) (array.new_default $bytes (i32.const 4000000)))";
    let failure = bench
        .run(guest(&global.repeat(50), "(i32.const 0)"))
        .await
        .unwrap_err();
    assert!(
        matches!(failure.error, CallError::Start { .. }),
        "{failure:?}"
    );
    assert!(bench.run(guest("", "(i32.const 0)")).await.is_ok());
}

/// Code without a loop or a call has no epoch check.
#[tokio::test]
async fn collections_between_epoch_checks_count_as_cpu_time() {
    let limit = Duration::from_millis(300);
    let bench = host_with_cpu_time(limit).await;
    let new = "(drop (array.new_default $bytes (i32.const 20000000)))";
    let body = format!("{} (i32.const 0)", new.repeat(1_500));
    let failure = bench.run(guest("", &body)).await.unwrap_err();
    assert!(
        matches!(failure.error, CallError::CpuTime { .. }),
        "{failure:?}"
    );
    assert!(failure.cost.cpu >= limit, "{failure:?}");
    let failure = bench.run(guest(
        "",
        "(loop $more (drop (struct.new_default $node)) (br $more)) (i32.const 0)",
    ));
    let failure = failure.await.unwrap_err();
    assert!(
        matches!(failure.error, CallError::CpuTime { .. }),
        "{failure:?}"
    );
}

/// The host's lack of memory is not the plugin's fault, and takes nothing from others.
#[tokio::test]
async fn heap_over_the_hosts_memory_is_the_hosts_fault() {
    let bench = TestHost::with(|builder| {
        let limits = Limits {
            cpu_time: ENOUGH,
            wall_time: ENOUGH,
            ..Limits::default()
        };
        builder.limits(limits).memory(16 << 20)
    })
    .await;
    for _ in 0..3 {
        let failure = bench.run(guest("", HOARD)).await.unwrap_err();
        assert!(
            matches!(failure.error, CallError::HostMemory),
            "{failure:?}"
        );
        assert!(bench.run(guest("", "(i32.const 0)")).await.is_ok());
    }
}

/// Each instance may have all its memories and a heap, at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_instances_have_room_for_a_heap() {
    const SLOTS: u32 = 4;
    let barrier = Arc::new(Barrier::new(SLOTS as usize / 2));
    let bench = TestHost::with(|builder| {
        let builder = meanwhile(builder.instances(SLOTS), move |_| {
            let barrier = Arc::clone(&barrier);
            async move {
                let _ = barrier.wait().await;
            }
        });
        builder.limits(Limits {
            wall_time: ENOUGH,
            ..Limits::default()
        })
    })
    .await;
    let memories = "(memory 1)".repeat(Limits::default().memories as usize - 1);
    let import = r#"(import "test_v1" "meanwhile" (func $meanwhile))"#;
    let body = "(global.set $keep (struct.new_default $node)) (call $meanwhile) (i32.const 0)";
    let module = module_importing(import, "", &format!("{TYPES} {memories}"), body);
    let plugin = bench.load(module).await;
    let calls = (0..SLOTS / 2 * 5).map(|_| bench.host.call(&plugin, Call::function("run")));
    for ended in futures_util::future::join_all(calls).await {
        ended.unwrap();
    }
}

/// A slot that was one's heap is another's memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_has_no_objects_of_another_instance() {
    let bench = TestHost::with(|builder| builder.instances(2)).await;
    let fill = "(global.set $array (array.new $bytes (i32.const 0xa5) (i32.const 14000000)))
        (i32.const 0)";
    let scan = "(local $at i32) (local $found i64)
        (if (i32.eq (memory.grow (i32.const 899)) (i32.const -1)) (then unreachable))
        (loop $more
          (local.set $found (i64.or (local.get $found) (i64.load (local.get $at))))
          (local.set $at (i32.add (local.get $at) (i32.const 8)))
          (br_if $more (i32.lt_u (local.get $at) (i32.const 58982400))))
        (i64.ne (local.get $found) (i64.const 0))";
    let (fill, scan) = (
        bench.load(guest("", fill)).await,
        bench.load(guest("", scan)).await,
    );
    for _ in 0..20 {
        let calls = [&fill, &scan].map(|plugin| bench.host.call(plugin, Call::function("run")));
        for ended in futures_util::future::join_all(calls).await {
            ended.unwrap();
        }
    }
}

#[tokio::test]
async fn exceptions_are_caught_and_uncaught_ones_fail_the_call() {
    let bench = host_with_cpu_time(ENOUGH).await;
    // Through thousands of frames.
    let deep = "(func $deep (param $n i32)
        (if (i32.eqz (local.get $n)) (then (throw $tag (i32.const 7))))
        (call $deep (i32.sub (local.get $n) (i32.const 1))))";
    let caught = "(i32.sub
        (block $caught (result i32)
          (try_table (catch $tag $caught) (call $deep (i32.const 2000)))
          (i32.const 0))
        (i32.const 7))";
    bench.run(guest(deep, caught)).await.unwrap();
    let uncaught = "(drop (call $kv_set (i32.const 8) (i32.const 1) (i32.const 8) (i32.const 1)
          (i32.const 8) (i32.const 1) (i32.const 1) (i32.const 0)))
        (call $deep (i32.const 3)) (i32.const 0)";
    let failure = bench.run(guest(deep, uncaught)).await.unwrap_err();
    assert_trap(&failure, &["an exception was thrown and not caught"]);
    // In the start function.
    let start = "(func $start (throw $tag (i32.const 1))) (start $start)";
    let failure = bench.run(guest(start, "(i32.const 0)")).await.unwrap_err();
    assert!(
        matches!(failure.error, CallError::Start { .. }),
        "{failure:?}"
    );
    assert!(
        failure.error.to_string().contains("not caught"),
        "{}",
        failure.error
    );
}

#[tokio::test]
async fn endless_exceptions_are_stopped() {
    let bench = host_with_cpu_time(Duration::from_millis(300)).await;
    let body = "(loop $more
          (drop (block $caught (result i32)
            (try_table (catch $tag $caught) (throw $tag (i32.const 1)))
            (i32.const 0)))
          (br $more))
        (i32.const 0)";
    let failure = bench.run(guest("", body)).await.unwrap_err();
    assert!(
        matches!(failure.error, CallError::CpuTime { .. }),
        "{failure:?}"
    );
    // References to exceptions are objects: a chain of them fills the heap.
    let kept = "(local $last exnref)
        (loop $more
          (local.set $last (block $caught (result exnref)
            (try_table (catch_all_ref $caught) (throw $chain (local.get $last)))
            unreachable))
          (br $more))
        (i32.const 0)";
    let bench = host_with_cpu_time(ENOUGH).await;
    let failure = bench
        .run(guest("(tag $chain (param exnref))", kept))
        .await
        .unwrap_err();
    assert_trap(&failure, &["its limit"]);
}

/// A trap is not an exception.
#[tokio::test]
async fn traps_and_stops_cannot_be_caught() {
    let bench = host_with_cpu_time(Duration::from_millis(300)).await;
    for (inner, is_cpu) in [("unreachable", false), ("(loop $l (br $l))", true)] {
        let body = format!(
            "(block $caught (try_table (catch_all $caught) {inner}) (return (i32.const 0)))
             (i32.const 0)"
        );
        let failure = bench.run(guest("", &body)).await.unwrap_err();
        let stopped = matches!(failure.error, CallError::CpuTime { .. });
        assert_eq!(stopped, is_cpu, "{failure:?}");
    }
}
