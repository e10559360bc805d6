//! Deliveries of apps that cannot be read: the attempts do not count.

use super::stage::{BackgroundHost, counter};
use kvasm::dispatch::DispatchOptions;
use kvasm_tests::server::eventually;
use serde_json::json;
use std::time::Duration;

/// The number of claimed deliveries that were skipped so far.
fn skips(stage: &BackgroundHost) -> u64 {
    let text = stage.server.host.metrics().encode();
    let line = "kvasm_task_skips_total{name=\"deliveries\"} ";
    let mut lines = text.lines();
    let count = lines.find_map(|found| found.strip_prefix(line));
    count.map_or(0, |count| count.parse().unwrap())
}

/// A store that answers claims but fails to read apps, and then recovers. As one attempt is
/// allowed, a single counted attempt would create a dead letter.
async fn a_store_that_flaps_gives_nothing_up(mut stage: BackgroundHost) {
    let app = stage.server.deployed("flapping", counter()).await;
    let trigger = json!({ "collection": "c", "attempts_max": 1 });
    let path = "/v1/apps/flapping/triggers/run";
    stage
        .server
        .root
        .json("PUT", path, trigger)
        .await
        .expect(200);
    for round in 1..=2_u64 {
        // A change of the registry invalidates every cache.
        stage.server.app(&format!("other{round}"), false).await;
        let away = "ALTER TABLE apps RENAME COLUMN public TO away";
        stage.database.sql(away).await;
        stage.set(&app, &format!("key {round}"), None).await;
        if round == 1 {
            stage.start_with(DispatchOptions {
                lease_min: Duration::from_secs(10),
                ..DispatchOptions::default()
            });
        }
        // Each skip is a claim that found no app.
        let before = skips(&stage);
        eventually(
            "it was claimed more often than it may be tried",
            async || skips(&stage) >= before + 3,
        )
        .await;
        let store = stage.server.host.store();
        let outstanding = store.deliveries(app.id, None, 10).await.unwrap();
        assert_eq!(outstanding.len(), 1, "{outstanding:?}");
        assert!(outstanding[0].attempts <= 1, "{outstanding:?}");
        let back = "ALTER TABLE apps RENAME COLUMN away TO public";
        stage.database.sql(back).await;
        stage.wait_for_count(&app, &round.to_string()).await;
        let all = kvasm::model::DeadLetterFilter::default();
        let dead = store.dead_letters(app.id, &all, None, 10).await.unwrap();
        assert!(dead.is_empty(), "{dead:?}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flapping_store_dead_letters_nothing_on_sqlite() {
    a_store_that_flaps_gives_nothing_up(BackgroundHost::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flapping_store_dead_letters_nothing_on_postgres() {
    let stage = BackgroundHost::postgres(Duration::from_secs(60)).await;
    a_store_that_flaps_gives_nothing_up(stage).await;
}
