//! Records of deliveries and transactions.

use super::event_host::{EventHost, manifest, until};
use kvasm::model::{Queue, ScheduleTick, Timestamp};
use kvasm::service::{CallPage, CallQuery, CallRecord};
use kvasm_tests::guests::module_with;
use std::collections::HashSet;

impl EventHost {
    /// The records of the app's calls, oldest first.
    pub async fn recorded(&self) -> Vec<CallRecord> {
        let query = CallQuery {
            limit: 1_000,
            ..CallQuery::default()
        };
        let app = self.app().await;
        let page = self.host.call_keeper().page(app.id, &query).await;
        CallPage::from(page.unwrap()).calls
    }
}

/// A host that records calls from the start.
async fn stage() -> EventHost {
    let stage = EventHost::new().await;
    stage.host.call_keeper().attach();
    stage
}

const WATCH: &str = r#"{"kind":"on_change","name":"run","collection":"c"}"#;

/// The trigger and the attempt of a delivery.
fn delivered(call: &CallRecord) -> (&str, u32) {
    let delivery = call.delivery.as_ref().unwrap();
    assert!(!delivery.webhook);
    (&delivery.trigger, delivery.attempt)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_of_a_delivery_is_recorded() {
    let stage = stage().await;
    stage
        .deploy(module_with("", &manifest(&[WATCH]), "unreachable"))
        .await;
    stage.set("c", "k", "7").await;
    until("the delivery is dead", async || {
        !stage.dead_letters().await.is_empty()
    })
    .await;
    let calls = stage.recorded().await;
    let attempts: Vec<_> = calls.iter().map(delivered).collect();
    assert_eq!(attempts, [("run", 1), ("run", 2), ("run", 3)]);
    let letter = stage.dead_letters().await.remove(0);
    let requests: HashSet<_> = calls.iter().map(|call| call.request_id).collect();
    assert_eq!(requests.len(), 3);
    for call in &calls {
        assert_eq!((&*call.function, &*call.cause), ("run", "set"));
        assert_eq!(
            (&*call.outcome, call.blame.as_deref()),
            ("trap", Some("plugin"))
        );
        assert!(call.error.as_ref().unwrap().contains("unreachable"));
        assert_eq!(call.delivery.as_ref().unwrap().event_id, letter.event.id);
        assert_eq!(call.version.map(|version| version.0), Some(1));
        assert_eq!(call.cost.as_ref().unwrap().runs, 1);
    }
    // A handler that succeeds.
    stage
        .deploy(module_with("", &manifest(&[WATCH]), "(i32.const 0)"))
        .await;
    stage.replay().await;
    stage.wait_until_idle().await;
    let calls = stage.recorded().await;
    assert_eq!(calls.len(), 4);
    assert_eq!(
        (&*calls[3].outcome, delivered(&calls[3])),
        ("ok", ("run", 1))
    );
    assert_eq!(calls[3].version.map(|version| version.0), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_schedules_and_timers_are_recorded() {
    let mut stage = EventHost::sqlite().await;
    stage.host.call_keeper().attach();
    let section = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"cron","name":"tick","schedule":"*/5 * * * *"}"#,
        r#"{"kind":"on_timer","name":"on_timer"}"#,
    ]);
    let fields = format!(
        r#"{section} (func (export "tick") (result i32) (i32.const 0))
        (func (export "on_timer") (result i32) (i32.const 0))"#
    );
    // Sets a timer whose name is "secret".
    let run = "(drop (call $timer_set (i32.const 0) (i32.const 6) (i32.const 1) (i64.const 0)
        (i32.const 0) (i32.const 6))) (i32.const 0)";
    stage
        .deploy_with_timers(module_with("secret", &fields, run))
        .await;
    stage.call("run", "").await;
    until("the timer has fired", async || {
        stage.recorded().await.len() == 2
    })
    .await;
    until("the schedule is planned", async || {
        stage
            .triggers()
            .await
            .iter()
            .any(|trigger| trigger.next_at.is_some())
    })
    .await;
    stage.stop().await;
    let app = stage.app().await;
    let triggers = stage.triggers().await;
    let trigger = triggers
        .iter()
        .find(|trigger| trigger.next_at.is_some())
        .unwrap();
    let tick = ScheduleTick {
        queue: Queue {
            app: app.id,
            trigger: trigger.name.clone(),
        },
        planned: trigger.next_at,
        next: Some(Timestamp(Timestamp::now().0 - 60_000)),
        run: None,
        now: Timestamp::now(),
    };
    stage.host.store().tick(&tick).await.unwrap();
    stage.start();
    until("the schedule has run", async || {
        stage.recorded().await.len() == 3
    })
    .await;
    let calls = stage.recorded().await;
    assert_eq!((&*calls[0].function, &*calls[0].cause), ("run", "call"));
    let events: Vec<_> = calls[1..]
        .iter()
        .map(|call| (&*call.function, &*call.cause, delivered(call)))
        .collect();
    assert_eq!(
        events,
        [
            ("on_timer", "timer", ("on_timer", 1)),
            ("tick", "schedule", ("tick", 1)),
        ]
    );
    // Of a timer only that: its name and payload may be data of users.
    assert!(!format!("{calls:?}").contains("secret"));
}
