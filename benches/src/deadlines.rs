//! How long after its deadline a guest is terminated.

use crate::report::{Row, Target, percentile};
use crate::{Bench, Effort};
use anyhow::{Result, bail};
use async_trait::async_trait;
use kvasm::model::{Applied, Batch, Collection, Entry, Limits, TimerName};
use kvasm::service::{Address, Caller, Kv, List, Listing, ServiceError, Services};
use kvasm::{Call, HostBuilder};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use uuid::Uuid;

const WALL: Duration = Duration::from_millis(100);

/// A store that never responds.
struct Silent;

#[async_trait]
impl Kv for Silent {
    async fn get_many(
        &self,
        _: &Caller,
        _: &[Address],
    ) -> Result<Vec<Option<Entry>>, ServiceError> {
        pending().await
    }

    async fn list(&self, _: &Caller, _: List) -> Result<Listing, ServiceError> {
        pending().await
    }

    async fn collections(
        &self,
        _: &Caller,
        _: Option<&Collection>,
        _: u32,
    ) -> Result<Vec<Collection>, ServiceError> {
        pending().await
    }

    async fn timer(&self, _: &Caller, _: &TimerName) -> Result<Option<Uuid>, ServiceError> {
        pending().await
    }

    async fn has_dead_letter(&self, _: &Caller, _: Uuid) -> Result<bool, ServiceError> {
        pending().await
    }

    async fn commit(&self, _: &Caller, _: Batch) -> Result<Vec<Applied>, ServiceError> {
        pending().await
    }
}

const HAS: &str = "(call $has (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))";

fn module(body: &str) -> Result<Vec<u8>> {
    Ok(wat::parse_str(format!(
        "(module (import \"kvasm_v1\" \"kv_has\" (func $has (param i32 i32 i32 i32) (result i64)))
           (memory (export \"memory\") 1) (data (i32.const 0) \"a\")
           (func (export \"run\") (result i32) {body} unreachable))"
    ))?)
}

async fn late(
    name: &str,
    body: &str,
    runs: usize,
    set_up: impl FnOnce(HostBuilder) -> HostBuilder,
) -> Result<Vec<Row>> {
    let limits = Limits {
        wall_time: WALL,
        cpu_time: Duration::from_secs(60),
        ..Limits::default()
    };
    let bench = Bench::new(|builder| set_up(builder.limits(limits))).await?;
    let plugin = bench.host.load(&bench.app, module(body)?).await?;
    let mut lates = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        if bench
            .host
            .call(&plugin, Call::function("run"))
            .await
            .is_ok()
        {
            bail!("{name} ended on its own");
        }
        lates.push((start.elapsed().saturating_sub(WALL)).as_secs_f64() * 1e3);
    }
    Ok(vec![
        Row::figure(
            format!("past the deadline, {name}: p50"),
            "ms",
            percentile(&mut lates, 0.5),
        ),
        Row::figure(
            format!("past the deadline, {name}: p99"),
            "ms",
            percentile(&mut lates, 0.99),
        )
        .target(Target::AtMost(100.0)),
    ])
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    let runs = (60 / effort.divisor).max(3);
    runtime.block_on(async {
        let silent = Services {
            kv: Arc::new(Silent),
            ..Services::default()
        };
        let mut rows = late("endless loop", "(loop (br 0))", runs, |b| b).await?;
        let around = format!("(loop (drop {HAS}) (br 0))");
        rows.extend(late("endless loop around kv_has", &around, runs, |b| b).await?);
        let once = format!("(drop {HAS})");
        rows.extend(
            late("a store that does not answer", &once, runs, |b| {
                b.services(silent)
            })
            .await?,
        );
        Ok(rows)
    })
}
