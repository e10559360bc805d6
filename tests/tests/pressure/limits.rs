//! Limits that apply to a call as a whole, and limits that are changed under load.

use super::kit::{self, LoadHost};
use kvasm::model::Limits;
use kvasm_tests::guests::module;
use kvasm_tests::server::{Server, eventually};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Takes this much wall time.
fn lasting(ms: u32) -> Vec<u8> {
    let body = format!(
        "(local $start i64) (local.set $start (call $now_ms))
         (loop $more (br_if $more (i64.lt_s
            (i64.sub (call $now_ms) (local.get $start)) (i64.const {ms}))))
         (i32.const 0)"
    );
    module("", &body)
}

async fn limit(server: &Server, app: &str, per_second: Value, at_once: Value) {
    let limits = json!({
        "entries": null, "bytes": null, "calls_per_second": per_second, "calls_at_once": at_once,
    });
    let path = format!("/v1/apps/{app}/limits");
    server.root.json("PUT", &path, limits).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wall_time_covers_queueing_and_execution() {
    // The first has 4 s more than it needs, and the second 3 s less.
    let limits = Limits {
        wall_time: Duration::from_secs(11),
        cpu_time: Duration::from_secs(60),
        ..Limits::default()
    };
    let stage = LoadHost::with(|builder| builder.limits(limits)).await;
    stage.server.deployed("app", lasting(7_000)).await;
    limit(&stage.server, "app", Value::Null, json!(1)).await;
    let api = stage.server.anonymous();
    let (one, other) = tokio::join!(api.call("app", "run", ""), api.call("app", "run", ""));
    // The second waits for 7 s and would need another 7 s.
    let late = if one.status == 200 { other } else { one };
    assert_ne!(late.status, 200);
    let text = late.text();
    assert!(text.contains("11000 ms"), "{text}");
    assert!(text.contains("queued behind other calls"), "{text}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lowered_concurrency_limit_takes_effect_under_load() {
    let _alone = kit::serial().await;
    let stage = LoadHost::new().await;
    stage.server.deployed("app", lasting(50)).await;
    limit(&stage.server, "app", Value::Null, json!(4)).await;
    let end = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let (api, end) = (stage.server.anonymous(), Arc::clone(&end));
            tokio::spawn(async move {
                while !end.load(Ordering::Relaxed) {
                    api.call("app", "run", "").await;
                }
            })
        })
        .collect();
    let instances = || {
        stage
            .host()
            .metrics()
            .encode()
            .contains("kvasm_instances 4\n")
    };
    eventually("four calls run", async || instances()).await;
    limit(&stage.server, "app", Value::Null, json!(1)).await;
    eventually("one call runs", async || {
        stage
            .host()
            .metrics()
            .encode()
            .contains("kvasm_instances 1\n")
    })
    .await;
    for _ in 0..100 {
        let text = stage.host().metrics().encode();
        let now = text
            .lines()
            .find(|line| line.starts_with("kvasm_instances "));
        let now = now.unwrap();
        assert!(now.ends_with(" 0") || now.ends_with(" 1"), "{now}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    end.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lowered_rate_applies_only_to_new_calls() {
    let _alone = kit::serial().await;
    let stage = LoadHost::new().await;
    stage.server.deployed("app", lasting(0)).await;
    limit(&stage.server, "app", json!(1_000), Value::Null).await;
    let api = stage.server.anonymous();
    for _ in 0..50 {
        api.call("app", "run", "").await.expect(200);
    }
    limit(&stage.server, "app", json!(1), Value::Null).await;
    eventually("a call is let in within seconds", async || {
        let answer = api.call("app", "run", "").await;
        if answer.status == 429 {
            assert_eq!(answer.header("retry-after"), "1");
        }
        answer.status == 200
    })
    .await;
    stage.stop().await;
}
