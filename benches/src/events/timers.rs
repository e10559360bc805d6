//! How late timers are.

use super::delivery::Running;
use super::stage::{BenchHost, Engine, manifest};
use crate::report::{Row, Target, percentile};
use crate::{Effort, generous};
use anyhow::{Context, Result};
use kvasm::model::{
    AppName, Batch, Grant, NewTimer, TimerName, TimerOp, TimerTime, Timestamp, Value,
};
use kvasm::service::Caller;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Reports that it has started, and returns.
const HANDLER: &str = r#"
  (import "bench_v1" "started" (func $started))
  (memory (export "memory") 1)
  (func (export "on_timer") (result i32) (call $started) (i32.const 0))"#;

/// Returns the time since 1970, in milliseconds.
fn now_ms() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64() * 1e3
}

pub fn measure(runtime: &Runtime, effort: Effort, engine: Engine) -> Result<Vec<Row>> {
    runtime.block_on(on(engine, effort))
}

async fn on(engine: Engine, effort: Effort) -> Result<Vec<Row>> {
    let (sender, mut starts) = mpsc::unbounded_channel();
    let stage = BenchHost::new(engine, |builder| {
        builder.limits(generous()).extend(move |linker| {
            linker.func_wrap("bench_v1", "started", move || {
                // The receiver is closed once the measurement is over.
                let _ = sender.send(now_ms());
            })?;
            Ok(())
        })
    })
    .await?;
    let section = manifest(&[r#"{"kind":"on_timer","name":"on_timer"}"#]);
    let wasm = wat::parse_str(format!("(module {HANDLER} {section})"))?;
    let app = stage.host.create_app(AppName::parse("timers")?).await?;
    let (admin, operator) = (stage.host.admin(), stage.host.operator("bench"));
    let grants = vec![Grant::Timers];
    admin.add_grants(&operator, &app, grants).await?;
    stage.host.deploy(&operator, &app, wasm, true).await?;
    let caller = Caller::new(&app, None);
    let running = Running::start(&stage);
    let mut late = Vec::new();
    // The first ones compile, connect and fill caches.
    const WARM_UP: usize = 3;
    for n in 0..WARM_UP + 600 / effort.divisor {
        // Not in step with any poll.
        let ahead = 30 + (n as u64 * 7) % 23;
        let at = Timestamp::now().plus_ms(ahead);
        let timer = NewTimer {
            name: TimerName::parse("t")?,
            time: TimerTime::At(at),
            payload: Value::Bytes(Vec::new()),
        };
        let batch = Batch {
            timers: vec![TimerOp::Set(timer)],
            ..Batch::default()
        };
        stage.host.kv().commit(&caller, batch).await?;
        let started = starts.recv().await.context("the host has stopped")?;
        if n >= WARM_UP {
            late.push(started - at.0 as f64);
        }
        // Its handler's commit.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await?;
    let name = engine.name();
    let mut row = |part: f64, label: &str| {
        Row::figure(
            format!("a timer is late, idle, {name}: {label}"),
            "ms",
            percentile(&mut late, part),
        )
    };
    Ok(vec![
        row(0.5, "p50"),
        row(0.99, "p99").target(Target::AtMost(100.0)),
    ])
}
