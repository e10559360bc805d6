//! Schedules.

use super::event_host::{EventHost, manifest, until};
use kvasm::model::{Queue, ScheduleTick, Timestamp, Watch};
use kvasm_tests::guests::module_with;

/// Increments "k" of "d" on each run.
fn ticker() -> Vec<u8> {
    let cron = manifest(&[r#"{"kind":"cron","name":"run","schedule":"*/5 * * * *"}"#]);
    let add = "(drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
        (i64.const 1) (i32.const 16))) (i32.const 0)";
    module_with("dk", &cron, add)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missed_cron_run_is_made_up_once_and_the_next_planned() {
    let mut stage = EventHost::sqlite().await;
    stage.deploy(ticker()).await;
    until("it is planned", async || {
        stage.triggers().await[0].next_at.is_some()
    })
    .await;
    stage.stop().await;
    let [trigger] = stage.triggers().await.try_into().unwrap();
    let Watch::Schedule(schedule) = &trigger.watch else {
        panic!("no schedule")
    };
    assert_eq!(schedule.as_str(), "*/5 * * * *");
    // As if no host had run for a day.
    let app = stage.app().await;
    let day = 24 * 60 * 60 * 1_000;
    let tick = ScheduleTick {
        queue: Queue {
            app: app.id,
            trigger: trigger.name,
        },
        planned: trigger.next_at,
        next: Some(Timestamp(Timestamp::now().0 - day)),
        run: None,
        now: Timestamp::now(),
    };
    stage.host.store().tick(&tick).await.unwrap();
    stage.start();
    until("it has run", async || stage.get("d", "k").await.is_some()).await;
    stage.wait_until_idle().await;
    until("it is planned again", async || {
        stage.triggers().await[0]
            .next_at
            .is_some_and(|at| at > Timestamp::now())
    })
    .await;
    assert_eq!(stage.get("d", "k").await.as_deref(), Some("1"));
}
