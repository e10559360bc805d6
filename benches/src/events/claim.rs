//! Claims with few and with many waiting deliveries.

use super::stage::{BenchHost, Engine, manifest};
use crate::report::{Row, Target, median};
use crate::{Effort, generous};
use anyhow::{Result, ensure};
use kvasm::model::{
    AppId, Claim, Delivery, FailedAttempt, LeaseToken, ProbeDelay, Queue, Timestamp, TriggerName,
    Verdict,
};
use std::time::Instant;
use tokio::runtime::Runtime;
use uuid::Uuid;

const LIMIT: u32 = 8;
const LEASE_MS: u64 = 60_000;

const HANDLER: &str = r#"
  (memory (export "memory") 1)
  (func (export "handle") (result i32) (i32.const 0))"#;

/// A queue with a number of deliveries, on a store of its own.
struct Backlog {
    stage: BenchHost,
    queue: Queue,
    count: usize,
    /// The medians of the rounds, in microseconds.
    claims: Vec<f64>,
    looks: Vec<f64>,
}

impl Backlog {
    async fn new(engine: Engine, count: usize) -> Result<Backlog> {
        let stage = BenchHost::new(engine, |builder| builder.limits(generous())).await?;
        let watch = manifest(&[r#"{"kind":"on_change","name":"handle","collection":"notes"}"#]);
        let wasm = wat::parse_str(format!("(module {HANDLER} {watch})"))?;
        let app = stage.app("bench", &wasm).await?;
        stage.fill(&app, count).await?;
        Ok(Backlog {
            stage,
            queue: Queue {
                app: app.id,
                trigger: TriggerName::parse("handle")?,
            },
            count,
            claims: Vec::new(),
            looks: Vec::new(),
        })
    }

    /// Claims deliveries and nacks them, so that the next claim finds the same number.
    async fn round(&mut self, claims: usize) -> Result<()> {
        let store = self.stage.host.store();
        let (mut took, mut looked) = (Vec::new(), Vec::new());
        for _ in 0..claims {
            let now = Timestamp::now();
            let start = Instant::now();
            let due = store.due(None, now, 64).await?;
            looked.push(start.elapsed().as_secs_f64() * 1e6);
            ensure!(
                due == [self.queue.clone()],
                "unexpected due queues: {due:?}"
            );
            let claim = Claim {
                queue: self.queue.clone(),
                now,
                until: now.plus_ms(LEASE_MS),
                lease: Uuid::new_v4(),
                limit: LIMIT,
            };
            let start = Instant::now();
            let claimed = store.claim(&claim).await?;
            took.push(start.elapsed().as_secs_f64() * 1e6);
            ensure!(claimed.len() == LIMIT as usize, "{} claimed", claimed.len());
            for delivery in claimed {
                let failed = given_back(self.queue.app, delivery, claim.lease);
                ensure!(store.fail(&failed).await?.is_held(), "the lease was lost");
            }
        }
        self.claims.push(median(&mut took));
        self.looks.push(median(&mut looked));
        Ok(())
    }
}

/// A nack that makes the delivery due at once.
fn given_back(app: AppId, delivery: Delivery, lease: Uuid) -> FailedAttempt {
    let now = Timestamp::now();
    FailedAttempt {
        receipt: LeaseToken {
            app,
            place: delivery.place,
            lease,
        },
        now,
        verdict: Verdict::RetryAt(now),
        deterministic: false,
        probe: ProbeDelay::default(),
        error: "nacked".to_owned(),
        trace: None,
        plugin: None,
    }
}

pub fn measure(runtime: &Runtime, effort: Effort, engine: Engine) -> Result<Vec<Row>> {
    runtime.block_on(on(engine, effort))
}

async fn on(engine: Engine, effort: Effort) -> Result<Vec<Row>> {
    let mut few = Backlog::new(engine, 1_000 / effort.divisor).await?;
    let mut others = Vec::new();
    for count in [100_000, 1_000_000] {
        others.push(Backlog::new(engine, count / effort.divisor).await?);
    }
    let claims = (100 / effort.divisor).max(5);
    for _ in 0..effort.rounds {
        few.round(claims).await?;
        for other in &mut others {
            other.round(claims).await?;
        }
    }
    let pairs = |many: &[f64], few: &[f64]| -> Vec<_> {
        many.iter().copied().zip(few.iter().copied()).collect()
    };
    let mut rows = Vec::new();
    for other in others {
        let (name, count, base) = (engine.name(), other.count, few.count);
        rows.push(
            Row::pair(
                &format!("a claim of 8, {count} waiting, vs. {base}, {name}"),
                "us",
                &pairs(&other.claims, &few.claims),
                Some(Target::AtMost(1.5)),
            )
            .durable(),
        );
        rows.push(Row::pair(
            &format!("a query of due queues, {count} waiting, vs. {base}, {name}"),
            "us",
            &pairs(&other.looks, &few.looks),
            Some(Target::AtMost(1.5)),
        ));
    }
    Ok(rows)
}
