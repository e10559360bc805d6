//! Imports that commit nothing: their cost for the app, and the effect on a neighbour.

use super::kit::{LoadHost, Neighbour, serial};
use kvasm_tests::server::{ApiClient, ApiResponse};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

const IMPORT: &str = "/v1/apps/hostile/kv/import";

/// Lines that result in no entry.
fn hostile(bytes: usize) -> [String; 2] {
    let expired = r#"{"collection":"c","key":"k","json":[1,2,3],"expires_at":1}"#.to_owned() + "\n";
    ["\n".repeat(bytes), expired.repeat(bytes / expired.len())]
}

async fn import(api: &ApiClient, lines: String) -> ApiResponse {
    api.bytes("POST", IMPORT, "application/jsonl", lines).await
}

async fn rate(api: &ApiClient, writes: u32) {
    let limits = json!({ "calls_per_second": writes });
    let answer = api.json("PATCH", "/v1/apps/hostile/limits", limits).await;
    answer.expect(200);
}

/// The lines read count against the app's rate, whether or not anything is committed.
#[tokio::test]
async fn import_without_commits_counts_against_the_app_rate() {
    let stage = LoadHost::new().await;
    stage.server.app("hostile", true).await;
    let api = &stage.server.root;
    rate(api, 0).await;
    for lines in hostile(1_000) {
        import(api, lines).await.expect_problem(429, "rate-limited");
    }
    rate(api, 5).await;
    for line in [
        "\n",
        "{\"collection\":\"c\",\"key\":\"k\",\"json\":1,\"expires_at\":1}\n",
    ] {
        // 21 writes, with a burst of 5.
        let start = Instant::now();
        import(api, line.repeat(10_000)).await.expect(200);
        assert!(
            start.elapsed() >= Duration::from_secs(3),
            "{:?}",
            start.elapsed()
        );
    }
    // An unterminated line counts too, and is rejected once it is too long.
    let long = import(api, "x".repeat(9 << 20)).await;
    long.expect_problem(400, "malformed-line");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_without_commits_do_not_starve_a_neighbour() {
    let _alone = serial().await;
    let stage = LoadHost::new().await;
    stage.server.app("hostile", true).await;
    let neighbour = Arc::new(Neighbour::new(&stage, "neighbour").await);
    let watch = neighbour.spawn();
    let imports = (0..8).map(|at| {
        let api = stage.server.root.clone();
        let lines = hostile(16 << 20)[at % 2].clone();
        tokio::spawn(async move { import(&api, lines).await.expect(200) })
    });
    for import in imports.collect::<Vec<_>>() {
        assert_eq!(import.await.unwrap().json()["imported"], 0);
    }
    let felt = watch.end().await;
    println!("{} rounds, p99 {:?}", felt.calls.len(), felt.p99());
    felt.assert_unaffected();
    neighbour.assert_all_delivered(&stage).await;
    stage.stop().await;
}
