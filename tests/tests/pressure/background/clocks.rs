//! Wrong clocks, and the timestamps that they leave behind.

use super::stage::{BackgroundHost, Database, counter, ticker};
use kvasm::dispatch::{DispatchOptions, TimeSource};
use kvasm::model::{App, Timestamp};
use kvasm_tests::server::eventually;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const DAY: i64 = 86_400_000;
/// How far ahead the clocks of these tests are.
const AHEAD: i64 = 400 * DAY;
const TRUSTED: &str = "kvasm_clock_trusted 1";
const DOUBTED: &str = "kvasm_clock_trusted 0";

fn options(now: fn() -> Timestamp) -> DispatchOptions {
    DispatchOptions {
        upkeep: Duration::from_millis(20),
        // Makes each round of upkeep visible: excess rows are removed whatever the clock says.
        audit_of_app: 0,
        time: TimeSource(now),
        ..DispatchOptions::default()
    }
}

/// Waits until a round of upkeep has processed the app: it sweeps expired entries first.
async fn upkeep(stage: &BackgroundHost, app: &App) {
    let id = stage.database.literal(app);
    let rows = format!("SELECT count(*) FROM audit WHERE app_id = {id}");
    // One audit row, as any operation adds.
    let path = format!("/v1/apps/{}/kv/entry?collection=audited&key=k", app.name);
    let kind = "application/octet-stream";
    let put = stage.server.root.bytes("PUT", &path, kind, "1").await;
    put.expect(200);
    eventually("upkeep removes audit rows", async || {
        stage.database.sql(&rows).await == "0"
    })
    .await;
}

async fn wait_for_trust(stage: &BackgroundHost, state: &str) {
    eventually(state, async || stage.has_metric(state)).await;
}

async fn has_entry(stage: &BackgroundHost, app: &App, key: &str) -> bool {
    let id = stage.database.literal(app);
    let find = format!("SELECT count(*) FROM kv_entries WHERE app_id = {id} AND key = '{key}'");
    stage.database.sql(&find).await == "1"
}

/// The rows that a host with a clock 400 days ahead leaves behind: a planned schedule, a retry,
/// a lease, and the probe of a paused trigger.
async fn left_by_a_wrong_clock(mut stage: BackgroundHost) {
    let scheduled = stage.server.deployed("scheduled", ticker()).await;
    let paused = stage.server.deployed("paused", ticker()).await;
    let [retried, leased] = [
        stage.server.deployed("retried", counter()).await,
        stage.server.deployed("leased", counter()).await,
    ];
    stage.set(&retried, "1", None).await;
    stage.set(&leased, "1", None).await;
    let far = Timestamp::now().0 + AHEAD * 10;
    let database = stage.database.clone();
    let id = |app| database.literal(app);
    let is_sqlite = matches!(stage.database, Database::Sqlite(_));
    let lease = match is_sqlite {
        true => format!("due_at = {far}, lease = x'00112233445566778899aabbccddeeff'"),
        false => format!("leased_until = {far}, lease = gen_random_uuid()"),
    };
    for sql in [
        format!(
            "UPDATE triggers SET next_at = {far} WHERE app_id = {}",
            id(&scheduled)
        ),
        format!(
            "UPDATE triggers SET next_at = 1, paused = 'failures', probe_at = {far}
             WHERE app_id = {}",
            id(&paused)
        ),
        format!(
            "UPDATE deliveries SET due_at = {far} WHERE app_id = {}",
            id(&retried)
        ),
        format!(
            "UPDATE deliveries SET {lease}, attempts = 1 WHERE app_id = {}",
            id(&leased)
        ),
    ] {
        stage.database.sql(&sql).await;
    }
    stage.start();
    stage.wait_for_count(&retried, "1").await;
    stage.wait_for_count(&leased, "1").await;
    stage.wait_for_count(&paused, "1").await;
    let planned = format!(
        "SELECT next_at FROM triggers WHERE app_id = {}",
        id(&scheduled)
    );
    // Once a year.
    let latest = Timestamp::now().0 + 367 * DAY;
    eventually("it is planned again", async || {
        stage.database.sql(&planned).await.parse::<i64>().unwrap() < latest
    })
    .await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_clock_timestamps_are_repaired_at_start_on_sqlite() {
    left_by_a_wrong_clock(BackgroundHost::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_clock_timestamps_are_repaired_at_start_on_postgres() {
    left_by_a_wrong_clock(BackgroundHost::postgres(PATIENCE).await).await;
}

/// Milliseconds by which a clock is ahead.
static ON_POSTGRES: AtomicI64 = AtomicI64::new(0);

fn on_postgres() -> Timestamp {
    Timestamp(Timestamp::now().0 + ON_POSTGRES.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_with_clock_skew_pauses_and_reports_it() {
    let mut stage = BackgroundHost::postgres(PATIENCE).await;
    let app = stage.server.deployed("app", counter()).await;
    let ticking = stage.server.deployed("ticking", ticker()).await;
    let now = Timestamp::now().0;
    stage
        .set(&app, "fresh", Some(Timestamp(now + 100 * DAY)))
        .await;
    ON_POSTGRES.store(AHEAD, Ordering::Relaxed);
    stage.start_with(options(on_postgres));
    wait_for_trust(&stage, DOUBTED).await;
    let anonymous = stage.server.anonymous();
    eventually("the host is not ready", async || {
        anonymous.get("/readyz").await.status == 503
    })
    .await;
    anonymous
        .get("/readyz")
        .await
        .expect_problem(503, "not-ready");
    let failing = stage.server.root.get("/readyz").await.json()["failing"].clone();
    assert_eq!(failing[0]["name"], "clock", "{failing}");
    let cause = failing[0]["cause"].as_str().unwrap();
    assert!(cause.contains("ahead of the database's"), "{cause}");
    // Less the duration of the query.
    assert!(cause.contains(" is 345"), "by how much: {cause}");
    assert!(stage.has_metric("kvasm_task_failing{name=\"clock\"} 1"));
    upkeep(&stage, &app).await;
    assert!(has_entry(&stage, &app, "fresh").await, "it has not expired");
    assert_eq!(
        stage.count(&app).await,
        "",
        "it is delivered by a wrong clock"
    );
    let planned = format!(
        "SELECT count(*) FROM triggers WHERE app_id = {} AND next_at IS NOT NULL",
        stage.database.literal(&ticking)
    );
    assert_eq!(stage.database.sql(&planned).await, "0");

    ON_POSTGRES.store(0, Ordering::Relaxed);
    wait_for_trust(&stage, TRUSTED).await;
    stage.wait_for_count(&app, "1").await;
    eventually("the host is ready", async || {
        anonymous.get("/readyz").await.status == 200
    })
    .await;

    // The clock steps while the host runs, and then back.
    ON_POSTGRES.store(-AHEAD, Ordering::Relaxed);
    wait_for_trust(&stage, DOUBTED).await;
    stage.set(&app, "second", None).await;
    upkeep(&stage, &app).await;
    assert_eq!(stage.count(&app).await, "1");
    ON_POSTGRES.store(0, Ordering::Relaxed);
    stage.wait_for_count(&app, "2").await;
    stage.stop().await;
}

static ON_SQLITE: AtomicI64 = AtomicI64::new(0);

fn on_sqlite() -> Timestamp {
    Timestamp(Timestamp::now().0 + ON_SQLITE.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_step_suspends_deletions_until_undone() {
    let mut stage = BackgroundHost::sqlite().await;
    let app = stage.server.deployed("app", counter()).await;
    let now = Timestamp::now().0;
    stage.start_with(options(on_sqlite));
    wait_for_trust(&stage, TRUSTED).await;
    let noted = async || {
        stage
            .database
            .sql("SELECT at FROM health")
            .await
            .parse::<i64>()
    };
    eventually("the time is noted", async || noted().await.unwrap() >= now).await;
    ON_SQLITE.store(AHEAD, Ordering::Relaxed);
    wait_for_trust(&stage, DOUBTED).await;
    stage
        .set(&app, "fresh", Some(Timestamp(now + 100 * DAY)))
        .await;
    stage.wait_for_count(&app, "1").await;
    upkeep(&stage, &app).await;
    assert!(has_entry(&stage, &app, "fresh").await, "it has not expired");
    assert!(
        noted().await.unwrap() < now + DAY,
        "a wrong time is not kept"
    );
    let ready = stage.server.host.health().check().await;
    assert!(ready.is_ready(), "{ready:?}");
    ON_SQLITE.store(0, Ordering::Relaxed);
    wait_for_trust(&stage, TRUSTED).await;
    stage.set(&app, "old", Some(Timestamp(now))).await;
    eventually("it is swept", async || {
        !has_entry(&stage, &app, "old").await
    })
    .await;
    // The dispatcher's own time is back, too.
    stage.wait_for_count(&app, "2").await;
    assert!(has_entry(&stage, &app, "fresh").await);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn implausible_clock_at_start_suspends_deletions() {
    for off in [AHEAD, -AHEAD] {
        let mut stage = BackgroundHost::sqlite().await;
        let app = stage.server.deployed("app", counter()).await;
        let now = Timestamp::now().0;
        stage.set(&app, "old", Some(Timestamp(now - DAY))).await;
        let seen = format!("UPDATE health SET at = {}", now + off);
        stage.database.sql(&seen).await;
        stage.start_with(options(Timestamp::now));
        wait_for_trust(&stage, DOUBTED).await;
        stage.wait_for_count(&app, "1").await;
        upkeep(&stage, &app).await;
        assert!(has_entry(&stage, &app, "old").await, "{off}");
        // A readiness probe writes, but not this value.
        stage.server.anonymous().get("/readyz").await.expect(200);
        let kept = stage.database.sql("SELECT at FROM health").await;
        assert_eq!(kept, (now + off).to_string());
        stage.stop().await;
    }
}
