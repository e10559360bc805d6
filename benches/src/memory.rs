//! The memory of a loaded, idle app.

use crate::report::Row;
use crate::{Bench, Effort, target};
use anyhow::{Context, Result};
use tokio::runtime::Runtime;

/// Resident memory of this process, in KiB.
pub fn resident_kib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = text
        .split(' ')
        .nth(1)
        .context("no resident size")?
        .parse()?;
    Ok(pages * 4.0)
}

/// A module that differs from others only in a custom section.
fn variant(wasm: &[u8], number: u32) -> Vec<u8> {
    let mut wasm = wasm.to_vec();
    wasm.extend([0, 6, 1, b'v']);
    wasm.extend(number.to_le_bytes());
    wasm
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    let path = target().join("guests/counter.wasm");
    let wasm = std::fs::read(&path)
        .with_context(|| format!("{}: `cargo xtask guests` builds it", path.display()))?;
    runtime.block_on(async {
        let bench = Bench::new(|builder| builder).await?;
        let modules = u32::try_from((100 / effort.divisor).max(2))?;
        let apps = (10_000 / effort.divisor).max(10);
        let mut kept = vec![bench.host.load(&bench.app, wasm.clone()).await?];
        let before = resident_kib()?;
        for _ in 0..apps {
            kept.push(bench.host.load(&bench.app, wasm.clone()).await?);
        }
        let shared = (resident_kib()? - before) / apps as f64;
        let before = resident_kib()?;
        for number in 0..modules {
            kept.push(bench.host.load(&bench.app, variant(&wasm, number)).await?);
        }
        let distinct = (resident_kib()? - before) / f64::from(modules);
        Ok(vec![
            Row::figure(
                "memory of an idle app that shares its module",
                "KiB",
                shared,
            ),
            Row::figure(
                format!(
                    "memory of an idle app with its own module of {} KB",
                    wasm.len() / 1000
                ),
                "KiB",
                distinct,
            ),
        ])
    })
}
