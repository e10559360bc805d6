//! Guests that use much CPU time, and the effect on other apps.

use super::kit::{self, LoadHost, Neighbour};
use kvasm::HostBuilder;
use kvasm::model::{App, Limits};
use kvasm_tests::guests::{manifest, module, module_with};
use kvasm_tests::server::{Server, eventually};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Uses about 0.1 s of CPU time.
const COMPUTE: &str = "(local $n i32) (local.set $n (i32.const 150000000))
    (loop $more (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))";

/// Calls a function from this many clients, this often each. Returns the statuses.
async fn calls(server: &Server, app: &str, clients: usize, each: usize) -> Vec<u16> {
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (api, app) = (server.anonymous(), app.to_owned());
            tokio::spawn(async move {
                let mut statuses = Vec::new();
                for _ in 0..each {
                    statuses.push(api.call(&app, "run", "").await.status);
                }
                statuses
            })
        })
        .collect();
    let mut statuses = Vec::new();
    for client in clients {
        statuses.extend(client.await.unwrap());
    }
    statuses
}

async fn limit(server: &Server, app: &App, calls_at_once: u32) {
    let limits = json!({
        "entries": null, "bytes": null, "calls_per_second": null, "calls_at_once": calls_at_once,
    });
    let path = format!("/v1/apps/{}/limits", app.name);
    server.root.json("PUT", &path, limits).await.expect(200);
}

/// Calls an app of this module from this many clients, this often each, next to a neighbour
/// that must not be affected. Returns the statuses of the calls.
async fn call_under_load(instances: u32, loud: Vec<u8>, clients: usize, each: usize) -> Vec<u16> {
    // The CPU limit ends each call soon enough for those behind it.
    let limits = Limits {
        cpu_time: Duration::from_millis(250),
        ..kit::long_timeouts()
    };
    let set_up = |builder: HostBuilder| builder.instances(instances).limits(limits);
    let stage = LoadHost::with(set_up).await;
    let neighbour = Arc::new(Neighbour::new(&stage, "neighbour").await);
    let app = stage.server.deployed("loud", loud).await;
    limit(&stage.server, &app, 32).await;
    let watch = neighbour.spawn();
    let statuses = calls(&stage.server, "loud", clients, each).await;
    watch.end().await.assert_unaffected();
    neighbour.assert_all_delivered(&stage).await;
    stage.stop().await;
    assert!(!statuses.contains(&200), "{statuses:?}");
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_calls_do_not_starve_a_neighbour() {
    let _alone = kit::serial().await;
    call_under_load(100, module("", "(loop (br 0)) unreachable"), 40, 1).await;
}

/// Short calls have a CPU to themselves. These run for as long as they may share a CPU with 32
/// others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_handlers_share_cpu_permits_equally() {
    let _alone = kit::serial().await;
    // Long enough that even on a busy machine no call hits this limit before its CPU limit.
    let limits = Limits {
        wall_time: Duration::from_secs(60),
        ..Limits::default()
    };
    let stage = LoadHost::with(|builder| builder.instances(100).limits(limits)).await;
    let endless = module("", "(loop (br 0)) unreachable");
    let app = stage.server.deployed("endless", endless).await;
    limit(&stage.server, &app, 32).await;
    let sections = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"on_change","name":"hear","collection":"c"}"#,
    ]);
    let compute = format!("{COMPUTE} {} (i32.const 0)", again());
    let fields = format!(r#"{sections} (func (export "hear") (result i32) {compute})"#);
    let fair = stage
        .server
        .deployed("fair", module_with("", &fields, &compute))
        .await;
    // 32 calls of a second each, repeatedly.
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        let api = stage.server.anonymous();
        clients.spawn(async move {
            loop {
                api.call("endless", "run", "").await;
            }
        });
    }
    let running = || {
        stage
            .host()
            .metrics()
            .encode()
            .contains("kvasm_instances 32\n")
    };
    eventually("32 calls run", async || running()).await;
    let sets: Vec<_> = (0..3)
        .map(|n| json!({"set": {"collection": "c", "key": format!("k{n}"), "json": n}}))
        .collect();
    let commit = json!({ "operations": sets });
    let path = "/v1/apps/fair/kv/commit";
    stage
        .server
        .root
        .json("POST", path, commit)
        .await
        .expect(200);
    assert_eq!(calls(&stage.server, "fair", 1, 3).await, [200; 3]);
    stage.wait_until_idle(&fair).await;
    // The server ends the calls of disconnected clients.
    clients.shutdown().await;
    assert_eq!(stage.dead_letter_errors(&fair).await, Vec::<String>::new());
    assert_eq!(stage.paused(&fair).await, Vec::<String>::new());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_load_is_not_counted_as_guest_cpu_time() {
    let _alone = kit::serial().await;
    let limits = Limits {
        wall_time: Duration::from_secs(60),
        ..Limits::default()
    };
    let stage = LoadHost::with(|builder| builder.limits(limits)).await;
    let wasm = module("", &format!("{COMPUTE} {} (i32.const 0)", again()));
    stage.server.deployed("app", wasm).await;
    let end = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..16)
        .map(|_| {
            let end = Arc::clone(&end);
            std::thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let statuses = calls(&stage.server, "app", 1, 3).await;
    end.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().unwrap();
    }
    assert_eq!(statuses, [200; 3]);
    stage.stop().await;
}

/// The loop of [`COMPUTE`] once more, for the same local.
fn again() -> String {
    COMPUTE.replace("(local $n i32)", "")
}

/// An app whose handler of changes in `c` uses CPU time.
async fn deploy_handler(stage: &LoadHost) -> App {
    let sections = manifest(&[r#"{"kind":"on_change","name":"hear","collection":"c"}"#]);
    let fields = format!(
        r#"{sections} (func (export "hear") (result i32) {COMPUTE}
          (i64.gt_s (i64.const 0) (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1)
            (i32.const 1) (i64.const 1) (i32.const 2000))))"#
    );
    let wasm = module_with("dn", &fields, "(i32.const 0)");
    stage.server.deployed("app", wasm).await
}

/// Creates 16 deliveries of that app in one commit.
async fn change_16_keys(stage: &LoadHost) {
    let sets: Vec<_> = (0..16)
        .map(|n| json!({"set": {"collection": "c", "key": format!("k{n}"), "json": n}}))
        .collect();
    let commit = json!({ "operations": sets });
    let root = &stage.server.root;
    let answer = root.json("POST", "/v1/apps/app/kv/commit", commit).await;
    answer.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_a_cpu_is_not_the_handlers_fault() {
    let _alone = kit::serial().await;
    // Like 16 handlers of 0.55 s within 5 s: more than one CPU can do in time.
    let limits = Limits {
        wall_time: Duration::from_millis(800),
        ..Limits::default()
    };
    let stage = LoadHost::with(|builder| builder.instances(100).limits(limits)).await;
    let app = deploy_handler(&stage).await;
    change_16_keys(&stage).await;
    // On a busy machine they fail repeatedly. A handler at fault would be dead-lettered after
    // three attempts.
    eventually("each is done or was tried four times", async || {
        let left = stage.host().store().deliveries(app.id, None, 100).await;
        left.unwrap().iter().all(|delivery| delivery.attempts >= 4)
    })
    .await;
    assert_eq!(stage.dead_letter_errors(&app).await, Vec::<String>::new());
    assert_eq!(stage.paused(&app).await, Vec::<String>::new());
    stage.stop().await;
}

/// Other processes that use all available CPU time, until this is dropped.
struct BusyMachine(Vec<std::process::Child>);

impl BusyMachine {
    fn of(loops: usize) -> BusyMachine {
        // They exit on their own if the test is killed.
        let start = || {
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", "while kill -0 $PPID; do :; done"]);
            shell.stderr(std::process::Stdio::null());
            shell.spawn().unwrap()
        };
        BusyMachine((0..loops).map(|_| start()).collect())
    }
}

impl Drop for BusyMachine {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Each of the 16 handlers uses about 0.1 s, of which the machine grants all of them together a
/// second or less within one handler's time limit. They do not time out by waiting for each
/// other, and the oldest completes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_handler_progresses_on_a_starved_machine() {
    const ENOUGH: Duration = Duration::from_secs(180);
    let _alone = kit::serial().await;
    let stage = LoadHost::new().await;
    let app = deploy_handler(&stage).await;
    let _busy = BusyMachine::of(8);
    change_16_keys(&stage).await;
    let start = Instant::now();
    loop {
        let left = stage.host().store().deliveries(app.id, None, 100).await;
        let left = left.unwrap();
        // Each attempt has almost a minute. Needing few attempts shows that other handlers run
        // in between.
        assert!(left.iter().all(|one| one.attempts <= 3), "{left:?}");
        if left.is_empty() {
            break;
        }
        assert!(start.elapsed() < ENOUGH, "{left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stage.dead_letter_errors(&app).await, Vec::<String>::new());
    assert_eq!(stage.paused(&app).await, Vec::<String>::new());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugin_with_many_memories_does_not_exhaust_slots() {
    let _alone = kit::serial().await;
    let memories = "(memory 1)".repeat(7);
    let greedy = module_with("", &memories, "(loop (br 0)) unreachable");
    call_under_load(64, greedy, 32, 1).await;
}

/// Copying 8 MiB takes 10 ms of CPU time in one host function, without a tick.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_copies_share_cpu_permits() {
    let _alone = kit::serial().await;
    let fails = "(drop (memory.grow (i32.const 127)))
        (drop (call $output_write (i32.const 0) (i32.const 8388608)))
        (i32.const 1)";
    let statuses = call_under_load(100, module("", fails), 48, 8).await;
    assert!(statuses.contains(&500), "{statuses:?}");
}
