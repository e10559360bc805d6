//! What the dispatcher removes by itself.

use super::stage::{Stage, collection, until};
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{
    Claim, DeadReason, Failed, Key, Op, Queue, Receipt, Timestamp, TriggerName, Value, Verdict,
    WriteBatch,
};
use kvasm::store::MemoryStore;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

fn options() -> DispatchOptions {
    DispatchOptions {
        upkeep: Duration::from_millis(20),
        letters_of_app: 3,
        ..DispatchOptions::default()
    }
}

async fn entries(stage: &Stage) -> u64 {
    let app = stage.app().await.id;
    stage.host.store().usage(app).await.unwrap().entries
}

/// More than are removed in one step, of several collections; the others stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_entries_go_and_the_others_stay() {
    let mut stage = Stage::over(Arc::new(MemoryStore::new()), Box::new(())).await;
    let app = stage.app().await.id;
    let now = Timestamp::now();
    let set = |n: usize| Op::Set {
        collection: collection(if n.is_multiple_of(2) { "c" } else { "d" }),
        key: Key::parse(n.to_string()).unwrap(),
        value: Value::json("1", 10).unwrap(),
        expires_at: (n < 1_200).then_some(Timestamp(now.0 + 1)),
    };
    for first in [0, 700] {
        let batch = WriteBatch {
            ops: (first..first + 700).map(set).collect(),
            ..WriteBatch::new(app, now)
        };
        stage.host.store().commit(batch).await.unwrap();
    }
    assert_eq!(entries(&stage).await, 1_400);
    stage.start_with(options());
    until("what has expired is gone", async || {
        entries(&stage).await == 200
    })
    .await;
    let text = stage.host.metrics().encode();
    assert!(
        text.contains("kvasm_upkeep_total{name=\"expired_entries\"} 1200"),
        "{text}"
    );
}

/// Those over the cap go, the oldest first, and are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_dead_letters_go_and_are_counted() {
    let mut stage = Stage::over(Arc::new(MemoryStore::new()), Box::new(())).await;
    stage.deploy(super::hosts::counter()).await;
    for n in 0..5 {
        stage.set("c", &n.to_string(), "1").await;
        bury(&stage).await;
    }
    let ids: Vec<_> = stage
        .letters()
        .await
        .iter()
        .map(|letter| letter.id)
        .collect();
    stage.start_with(options());
    until("two are gone", async || stage.letters().await.len() == 3).await;
    let left: Vec<_> = stage
        .letters()
        .await
        .iter()
        .map(|letter| letter.id)
        .collect();
    assert_eq!(left, ids[..3], "the newest stay");
    until("they are counted", async || {
        let text = stage.host.metrics().encode();
        text.contains("kvasm_upkeep_total{name=\"dead_letters\"} 2")
    })
    .await;
}

/// Gives up the one delivery that there is.
async fn bury(stage: &Stage) {
    let (app, now) = (stage.app().await.id, Timestamp::now());
    let claim = Claim {
        queue: Queue {
            app,
            trigger: TriggerName::parse("run").unwrap(),
        },
        now,
        until: now.plus_ms(1_000),
        lease: Uuid::new_v4(),
        limit: 1,
    };
    let [delivery] = stage
        .host
        .store()
        .claim(&claim)
        .await
        .unwrap()
        .try_into()
        .unwrap();
    let failed = Failed {
        receipt: Receipt {
            app,
            place: delivery.place,
            lease: claim.lease,
        },
        now,
        verdict: Verdict::GiveUp(DeadReason::Attempts),
        deterministic: false,
        error: "enough".to_owned(),
        trace: None,
        plugin: None,
    };
    assert!(stage.host.store().fail(&failed).await.unwrap());
}
