//! Imports that commit nothing: what they cost their app, and what a neighbour feels.

use super::kit::{Neighbour, Stage, alone};
use kvasm_tests::server::{Answer, Api};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

const IMPORT: &str = "/v1/apps/hostile/kv/import";

/// Lines of which no entry comes.
fn hostile(bytes: usize) -> [String; 2] {
    let expired = r#"{"collection":"c","key":"k","json":[1,2,3],"expires_at":1}"#.to_owned() + "\n";
    ["\n".repeat(bytes), expired.repeat(bytes / expired.len())]
}

async fn import(api: &Api, lines: String) -> Answer {
    api.bytes("POST", IMPORT, "application/jsonl", lines).await
}

async fn rate(api: &Api, writes: u32) {
    let limits = json!({ "calls_per_second": writes });
    let answer = api.json("PATCH", "/v1/apps/hostile/limits", limits).await;
    answer.expect(200);
}

/// Whether or not anything is committed, what is read counts against the app's rate.
#[tokio::test]
async fn an_import_that_commits_nothing_costs_its_app() {
    let stage = Stage::new().await;
    stage.server.app("hostile", true).await;
    let api = &stage.server.root;
    rate(api, 0).await;
    for lines in hostile(1_000) {
        import(api, lines).await.refused(429, "rate-limited");
    }
    rate(api, 5).await;
    for line in [
        "\n",
        "{\"collection\":\"c\",\"key\":\"k\",\"json\":1,\"expires_at\":1}\n",
    ] {
        // 21 writes, 5 of them at once.
        let start = Instant::now();
        import(api, line.repeat(10_000)).await.expect(200);
        assert!(
            start.elapsed() >= Duration::from_secs(3),
            "{:?}",
            start.elapsed()
        );
    }
    // A line that does not end counts too, and is refused once it is too long.
    let long = import(api, "x".repeat(9 << 20)).await;
    long.refused(400, "malformed-line");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_is_served_beside_imports_that_commit_nothing() {
    let _alone = alone().await;
    let stage = Stage::new().await;
    stage.server.app("hostile", true).await;
    let neighbour = Arc::new(Neighbour::new(&stage, "neighbour").await);
    let watch = neighbour.watch();
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
    felt.nothing();
    neighbour.delivered(&stage).await;
    stage.stop().await;
}
