//! Deleted apps whose rows cannot be removed, and other tombstones behind them.

use super::stage::{BackgroundHost, Database};
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{App, Timestamp};
use kvasm_tests::server::eventually;
use std::time::Duration;

fn often() -> DispatchOptions {
    DispatchOptions {
        upkeep: Duration::from_millis(20),
        ..DispatchOptions::default()
    }
}

/// Creates apps with one entry each and deletes them. Returns them in the order of their
/// tombstones.
async fn create_tombstones(stage: &BackgroundHost, count: usize) -> Vec<App> {
    let mut apps = Vec::new();
    for n in 0..count {
        let app = stage.server.app(&format!("app-{n}"), false).await;
        stage.set(&app, "k", None).await;
        let operator = stage.server.host.operator("test");
        stage.server.host.delete_app(&operator, &app).await.unwrap();
        apps.push(app);
    }
    apps.sort_by_key(|app| app.id);
    apps
}

async fn left(stage: &BackgroundHost) -> String {
    let graves = "SELECT count(*) FROM apps WHERE deleted_at IS NOT NULL";
    stage.database.sql(graves).await
}

/// Makes removal of some apps' entries fail.
async fn fail_removal(stage: &BackgroundHost, apps: &[App]) {
    let apps: Vec<_> = apps.iter().map(|app| stage.database.literal(app)).collect();
    let apps = apps.join(", ");
    let trigger = format!(
        "CREATE TRIGGER refuse BEFORE DELETE ON kv_entries WHEN OLD.app_id IN ({apps})
         BEGIN SELECT RAISE(ABORT, 'refused'); END"
    );
    stage.database.sql(&trigger).await;
}

/// The first of three tombstones fails: because of rows that cannot be removed on SQLite, and
/// of a lock on Postgres.
async fn one_bad_grave(mut stage: BackgroundHost) {
    let apps = create_tombstones(&stage, 3).await;
    let hold = match &stage.database {
        Database::Sqlite(_) => {
            fail_removal(&stage, &apps[..1]).await;
            None
        }
        Database::Postgres(_) => {
            let first = stage.database.literal(&apps[0]);
            let lock = format!("SELECT id FROM apps WHERE id = {first} FOR UPDATE");
            Some(stage.database.hold(&lock).await)
        }
    };
    stage.start_with(often());
    eventually("the others are removed", async || left(&stage).await == "1").await;
    eventually("the bad one is counted", async || {
        stage.has_metric("kvasm_task_skips_total{name=\"reaper\"}")
    })
    .await;
    let ready = stage.server.host.health().check().await;
    assert!(ready.is_ready(), "one tombstone fails: {ready:?}");
    match hold {
        Some(hold) => drop(hold),
        None => drop(stage.database.sql("DROP TRIGGER refuse").await),
    }
    eventually("it is removed in its turn", async || {
        left(&stage).await == "0"
    })
    .await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failing_tombstone_does_not_block_the_others() {
    one_bad_grave(BackgroundHost::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failing_tombstone_does_not_block_on_postgres() {
    one_bad_grave(BackgroundHost::postgres(Duration::from_secs(3)).await).await;
}

/// Enough failing tombstones to look like a store failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_failing_tombstones_are_reported_without_blocking() {
    let mut stage = BackgroundHost::sqlite().await;
    let apps = create_tombstones(&stage, 13).await;
    fail_removal(&stage, &apps[..12]).await;
    stage.start_with(often());
    eventually("the one behind them is removed", async || {
        left(&stage).await == "12"
    })
    .await;
    eventually("the task has failed", async || {
        stage.has_metric("kvasm_task_restarts_total{name=\"reaper\"}")
    })
    .await;
    stage.stop().await;
}

/// A step of the reaper that takes minutes because it waits for a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_tombstone_removal_does_not_delay_the_sweep() {
    let mut stage = BackgroundHost::postgres(Duration::from_secs(600)).await;
    let apps = create_tombstones(&stage, 1).await;
    let live = stage.server.app("live", false).await;
    let grave = stage.database.literal(&apps[0]);
    let lock = format!("SELECT id FROM apps WHERE id = {grave} FOR UPDATE");
    let hold = stage.database.hold(&lock).await;
    stage.start_with(often());
    eventually("the reaper waits for the lock", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        stage.database.sql(waits).await == "1"
    })
    .await;
    stage.set(&live, "k", Some(Timestamp(1))).await;
    eventually("the expired entry is swept", async || {
        let used = stage.server.host.store().usage(live.id).await;
        used.unwrap().entries == 0
    })
    .await;
    assert_eq!(left(&stage).await, "1");
    drop(hold);
    stage.stop().await;
}
