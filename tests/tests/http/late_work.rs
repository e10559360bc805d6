//! Late schedules and overdue deliveries in the overview: as long as they wait, and no longer.

use crate::overview::dispatch_with;
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{App, Queue, ScheduleTick, Timestamp, TriggerName};
use kvasm::store::{PostgresStore, SqliteOptions, SqliteStore, Store};
use kvasm_store_testing::conformance::kit::{Tenant, json as value};
use kvasm_store_testing::faulty::{FaultyStore, Operation, unavailable};
use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::postgres::{fresh_database, store_options};
use kvasm_tests::server::{Server, eventually};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const HOUR_MS: i64 = 60 * 60 * 1_000;
/// The name of the plugin's schedule: that of its handler.
const SCHEDULE: &str = "yearly";
/// The time of a test on a busy machine.
const SPARE_MS: u64 = 10 * 60 * 1_000;

/// Adds 1 to the entry "k" of "d" at each change in "c" and each new year.
fn guest() -> Vec<u8> {
    let add = "(drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
        (i64.const 1) (i32.const 16))) (i32.const 0)";
    let section = manifest(&[
        r#"{"kind":"on_change","name":"run","collection":"c"}"#,
        r#"{"kind":"cron","name":"yearly","schedule":"0 0 1 1 *"}"#,
    ]);
    let yearly = format!("(func (export \"yearly\") (result i32) {add})");
    module_with("dk", &format!("{section} {yearly}"), add)
}

/// Plans the schedule of an app for a time in the past, as if no host had run since.
async fn miss_schedule(server: &Server, app: &App, at: Timestamp) {
    let tick = ScheduleTick {
        queue: Queue {
            app: app.id,
            trigger: TriggerName::parse(SCHEDULE).unwrap(),
        },
        planned: None,
        next: Some(at),
        run: None,
        now: at,
    };
    let store = server.host.store();
    store.tick(&tick).await.unwrap();
    let triggers = store.triggers(app.id).await.unwrap();
    let planned = triggers.iter().filter_map(|trigger| trigger.next_at);
    assert_eq!(planned.collect::<Vec<_>>(), [at]);
}

/// Writes an entry at a time in the past.
async fn change(server: &Server, app: &App, at: Timestamp) {
    let tenant = Tenant {
        store: Arc::clone(server.host.store()),
        id: app.id,
        name: app.name.clone(),
        now: at,
    };
    tenant.set("c", "k", value("1")).await;
}

async fn attention(server: &Server) -> Value {
    let overview = server.root.get("/v1/overview").await.expect(200).json();
    overview["attention"].clone()
}

/// Checks that a list has one concern, which is as bad as a time in the past, and returns it without
/// its amount.
fn only(list: &Value, past_ms: i64) -> Value {
    assert_eq!(list["total"], 1, "{list}");
    let mut concern = list["worst"][0].clone();
    let amount = concern["amount"].take().as_u64().unwrap();
    let least = past_ms.unsigned_abs();
    assert!((least..least + SPARE_MS).contains(&amount), "{amount}");
    concern
}

async fn late_work_is_shown_until_it_has_run(store: Arc<dyn Store>) {
    let (store, faults) = FaultyStore::over(store);
    let server = Server::over(store, None).await;
    let shop = server.deployed("shop", guest()).await;
    let paused = server.deployed("paused", guest()).await;
    server.deployed("quiet", guest()).await;
    let now = Timestamp::now().0;
    let (day, hours) = (24 * HOUR_MS, 2 * HOUR_MS);
    miss_schedule(&server, &shop, Timestamp(now - day)).await;
    change(&server, &shop, Timestamp(now - hours)).await;
    // What someone has paused waits for them, and is not late.
    miss_schedule(&server, &paused, Timestamp(now - day)).await;
    change(&server, &paused, Timestamp(now - hours)).await;
    let triggers = server.host.store().triggers(paused.id).await.unwrap();
    for trigger in &triggers {
        let path = format!("/v1/apps/paused/triggers/{}/pause", trigger.name);
        server.root.send("POST", &path).await.expect(204);
    }
    let still = json!({"app": "paused", "amount": triggers.len()});

    // The dispatcher can neither begin runs of the schedule nor claim deliveries of the app.
    for blocked in [Operation::Tick, Operation::Claim] {
        faults.on(blocked).of(shop.id).fail(unavailable);
    }
    let options = DispatchOptions {
        poll: Duration::from_millis(5),
        sample: Duration::from_millis(20),
        ..DispatchOptions::default()
    };
    let (stop, task) = dispatch_with(&server.host, options);
    eventually("all apps were sampled", async || {
        attention(&server).await != Value::Null
    })
    .await;
    let found = attention(&server).await;
    let late = only(&found["late_schedules"], day);
    assert_eq!(
        late,
        json!({"app": "shop", "name": SCHEDULE, "amount": null})
    );
    let overdue = only(&found["overdue"], hours);
    assert_eq!(overdue, json!({"app": "shop", "amount": null}));
    assert_eq!(found["paused_triggers"]["worst"], json!([still]));

    faults.clear();
    eventually("nothing is late", async || {
        let found = attention(&server).await;
        found["late_schedules"]["total"] == 0 && found["overdue"]["total"] == 0
    })
    .await;
    let path = "/v1/apps/shop/kv/entry?collection=d&key=k";
    eventually("both have run", async || {
        server.root.get(path).await.text() == "2"
    })
    .await;
    let found = attention(&server).await;
    assert_eq!(found["paused_triggers"]["worst"], json!([still]));
    stop.cancel();
    task.await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_work_is_shown_until_it_has_run_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let store = SqliteStore::open(options).await.unwrap();
    late_work_is_shown_until_it_has_run(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_work_is_shown_until_it_has_run_on_postgres() {
    let url = tokio::task::spawn_blocking(fresh_database).await.unwrap();
    let store = PostgresStore::connect(store_options(url)).await.unwrap();
    late_work_is_shown_until_it_has_run(Arc::new(store)).await;
}
