//! Guests that do not return and stores that do not respond are stopped at the deadline; the
//! host and other calls are unaffected. The benchmarks measure how late they are stopped.

use kvasm::model::{AppName, Limits};
use kvasm::service::Stage;
use kvasm::store::MemoryStore;
use kvasm::{Blame, Call, CallError, Host};
use kvasm_store_testing::faulty::{FaultyStore, Operation};
use kvasm_tests::guests::{TestHost, manifest, module, module_with};
use std::sync::Arc;
use std::time::Duration;

const LOOP: &str = "(loop (br 0)) unreachable";

async fn short_deadline() -> TestHost {
    TestHost::with_limits(|limits| {
        limits.wall_time = Duration::from_millis(300);
        limits.cpu_time = Duration::from_secs(60);
    })
    .await
}

/// Asserts that the host still works.
async fn assert_alive(bench: &TestHost) {
    let body = "(drop (call $output_write (i32.const 0) (i32.const 2))) (i32.const 0)";
    assert_eq!(bench.run(module("ok", body)).await.unwrap().output, b"ok");
}

#[tokio::test]
async fn infinite_loop_is_terminated() {
    let bench = short_deadline().await;
    let failure = bench.run(module("", LOOP)).await.unwrap_err();
    assert!(
        matches!(
            &failure.error,
            CallError::Deadline { timeout, waiting_in: None, starting: false }
                if timeout.spent(Stage::Computing) > Duration::ZERO
        ),
        "{failure}"
    );
    // On a busy machine the guest may have waited for longer than it ran.
    if let CallError::Deadline { timeout, .. } = &failure.error
        && timeout.longest() == Stage::Computing
    {
        assert_eq!(failure.error.blame(), Blame::Guest);
    }
    assert!(failure.to_string().contains("300 ms"), "{failure}");
    assert_alive(&bench).await;
}

#[tokio::test]
async fn infinite_loop_of_host_calls_is_terminated() {
    let bench = short_deadline().await;
    for call in [
        "(call $kv_has (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))",
        "(call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0))",
        "(call $now_ms)",
        "(call $log (i32.const 1) (i32.const 0) (i32.const 1))",
    ] {
        let body = format!("(loop (drop {call}) (br 0)) unreachable");
        let failure = bench.run(module("a", &body)).await.unwrap_err();
        assert!(
            matches!(failure.error, CallError::Deadline { .. }),
            "{failure}"
        );
    }
    assert_alive(&bench).await;
}

#[tokio::test]
async fn looping_start_function_is_terminated_and_reported() {
    let bench = short_deadline().await;
    let fields = "(func $start (loop (br 0))) (start $start)";
    let failure = bench
        .run(module_with("", fields, "(i32.const 0)"))
        .await
        .unwrap_err();
    assert!(failure.to_string().contains("start function"), "{failure}");
    let failure = bench
        .run(module_with(
            "",
            "(func $start unreachable) (start $start)",
            "(i32.const 0)",
        ))
        .await
        .unwrap_err();
    assert!(
        matches!(failure.error, CallError::Start { .. }),
        "{failure}"
    );
    assert_alive(&bench).await;
}

#[tokio::test]
async fn cpu_time_and_wall_time_are_limited_separately() {
    let bench = TestHost::with_limits(|limits| {
        limits.cpu_time = Duration::from_millis(50);
        limits.wall_time = Duration::from_secs(60);
    })
    .await;
    let failure = bench.run(module("", LOOP)).await.unwrap_err();
    assert!(
        matches!(failure.error, CallError::CpuTime { .. }),
        "{failure}"
    );
    assert_alive(&bench).await;
}

#[tokio::test]
async fn deep_recursion_traps() {
    let bench = TestHost::new().await;
    let fields = "(func $down (call $down) (call $down))";
    let failure = bench
        .run(module_with("", fields, "(call $down) (i32.const 0)"))
        .await
        .unwrap_err();
    let CallError::Trap { reason, backtrace } = &failure.error else {
        panic!("{failure}");
    };
    assert!(reason.starts_with("stack overflow"), "{reason}");
    // Equal frames share a line.
    assert!(backtrace.contains("down ("), "{backtrace}");
    assert!(backtrace.lines().count() <= 2, "{backtrace}");
    assert_alive(&bench).await;
}

#[tokio::test]
async fn memory_limit_covers_all_memories_together() {
    let bench = TestHost::new().await;
    // Grows both memories in turn until a growth fails, and returns the total size.
    let text =
        "(module (import \"kvasm_v1\" \"output_write\" (func $out (param i32 i32) (result i64)))
        (memory (export \"memory\") 1) (memory $other 1)
        (func (export \"run\") (result i32)
          (loop $more
            (br_if $more (i32.and
              (i32.ne (memory.grow (i32.const 1)) (i32.const -1))
              (i32.ne (memory.grow $other (i32.const 1)) (i32.const -1)))))
          (i32.store (i32.const 0) (i32.add (memory.size) (memory.size $other)))
          (drop (call $out (i32.const 0) (i32.const 4)))
          (i32.const 0)))";
    let output = bench
        .run(wat::parse_str(text).unwrap())
        .await
        .unwrap()
        .output;
    assert_eq!(u32::from_le_bytes(output.try_into().unwrap()), 1024);
    // A guest that does not handle failed growth gets the reason with its trap.
    let body = "(if (i32.eq (memory.grow (i32.const 1024)) (i32.const -1)) (then unreachable)) (i32.const 0)";
    let failure = bench.run(module("", body)).await.unwrap_err();
    assert!(
        failure
            .to_string()
            .contains("more memory than its limit of 67108864"),
        "{failure}"
    );
    assert_alive(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn looping_guests_do_not_block_others_on_their_thread() {
    let bench = Arc::new(short_deadline().await);
    let plugin = bench.load(module("", LOOP)).await;
    let loops: Vec<_> = (0..4)
        .map(|_| {
            let (bench, plugin) = (Arc::clone(&bench), plugin.clone());
            tokio::spawn(async move { bench.host.call(&plugin, Call::function("run")).await })
        })
        .collect();
    // On one thread with four loops, these finish while the loops still run.
    let mut done_before = 0;
    for _ in 0..3 {
        let (bench, before) = (
            Arc::clone(&bench),
            loops.iter().filter(|l| !l.is_finished()).count(),
        );
        tokio::spawn(async move { assert_alive(&bench).await })
            .await
            .unwrap();
        done_before += usize::from(before > 0);
    }
    assert!(done_before > 0);
    for looping in loops {
        looping.await.unwrap().unwrap_err();
    }
}

/// A host over a store that never responds to calls about entries.
async fn on_hanging_store() -> TestHost {
    let (store, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
    faults
        .on_any([
            Operation::Get,
            Operation::GetMany,
            Operation::Has,
            Operation::List,
            Operation::Commit,
        ])
        .hang();
    let limits = Limits {
        wall_time: Duration::from_millis(200),
        ..Limits::default()
    };
    TestHost::with(|builder| builder.shared_store(store).limits(limits)).await
}

#[tokio::test]
async fn unresponsive_store_ends_the_call_at_its_deadline() {
    let bench = on_hanging_store().await;
    for (name, call) in [
        (
            "kv_get",
            "(call $kv_get (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))",
        ),
        (
            "kv_has",
            "(call $kv_has (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))",
        ),
        (
            "kv_delete",
            "(call $kv_delete (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))",
        ),
        (
            "kv_list",
            "(call $kv_list (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0))",
        ),
    ] {
        let body = format!("(drop {call}) (i32.const 0)");
        let failure = bench.run(module("a", &body)).await.unwrap_err();
        assert_eq!(failure.error.blame(), Blame::Host);
        assert!(
            failure.to_string().contains(&format!("waiting for {name}")),
            "{failure}"
        );
    }
    assert_alive(&bench).await;
}

#[tokio::test]
async fn hanging_commit_ends_the_call_at_its_deadline() {
    let bench = on_hanging_store().await;
    let declare = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let body = "(drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)
        (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0))) (i32.const 0)";
    let failure = bench
        .run(module_with("a", &declare, body))
        .await
        .unwrap_err();
    let CallError::Deadline { timeout, .. } = &failure.error else {
        panic!("{failure}");
    };
    assert_eq!(timeout.longest(), Stage::Commit, "{failure}");
    assert_eq!(failure.error.blame(), Blame::Host);
    assert!(failure.to_string().contains("committing"), "{failure}");
    assert_alive(&bench).await;
}

#[tokio::test]
async fn calls_over_the_instance_limit_queue_until_their_deadline() {
    let limits = Limits {
        wall_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let host = Host::builder().instances(1).limits(limits).build().unwrap();
    let app = host
        .create_app(AppName::parse("app").unwrap())
        .await
        .unwrap();
    let bench = TestHost { host, app };
    let (held, waited) = tokio::join!(bench.run(module("", LOOP)), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.run(module("", "(i32.const 0)")).await
    });
    held.unwrap_err();
    // It gets the slot when the first call ends, or reports that none was free.
    if let Err(failure) = waited {
        assert!(
            matches!(&failure.error, CallError::Deadline { timeout, .. }
                if timeout.longest() == Stage::Instance),
            "{failure}"
        );
        assert_eq!(failure.error.blame(), Blame::Host);
    }
    assert_alive(&bench).await;
}

/// Dropping a call part-way leaves the host as it was.
#[tokio::test]
async fn dropped_call_releases_its_instance() {
    let host = Host::builder().instances(1).build().unwrap();
    let app = host
        .create_app(AppName::parse("app").unwrap())
        .await
        .unwrap();
    let bench = TestHost { host, app };
    let plugin = bench.load(module("", LOOP)).await;
    for _ in 0..5 {
        let call = bench.host.call(&plugin, Call::function("run"));
        assert!(
            tokio::time::timeout(Duration::from_millis(30), call)
                .await
                .is_err()
        );
    }
    assert_alive(&bench).await;
}
