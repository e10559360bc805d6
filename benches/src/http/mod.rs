//! Calls over HTTP: beside a bare axum handler that does the same read, beside
//! `wasmtime serve`, and of a quiet app beside a flooded one.
//!
//! Each server is a process of its own; the load comes from this one.

pub mod guests;
pub mod load;
pub mod servers;
pub mod transfers;

use crate::Effort;
use crate::report::{Row, Target, percentile};
use anyhow::Result;
use load::{Load, Pace};
use std::time::Duration;
use tokio::runtime::Runtime;

pub use servers::{audit, serve};

const CONNECTIONS: usize = 32;
const FLOOD: usize = 64;

/// Calls a second, of a server and its counterpart, in turns.
async fn rates(ours: &Load, other: &Load, effort: Effort) -> Result<Vec<(f64, f64)>> {
    let time = Duration::from_millis((1500 / effort.divisor as u64).max(100));
    let mut pairs = Vec::new();
    for _ in 0..effort.rounds {
        let rate = ours.rate(CONNECTIONS, time).await?;
        pairs.push((rate, other.rate(CONNECTIONS, time).await?));
    }
    Ok(pairs)
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let kvasm = servers::Child::kvasm()?;
        let axum = servers::Child::axum()?;
        let call = Load::post(kvasm.address, "/v1/apps/bench/call/get");
        let mut rows = vec![Row::pair(
            "HTTP call with one kv_get, beside a bare axum handler",
            "calls/s",
            &rates(&call, &Load::post(axum.address, "/"), effort).await?,
            Some(Target::AtLeast(0.6)),
        )];
        match servers::Child::wasmtime()? {
            Some(wasmtime) => rows.push(Row::pair(
                "HTTP call with one kv_get, beside wasmtime serve",
                "calls/s",
                &rates(&call, &Load::post(wasmtime.address, "/"), effort).await?,
                Some(Target::AtLeast(2.5)),
            )),
            None => eprintln!(
                "SKIPPED: the row beside `wasmtime serve`, as there is no wasmtime 48 on the PATH \
                 nor in KVASM_WASMTIME; `cargo install wasmtime-cli --version ^48 --locked` installs it"
            ),
        }
        Ok(rows)
    })
}

pub fn flood(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let kvasm = servers::Child::kvasm()?;
        let quiet = Load::post(kvasm.address, "/v1/apps/quiet/call/get");
        let mut rows = Vec::new();
        // A call beside one that computes takes long, so fewer are made.
        for (name, function, calls) in [
            (
                "p99 of a quiet app, another is flooded, beside alone",
                "get",
                400,
            ),
            ("the same, the flood computes 50 ms a call", "burn", 40),
        ] {
            let calls = calls / effort.divisor;
            let path = format!("/v1/apps/loud/call/{function}");
            let loud = Load::post(kvasm.address, &path);
            let mut pairs = Vec::new();
            for _ in 0..effort.rounds {
                let alone = p99(&quiet, calls).await?;
                let flood = loud.flood(FLOOD);
                // Until the flood is there in full.
                tokio::time::sleep(Duration::from_millis(200)).await;
                let beside = p99(&quiet, calls).await?;
                flood.abort();
                let _ = flood.await;
                pairs.push((beside * 1e3, alone * 1e3));
            }
            rows.push(Row::pair(name, "ms", &pairs, Some(Target::AtMost(2.0))));
        }
        Ok(rows)
    })
}

/// The p99 of one connection that calls every few milliseconds, in seconds.
pub async fn p99(quiet: &Load, calls: usize) -> Result<f64> {
    let calls = calls.max(20);
    let mut took = quiet
        .times(calls, Pace::Every(Duration::from_millis(4)))
        .await?;
    Ok(percentile(&mut took, 0.99))
}
