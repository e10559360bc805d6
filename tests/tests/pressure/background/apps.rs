//! A failing app, and other apps behind it.

use super::stage::{BackgroundHost, Database, counter, ticker};
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{App, Timestamp};
use kvasm_store_testing::faulty::{Operation, failed};
use kvasm_tests::server::eventually;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the schedules of an app long overdue.
async fn make_due(stage: &BackgroundHost, app: &App) {
    let app = stage.database.literal(app);
    let due = format!("UPDATE triggers SET next_at = 1 WHERE app_id = {app}");
    stage.database.sql(&due).await;
}

/// An app that is locked as by its deletion, with a due schedule that sorts first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_app_does_not_block_other_deliveries_on_postgres() {
    let mut stage = BackgroundHost::postgres(PATIENCE).await;
    let locked = stage.server.deployed("locked", ticker()).await;
    let quiet = stage.server.deployed("quiet", counter()).await;
    let regular = stage.server.deployed("regular", ticker()).await;
    make_due(&stage, &locked).await;
    make_due(&stage, &regular).await;
    let id = stage.database.literal(&locked);
    let lock = format!("SELECT id FROM apps WHERE id = {id} FOR UPDATE");
    let hold = stage.database.hold(&lock).await;
    stage.start();
    for n in 1..=3 {
        stage.set(&quiet, &n.to_string(), None).await;
        stage.wait_for_count(&quiet, &n.to_string()).await;
    }
    stage.wait_for_count(&regular, "1").await;
    let planned = format!("SELECT next_at FROM triggers WHERE app_id = {id}");
    assert_eq!(
        stage.database.sql(&planned).await,
        "1",
        "it is still locked"
    );
    eventually("it was skipped", async || {
        stage.has_metric("kvasm_task_skips_total{name=\"schedules\"}")
    })
    .await;
    let ready = stage.server.host.health().check().await;
    assert!(
        ready.is_ready(),
        "one app's lock does not affect the host: {ready:?}"
    );
    drop(hold);
    stage.wait_for_count(&locked, "1").await;
    stage.stop().await;
}

async fn an_unreadable_schedule(mut stage: BackgroundHost) {
    let bad = stage.server.deployed("bad", ticker()).await;
    let quiet = stage.server.deployed("quiet", counter()).await;
    let regular = stage.server.deployed("regular", ticker()).await;
    // As a version with another syntax would write it; sorts first.
    let app = stage.database.literal(&bad);
    let other =
        format!("UPDATE triggers SET schedule = 'at dawn', next_at = 0 WHERE app_id = {app}");
    stage.database.sql(&other).await;
    make_due(&stage, &regular).await;
    stage.start();
    stage.set(&quiet, "1", None).await;
    stage.wait_for_count(&quiet, "1").await;
    stage.wait_for_count(&regular, "1").await;
    eventually("it was skipped", async || {
        stage.has_metric("kvasm_task_skips_total{name=\"schedules\"}")
    })
    .await;
    let ready = stage.server.host.health().check().await;
    assert!(ready.is_ready(), "{ready:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_schedule_blocks_nothing() {
    an_unreadable_schedule(BackgroundHost::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_schedule_blocks_nothing_on_postgres() {
    an_unreadable_schedule(BackgroundHost::postgres(PATIENCE).await).await;
}

/// More unreadable schedules than one query of the schedules returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_unreadable_schedules_do_not_starve_others() {
    let mut stage = BackgroundHost::sqlite().await;
    let bad = stage.server.app("bad", false).await;
    let regular = stage.server.deployed("regular", ticker()).await;
    schedules(&stage, &[bad], 250, "at dawn").await;
    make_due(&stage, &regular).await;
    stage.start();
    stage.wait_for_count(&regular, "1").await;
    stage.stop().await;
}

/// Gives each app this many schedules that are not planned yet.
async fn schedules(stage: &BackgroundHost, apps: &[App], of_each: usize, expression: &str) {
    for app in apps {
        let app = stage.database.literal(app);
        let insert = format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {of_each})
             INSERT INTO triggers (app_id, name, origin, function, schedule, attempts_max,
                                   age_max_ms, created_at)
             SELECT {app}, 't' || n, 'operator', 'run', '{expression}', 1, 1000, 0 FROM n"
        );
        stage.database.sql(&insert).await;
    }
}

/// Planning 10,000 schedules takes 10,000 writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_due_schedules_do_not_delay_claims() {
    let mut stage = BackgroundHost::sqlite().await;
    let quiet = stage.server.deployed("quiet", counter()).await;
    let mut busy = Vec::new();
    for n in 0..100 {
        busy.push(stage.server.app(&format!("busy-{n}"), false).await);
    }
    schedules(&stage, &busy, 100, "0 0 1 1 *").await;
    let unplanned = "SELECT count(*) FROM triggers WHERE schedule IS NOT NULL AND next_at IS NULL";
    assert_eq!(stage.database.sql(unplanned).await, "10000");
    stage.set(&quiet, "1", None).await;
    stage.start();
    stage.wait_for_count(&quiet, "1").await;
    let left: u32 = stage.database.sql(unplanned).await.parse().unwrap();
    assert!(left > 0, "all schedules came before the claim");
    eventually("all are planned", async || {
        stage.database.sql(unplanned).await == "0"
    })
    .await;
    stage.stop().await;
}

/// An app whose expired entries cannot be removed, and whose name sorts first.
async fn upkeep_behind_a_bad_app(mut stage: BackgroundHost) {
    let bad = stage.server.app("a-bad", false).await;
    let good = stage.server.app("b-good", false).await;
    for app in [&bad, &good] {
        stage.set(app, "k", Some(Timestamp(1))).await;
    }
    let id = stage.database.literal(&bad);
    let hold = match &stage.database {
        Database::Sqlite(_) => {
            let refuse = format!(
                "CREATE TRIGGER refuse BEFORE DELETE ON kv_entries WHEN OLD.app_id = {id}
                 BEGIN SELECT RAISE(ABORT, 'refused'); END"
            );
            stage.database.sql(&refuse).await;
            None
        }
        Database::Postgres(_) => {
            let lock = format!("SELECT 1 FROM app_usage WHERE app_id = {id} FOR UPDATE");
            Some(stage.database.hold(&lock).await)
        }
    };
    stage.start_with(DispatchOptions {
        upkeep: Duration::from_millis(20),
        ..DispatchOptions::default()
    });
    let entries = async |app: &App| {
        stage
            .server
            .host
            .store()
            .usage(app.id)
            .await
            .unwrap()
            .entries
    };
    eventually("the app behind it is swept", async || {
        entries(&good).await == 0
    })
    .await;
    eventually("the bad one is counted", async || {
        stage.has_metric("kvasm_task_skips_total{name=\"upkeep\"}")
    })
    .await;
    assert_eq!(entries(&bad).await, 1);
    drop(hold);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failing_app_does_not_abort_the_upkeep_round() {
    upkeep_behind_a_bad_app(BackgroundHost::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failing_app_does_not_abort_upkeep_on_postgres() {
    upkeep_behind_a_bad_app(BackgroundHost::postgres(Duration::from_secs(3)).await).await;
}

/// Enough failing apps at the head of the queues to look like a store failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_failing_apps_do_not_block_other_claims() {
    let mut stage = BackgroundHost::sqlite().await;
    let mut apps = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        apps.push(stage.server.deployed(name, counter()).await);
    }
    apps.sort_by_key(|app| app.id);
    let last = apps.pop().unwrap();
    for app in &apps {
        stage.faults.on(Operation::Claim).of(app.id).fail(failed);
    }
    for app in apps.iter().chain([&last]) {
        stage.set(app, "1", None).await;
    }
    stage.start();
    stage.wait_for_count(&last, "1").await;
    stage.stop().await;
}

/// Enough failing apps at the head of the names to look like a store failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_failing_apps_do_not_block_other_upkeep() {
    let mut stage = BackgroundHost::sqlite().await;
    let mut bad = Vec::new();
    for n in 0..12 {
        bad.push(stage.server.app(&format!("a-bad-{n}"), false).await);
    }
    let good = stage.server.app("b-good", false).await;
    for app in &bad {
        stage.faults.on(Operation::Sweep).of(app.id).fail(failed);
    }
    for app in bad.iter().chain([&good]) {
        stage.set(app, "k", Some(Timestamp(1))).await;
    }
    stage.start_with(DispatchOptions {
        upkeep: Duration::from_millis(20),
        ..DispatchOptions::default()
    });
    eventually("the app behind them is swept", async || {
        let used = stage.server.host.store().usage(good.id).await;
        used.unwrap().entries == 0
    })
    .await;
    stage.stop().await;
}
