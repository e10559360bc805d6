//! From a commit to its handler, and through a backlog.

use super::stage::{BenchHost, Engine, manifest, note};
use crate::report::{Row, Target, percentile};
use crate::{Effort, generous};
use anyhow::{Context, Result};
use kvasm::dispatch::{DispatchOptions, Dispatcher};
use kvasm::model::App;
use kvasm::service::Caller;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Reports that it has started, and returns.
const HANDLER: &str = r#"
  (import "bench_v1" "started" (func $started))
  (memory (export "memory") 1)
  (func (export "handle") (result i32) (call $started) (i32.const 0))"#;

/// A stage whose handlers report when they start.
struct Watched {
    stage: BenchHost,
    wasm: Vec<u8>,
    starts: mpsc::UnboundedReceiver<Instant>,
}

impl Watched {
    async fn new(engine: Engine) -> Result<Watched> {
        let (sender, starts) = mpsc::unbounded_channel();
        let stage = BenchHost::new(engine, |builder| {
            builder.limits(generous()).extend(move |linker| {
                linker.func_wrap("bench_v1", "started", move || {
                    // The receiver is closed once the measurement is over.
                    let _ = sender.send(Instant::now());
                })?;
                Ok(())
            })
        });
        let watch = manifest(&[r#"{"kind":"on_change","name":"handle","collection":"notes"}"#]);
        Ok(Watched {
            stage: stage.await?,
            wasm: wat::parse_str(format!("(module {HANDLER} {watch})"))?,
            starts,
        })
    }

    async fn start(&mut self) -> Result<Instant> {
        self.starts.recv().await.context("the host has stopped")
    }

    /// Waits until all deliveries are done.
    async fn settle(&self, app: &App) -> Result<()> {
        let store = self.stage.host.store();
        while !store.deliveries(app.id, None, 1).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Milliseconds from each acknowledged write to the start of its handler, on an otherwise
    /// idle host.
    async fn lags(&mut self, app: &App, count: usize) -> Result<Vec<f64>> {
        let mut lags = Vec::new();
        for n in 0..count {
            // Not in step with any timer.
            tokio::time::sleep(Duration::from_millis(40 + (n as u64 * 7) % 23)).await;
            let (caller, write) = (Caller::new(app, None), note(n)?);
            self.stage.host.kv().apply(&caller, write, None).await?;
            let acknowledged = Instant::now();
            let started = self.start().await?;
            lags.push(
                started
                    .saturating_duration_since(acknowledged)
                    .as_secs_f64()
                    * 1e3,
            );
        }
        Ok(lags)
    }

    /// Deliveries per second of a backlog of changes of different keys.
    async fn burst(&mut self, round: usize, count: usize) -> Result<f64> {
        let app = self
            .stage
            .app(&format!("burst-{round}"), &self.wasm)
            .await?;
        self.stage.fill(&app, count).await?;
        let begin = Instant::now();
        let running = Running::start(&self.stage);
        for _ in 0..count {
            self.start().await?;
        }
        self.settle(&app).await?;
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        running.stop().await?;
        Ok(rate)
    }
}

/// A dispatcher with the default options.
pub(super) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub(super) fn start(stage: &BenchHost) -> Running {
        let (stop, stopped) = oneshot::channel::<()>();
        let dispatcher = Dispatcher::new(stage.host.clone(), DispatchOptions::default());
        let task = tokio::spawn(dispatcher.run(async { drop(stopped.await) }));
        Running { stop, task }
    }

    pub(super) async fn stop(self) -> Result<()> {
        drop(self.stop);
        Ok(self.task.await?)
    }
}

pub fn measure(runtime: &Runtime, effort: Effort, engine: Engine) -> Result<Vec<Row>> {
    runtime.block_on(on(engine, effort))
}

async fn on(engine: Engine, effort: Effort) -> Result<Vec<Row>> {
    let name = engine.name();
    let bound = match engine {
        Engine::Sqlite => 10.0,
        Engine::Postgres => 25.0,
    };
    let mut watched = Watched::new(engine).await?;
    let app = watched.stage.app("idle", &watched.wasm).await?;
    let running = Running::start(&watched.stage);
    // The first deliveries compile, connect and fill caches.
    watched.lags(&app, 3).await?;
    let mut lags = watched.lags(&app, 900 / effort.divisor).await?;
    running.stop().await?;
    let mut rates = Vec::new();
    for round in 0..effort.rounds.min(3) {
        rates.push(watched.burst(round, 20_000 / effort.divisor).await?);
    }
    let mut lag = |part: f64, label: &str| {
        Row::figure(
            format!("from a commit to its handler, idle, {name}: {label}"),
            "ms",
            percentile(&mut lags, part),
        )
    };
    Ok(vec![
        lag(0.5, "p50").target(Target::AtMost(bound)),
        lag(0.99, "p99"),
        Row::series(format!("deliveries of a backlog, {name}"), "/s", &mut rates).durable(),
    ])
}
