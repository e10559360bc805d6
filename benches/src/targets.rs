//! A plugin built for `wasm32-wasip1`, and empty functions in other languages, beside the same in Rust for
//! `wasm32-unknown-unknown`.

use crate::report::{Row, Target};
use crate::{Bench, Effort};
use anyhow::Result;
use kvasm::{Call, Plugin};
use kvasm_tests::guests;
use std::time::Instant;
use tokio::runtime::Runtime;

/// Microseconds for each call.
async fn time(bench: &Bench, plugin: &Plugin, function: &str, calls: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..calls {
        bench.host.call(plugin, Call::function(function)).await?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / calls as f64)
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let bench = Bench::new(|builder| builder).await?;
        let wasi = guests::wasm("sdk-wasip1");
        let wasi = bench.host.load(&bench.app, wasi).await?;
        let bare = bench.host.load(&bench.app, guests::wasm("sdk")).await?;
        let calls = 5000 / effort.divisor;
        let mut rows = Vec::new();
        for function in ["noop", "get"] {
            let mut pairs = Vec::new();
            for _ in 0..effort.rounds {
                pairs.push((
                    time(&bench, &wasi, function, calls).await?,
                    time(&bench, &bare, function, calls).await?,
                ));
            }
            let name = format!("{function} of wasm32-wasip1 vs. wasm32-unknown-unknown");
            rows.push(Row::pair(&name, "us", &pairs, Some(Target::AtMost(1.1))));
        }
        for language in ["c", "go", "assemblyscript", "zig"] {
            let module = guests::wasm(&format!("features-{language}"));
            let plugin = bench.host.load(&bench.app, module).await?;
            let mut pairs = Vec::new();
            for _ in 0..effort.rounds {
                pairs.push((
                    time(&bench, &plugin, "noop", calls).await?,
                    time(&bench, &bare, "noop", calls).await?,
                ));
            }
            let name = format!("noop in {language} vs. Rust");
            rows.push(Row::pair(&name, "us", &pairs, None));
        }
        Ok(rows)
    })
}
