//! Handlers that fail in every way: none of their writes stay, and their deliveries end up
//! where an operator finds them.

use super::event_host::{EventHost, manifest, until};
use kvasm::Host;
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{DeadReason, DeliveryState, Limits, Pause, Timestamp};
use kvasm::service::LogSource;
use kvasm::store::MemoryStore;
use kvasm_tests::guests::module_with;
use std::sync::Arc;
use std::time::Duration;

const WATCH: &str = r#"{"kind":"on_change","name":"run","collection":"c"}"#;
/// Writes 1 under "k" of the collection "d".
const WRITE: &str = "(drop (call $kv_set (i32.const 1) (i32.const 1) (i32.const 2) (i32.const 1)
    (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 0)))";
/// "c", "d", "k" and "1".
const DATA: &str = "cdk1";

fn handler(body: &str) -> Vec<u8> {
    module_with(DATA, &manifest(&[WATCH]), body)
}

/// Deploys a handler that writes and then runs `body`, and changes an entry that it watches.
async fn changed(body: &str) -> EventHost {
    // On a busy machine, a second of CPU time takes long.
    let builder = Host::builder().limits(Limits {
        wall_time: Duration::from_secs(60),
        ..Limits::default()
    });
    let mut stage =
        EventHost::with_builder(builder, Arc::new(MemoryStore::new()), Box::new(())).await;
    stage.start();
    stage.deploy(handler(&format!("{WRITE} {body}"))).await;
    stage.set("c", "k", "7").await;
    stage
}

async fn dead_letter_of(body: &str) -> (DeadReason, u32, String) {
    let stage = changed(body).await;
    until("the delivery is dead", async || {
        !stage.dead_letters().await.is_empty()
    })
    .await;
    assert_eq!(
        stage.get("d", "k").await,
        None,
        "a failed handler has written"
    );
    assert!(stage.outstanding().await.is_empty());
    let [letter] = stage.dead_letters().await.try_into().unwrap();
    (letter.reason, letter.attempts, letter.error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn successful_handler_commits_and_is_acknowledged() {
    let stage = changed("(i32.const 0)").await;
    stage.wait_until_idle().await;
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("1"));
    assert!(stage.dead_letters().await.is_empty());
}

/// A handler that succeeds and one that traps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cost_of_a_delivery_is_in_the_log() {
    let log = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 4)))";
    for end in ["(i32.const 0)", "unreachable"] {
        let stage = changed(&format!("{log} {end}")).await;
        let app = stage.app().await;
        let costs = || {
            let lines = stage.host.logs().read(app.id, 0, usize::MAX).into_iter();
            lines.filter_map(|line| line.cost).collect::<Vec<_>>()
        };
        until("the handler has run", async || !costs().is_empty()).await;
        let cost = &costs()[0];
        let written = (cost.entries_written, cost.bytes_written);
        assert_eq!(
            (cost.runs, written, cost.host_calls),
            (1, (1, 1), 2),
            "{end}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trapping_handler_is_tried_three_times() {
    let (reason, attempts, error) = dead_letter_of("unreachable").await;
    assert_eq!((reason, attempts), (DeadReason::Deterministic, 3));
    assert!(error.contains("unreachable"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looping_handler_hits_the_cpu_limit() {
    let (reason, attempts, error) = dead_letter_of("(loop (br 0)) unreachable").await;
    assert_eq!((reason, attempts), (DeadReason::Deterministic, 3));
    assert!(error.contains("CPU limit exceeded"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_over_the_memory_limit_is_reported() {
    let grow = "(if (i32.eq (memory.grow (i32.const 60000)) (i32.const -1)) (then unreachable)) (i32.const 0)";
    let (reason, attempts, error) = dead_letter_of(grow).await;
    assert_eq!((reason, attempts), (DeadReason::Deterministic, 3));
    assert!(error.contains("more memory than its limit"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permanent_error_dead_letters_at_once() {
    let say = "(drop (call $output_write (i32.const 0) (i32.const 4))) (i32.const 2)";
    let (reason, attempts, error) = dead_letter_of(say).await;
    assert_eq!((reason, attempts), (DeadReason::Deterministic, 1));
    assert!(error.contains("cdk1"), "the handler's message: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transient_error_is_retried_later() {
    let stage =
        changed("(drop (call $output_write (i32.const 2) (i32.const 1))) (i32.const 1)").await;
    until("the delivery was tried and nacked", async || {
        stage
            .outstanding()
            .await
            .iter()
            .any(|d| d.error.is_some() && !d.leased)
    })
    .await;
    let [delivery] = stage.outstanding().await.try_into().unwrap();
    assert!(delivery.error.unwrap().contains("failed with code 1: k"));
    assert_eq!(stage.get("d", "k").await, None);
    assert!(stage.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn self_triggering_handler_stops_at_depth_8() {
    let stage = EventHost::new().await;
    let again = "(i32.wrap_i64 (i64.shr_s (call $kv_set (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 1)
        (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 0)) (i64.const 63)))";
    stage.deploy(handler(again)).await;
    stage.set("c", "k", "7").await;
    until("the loop has ended", async || {
        !stage.dead_letters().await.is_empty()
    })
    .await;
    stage.wait_until_idle().await;
    let [letter] = stage.dead_letters().await.try_into().unwrap();
    assert_eq!((letter.reason, letter.event.depth), (DeadReason::Depth, 9));
    assert!(
        letter.error.contains("depth 9, limit 8"),
        "{}",
        letter.error
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_to_a_removed_handler_is_dead_lettered() {
    let mut stage = EventHost::new().await;
    stage.stop().await;
    stage.deploy(handler("(i32.const 0)")).await;
    stage.set("c", "k", "7").await;
    let other = manifest(&[r#"{"kind":"function","name":"run"}"#]);
    let other = other.replace("run", "other");
    let wasm = module_with(
        DATA,
        &format!("{other} (func (export \"other\") (result i32) (i32.const 0))"),
        "(i32.const 0)",
    );
    stage.deploy(wasm).await;
    assert!(
        stage.triggers().await.is_empty(),
        "the trigger was removed with its version"
    );
    assert_eq!(
        stage.outstanding().await.len(),
        1,
        "the delivery was not removed"
    );
    stage.start();
    until("the delivery is dead", async || {
        !stage.dead_letters().await.is_empty()
    })
    .await;
    let [letter] = stage.dead_letters().await.try_into().unwrap();
    assert_eq!(letter.reason, DeadReason::Deterministic);
    assert!(
        letter.error.contains("no handler \"run\""),
        "{}",
        letter.error
    );
    // Go back to the version that has the handler.
    stage
        .deploy(handler(&format!("{WRITE} (i32.const 0)")))
        .await;
    stage.replay().await;
    stage.wait_until_idle().await;
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("1"));
}

/// A broken version is paused automatically, and loses no events meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_version_is_paused_until_the_next_deploy() {
    let stage = EventHost::new().await;
    stage.deploy(handler("unreachable")).await;
    for n in 0..20 {
        stage.set("c", &n.to_string(), "1").await;
    }
    until("the trigger is paused", async || {
        stage.triggers().await[0].standing.paused.is_some()
    })
    .await;
    assert_eq!(
        stage.triggers().await[0].standing.paused,
        Some(Pause::Failures)
    );
    // Deliveries that were already claimed may fail too; nothing more is claimed.
    until("no handler runs", async || {
        stage.outstanding().await.iter().all(|d| !d.leased)
    })
    .await;
    assert!(
        stage.dead_letters().await.is_empty(),
        "each was tried once or twice"
    );
    assert_eq!(stage.outstanding().await.len(), 20);
    stage
        .deploy(handler(&format!("{WRITE} (i32.const 0)")))
        .await;
    stage.wait_until_idle().await;
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("1"));
}

/// Ten consecutive failing events pause the trigger. It resumes automatically once the handler
/// works again, and all of this is logged and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_trigger_resumes_after_a_successful_probe() {
    let mut stage = EventHost::over(Arc::new(MemoryStore::new()), Box::new(())).await;
    // Traps until the entry "k" of "d" exists.
    let fails_without =
        "(if (i64.eqz (call $kv_has (i32.const 1) (i32.const 1) (i32.const 2) (i32.const 1)))
        (then unreachable)) (i32.const 0)";
    stage.deploy(handler(fails_without)).await;
    for n in 0..30 {
        stage.set("c", &n.to_string(), "1").await;
    }
    stage.start_with(DispatchOptions {
        probe_after: Duration::from_millis(20),
        ..DispatchOptions::default()
    });
    let said = async |words: &str| {
        let app = stage.app().await;
        let lines = stage.host.logs().read(app.id, 0, usize::MAX);
        let of_host = lines.iter().filter(|line| line.source == LogSource::Host);
        of_host.filter(|line| line.message.contains(words)).count()
    };
    until("the trigger is paused", async || {
        said("is paused").await > 0
    })
    .await;
    until("a probe has failed", async || {
        said("stays paused").await > 0
    })
    .await;
    assert!(!stage.outstanding().await.is_empty());
    stage.set("d", "k", "1").await;
    until("it resumes", async || said("has resumed").await > 0).await;
    stage.wait_until_idle().await;
    let standing = stage.triggers().await[0].standing;
    assert_eq!((standing.paused, standing.failures), (None, 0));
    let metrics = stage.host.metrics().encode();
    for outcome in ["paused", "probe_failed", "resumed"] {
        let line = format!("kvasm_triggers_total{{app=\"app\",outcome=\"{outcome}\"}}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

/// A delivery interrupted by the host is due at once, and the attempt does not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_interrupted_by_shutdown_does_not_count_as_an_attempt() {
    let mut stage = EventHost::with_long_timeouts().await;
    stage.deploy(handler("(loop (br 0)) unreachable")).await;
    for n in 0..3 {
        stage.set("c", &n.to_string(), "1").await;
    }
    stage.start_with(DispatchOptions {
        drain: Duration::ZERO,
        ..DispatchOptions::default()
    });
    until("the handlers run", async || {
        stage.outstanding().await.iter().all(|d| d.leased)
    })
    .await;
    stage.stop().await;
    let left = stage.outstanding().await;
    assert_eq!(left.len(), 3);
    for delivery in left {
        assert_eq!(delivery.state(), DeliveryState::Pending, "{delivery:?}");
        assert_eq!((delivery.attempts, delivery.error), (0, None));
        assert!(delivery.due_at.unwrap() <= Timestamp::now());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_input_is_framed_and_its_context_describes_the_event() {
    let stage = EventHost::new().await;
    // Copies its input and its context into entries.
    let body = "
        (local $n i32)
        (local.set $n (i32.wrap_i64 (call $input_read (i32.const 0) (i32.const 1024) (i32.const 4096))))
        (drop (call $kv_set (i32.const 1) (i32.const 1) (i32.const 2) (i32.const 1)
            (i32.const 1024) (local.get $n) (i32.const 1) (i32.const 0)))
        (local.set $n (i32.wrap_i64 (call $context (i32.const 1024) (i32.const 4096))))
        (drop (call $kv_set (i32.const 1) (i32.const 1) (i32.const 3) (i32.const 1)
            (i32.const 1024) (local.get $n) (i32.const 0) (i32.const 0)))
        (i32.const 0)";
    stage.deploy(handler(body)).await;
    stage.set("c", "key", "{\"a\":1}").await;
    stage.wait_until_idle().await;
    let frame = stage.get_bytes("d", "k").await.unwrap();
    let (head, value) = kvasm_abi::http::split(&frame).unwrap();
    assert_eq!(value, b"{\"a\":1}");
    let head: serde_json::Value = serde_json::from_slice(head).unwrap();
    for (member, expected) in [
        ("kind", serde_json::json!("set")),
        ("trigger", serde_json::json!("run")),
        ("attempt", serde_json::json!(1)),
        ("depth", serde_json::json!(1)),
        ("collection", serde_json::json!("c")),
        ("key", serde_json::json!("key")),
        ("format", serde_json::json!(0)),
    ] {
        assert_eq!(head[member], expected, "{member} of {head}");
    }
    let context: serde_json::Value =
        serde_json::from_str(&stage.get("d", "1").await.unwrap()).unwrap();
    assert_eq!(context["caller"], "trigger");
    assert_eq!(context["transaction"], true);
    assert_eq!(context["trigger"]["name"], "run");
    assert_eq!(context["trigger"]["event_id"], head["event_id"]);
}

/// Only a delivery can call a handler.
#[tokio::test]
async fn handler_cannot_be_called_as_a_function() {
    let stage = EventHost::new().await;
    stage.deploy(handler("(i32.const 0)")).await;
    let refused = stage.try_call("run", "").await.unwrap_err();
    assert!(
        refused.to_string().contains("no function \"run\""),
        "{refused}"
    );
}
