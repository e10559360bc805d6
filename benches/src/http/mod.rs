//! Calls over HTTP: compared with a bare axum handler that does the same read, with `wasmtime
//! serve`, and for a quiet app while another one is flooded.
//!
//! Each server is a process of its own; the load comes from this process.

pub mod child;
pub mod guests;
pub mod load;
pub mod peers;
pub mod servers;
pub mod spacetimedb;
pub mod transfers;

use crate::Effort;
use crate::report::{Row, Target, percentile};
use anyhow::Result;
use child::Child;
use load::{Load, Pace};
use std::time::Duration;
use tokio::runtime::Runtime;

pub use servers::{audit, serve};

const CONNECTIONS: usize = 32;
const FLOOD: usize = 64;
/// Calls of the quiet app for each p99.
const QUIET_CALLS: usize = 400;

/// The names of the plugins of [`guests::APPS`] in rows.
const PLUGINS: [&str; 2] = ["SDK plugin", "bare plugin"];

/// A plugin call that gets an entry, compared with an axum handler that does the same, and with
/// `wasmtime serve` with either component, if it is installed. They are measured in turn in
/// each round.
pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let kvasm = Child::own(servers::GUESTS)?;
        let axum = Child::own(servers::AXUM)?;
        let wasmtime = peers::wasmtime()?;
        let mut loads: Vec<_> = guests::APPS
            .iter()
            .map(|app| Load::post(kvasm.address, &format!("/v1/apps/{app}/call/get")))
            .collect();
        loads.push(Load::post(axum.address, "/"));
        let peers = wasmtime.iter().map(|peer| &peer.child);
        loads.extend(peers.map(|child| Load::post(child.address, "/")));
        let time = Duration::from_millis((1500 / effort.divisor as u64).max(100));
        let mut rates: Vec<Vec<f64>> = vec![Vec::new(); loads.len()];
        for _ in 0..effort.rounds {
            for (load, rates) in loads.iter().zip(&mut rates) {
                rates.push(load.rate(CONNECTIONS, time).await?);
            }
        }
        let mut rows = Vec::new();
        // The SDK plugin has the lower target first, then the bare plugin.
        for ((plugin, ours), beside_axum) in PLUGINS.iter().zip(&rates).zip([0.5, 0.6]) {
            let others = [("a bare axum handler", beside_axum)];
            let peers = wasmtime.iter().map(|peer| (peer.name.as_str(), peer.least));
            let others = others.into_iter().chain(peers);
            for ((peer, least), other) in others.zip(rates.iter().skip(2)) {
                let pairs: Vec<_> = ours.iter().copied().zip(other.iter().copied()).collect();
                let name = format!("HTTP call with one kv_get, {plugin}, vs. {peer}");
                let target = Some(Target::AtLeast(least));
                rows.push(Row::pair(&name, "calls/s", &pairs, target));
            }
        }
        Ok(rows)
    })
}

/// The latency of a quiet app while another one is flooded, for apps of either plugin.
pub fn flood(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let kvasm = Child::own(servers::GUESTS)?;
        let mut rows = Vec::new();
        for (app, plugin) in guests::APPS.iter().zip(PLUGINS) {
            let quiet = Load::post(kvasm.address, &format!("/v1/apps/{app}/call/get"));
            for (name, function) in floods(app) {
                let path = format!("/v1/apps/{app}-loud/call/{function}");
                let loud = Load::post(kvasm.address, &path);
                let mut pairs = Vec::new();
                for _ in 0..effort.rounds {
                    pairs.push(beside(&quiet, &loud, QUIET_CALLS / effort.divisor).await?);
                }
                let name = format!("{name}, {plugin}");
                rows.push(Row::pair(&name, "ms", &pairs, Some(Target::AtMost(2.0))));
            }
        }
        Ok(rows)
    })
}

/// The name of each flood and its function.
fn floods(app: &str) -> Vec<(&'static str, &'static str)> {
    let mut floods = vec![
        (
            "p99 of a quiet app while another is flooded, vs. alone",
            "get",
        ),
        ("the same, with a flood of 50 ms CPU per call", "burn"),
    ];
    if app == "sdk" {
        // 1,000 calls per second, as the limits of the loud app allow.
        floods.push(("the same, with a flood of 50,000 log lines/s", "chatter"));
    }
    floods
}

/// The p99 of the quiet app during the flood and, before it, alone, in ms.
async fn beside(quiet: &Load, loud: &Load, calls: usize) -> Result<(f64, f64)> {
    let alone = p99(quiet, calls).await?;
    let flood = loud.flood(FLOOD);
    // Until all connections of the flood are active.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let beside = p99(quiet, calls).await?;
    flood.abort();
    let _ = flood.await;
    // Lets the flood's remaining calls end, so that the next round starts idle.
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok((beside * 1e3, alone * 1e3))
}

/// The p99 of one connection that calls every few milliseconds, in seconds.
pub async fn p99(quiet: &Load, calls: usize) -> Result<f64> {
    let calls = calls.max(20);
    let mut took = quiet
        .times(calls, Pace::Every(Duration::from_millis(4)))
        .await?;
    Ok(percentile(&mut took, 0.99))
}
