//! The effect of a noisy app on its neighbour: the p99 of the neighbour's durable writes,
//! compared with the same neighbour alone, on the program `kvasm serve`.
//!
//! The neighbour is the example `counter`, in a store with data. The program is the one next to
//! this one, or `KVASM_BENCH_PROGRAM`, so that two versions can be compared.

mod client;
mod scenarios;
mod soak;

use crate::folders::folder;
use crate::report::{Row, Target, percentile};
use crate::{Effort, target};
use anyhow::{Context, Result, ensure};
use client::Client;
use scenarios::SCENARIOS;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use soak::measure as soak;

/// The pause between two calls of the neighbour.
const PACE: Duration = Duration::from_millis(4);
/// The number of entries that exist before the measurement.
const ENTRIES: usize = 20_000;

/// `kvasm serve` on a SQLite file with data, and the apps of all scenarios.
struct PressureServer {
    process: Child,
    admin: Client,
    folder: TempDir,
}

impl Drop for PressureServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl PressureServer {
    async fn start() -> Result<PressureServer> {
        let folder = folder()?;
        let program = match std::env::var_os("KVASM_BENCH_PROGRAM") {
            Some(program) => program.into(),
            None => std::env::current_exe()?.with_file_name("kvasm"),
        };
        let store = format!("sqlite:{}", folder.path().join("kvasm.db").display());
        let mut process = Command::new(&program)
            .args(["serve", "--listen", "127.0.0.1:0", "--store", &store])
            .arg("--cache-dir")
            .arg(folder.path().join("cache"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = process.stdout.take().context("no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let (mut token, mut address) = (None, None);
        while address.is_none() {
            let line = lines.next().context("the server did not start")??;
            if let Some(text) = line.strip_prefix("Listening on http://") {
                address = Some(text.parse()?);
            } else if let Some((_, text)) = line.split_once(": ") {
                token = Some(text.to_owned());
            }
        }
        let admin = Client::new(address.context("no address")?, token);
        let stage = PressureServer {
            process,
            admin,
            folder,
        };
        let neighbour = stage.app("neighbour", &guest("counter")?).await?;
        stage.fill(neighbour).await?;
        Ok(stage)
    }

    /// Creates a public app with a plugin.
    async fn app<'n>(&self, name: &'n str, wasm: &[u8]) -> Result<&'n str> {
        let made = serde_json::json!({ "name": name, "public": true }).to_string();
        let json = "application/json";
        self.admin
            .expect("POST", "/v1/apps", json, made.as_bytes())
            .await?;
        let path = format!("/v1/apps/{name}/plugins");
        self.admin
            .expect("POST", &path, "application/wasm", wasm)
            .await?;
        Ok(name)
    }

    /// Writes [`ENTRIES`] entries of about 200 bytes.
    async fn fill(&self, name: &str) -> Result<()> {
        self.fill_with(name, ENTRIES).await
    }

    async fn fill_with(&self, name: &str, entries: usize) -> Result<()> {
        let text = "x".repeat(180);
        let path = format!("/v1/apps/{name}/kv/commit");
        for first in (0..entries).step_by(1_000) {
            let set = |n| serde_json::json!({ "set": { "collection": "filled", "key": format!("{n:08}"), "json": text } });
            let operations: Vec<_> = (first..entries.min(first + 1_000)).map(set).collect();
            let body = serde_json::json!({ "operations": operations }).to_string();
            self.admin
                .expect("POST", &path, "application/json", body.as_bytes())
                .await?;
        }
        Ok(())
    }

    /// A client without a token.
    fn anonymous(&self) -> Client {
        self.admin.anonymous()
    }

    /// The durations of the neighbour's successful writes in ms, and the number of failed ones.
    async fn neighbour(&self, calls: usize) -> Result<(Vec<f64>, usize)> {
        let client = self.anonymous();
        let (mut times, mut failed) = (Vec::new(), 0);
        let start = Instant::now();
        for n in 0..calls {
            let body = format!(r#"{{"name":"n{}","by":1}}"#, n % 100);
            let begun = Instant::now();
            let path = "/v1/apps/neighbour/call/add";
            let answer = client
                .send("POST", path, "application/json", body.as_bytes())
                .await;
            let took = begun.elapsed();
            match answer {
                Ok((200, _)) => times.push(took.as_secs_f64() * 1e3),
                Ok(_) | Err(_) => failed += 1,
            }
            // Under high pressure, fewer calls are enough.
            if start.elapsed() > Duration::from_secs(20) {
                break;
            }
            tokio::time::sleep(PACE.saturating_sub(took)).await;
        }
        Ok((times, failed))
    }

    /// The resident memory, in MiB.
    fn resident(&self) -> Result<f64> {
        client::resident_mib(self.process.id())
    }
}

/// A plugin built by `cargo xtask guests`.
fn guest(name: &str) -> Result<Vec<u8>> {
    let folder = std::env::var_os("KVASM_GUESTS");
    let folder = folder.map_or_else(|| target().join("guests"), Into::into);
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path).with_context(|| format!("{}: run cargo xtask guests", path.display()))
}

/// One row per scenario, and another if calls of the neighbour were rejected.
pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for scenario in SCENARIOS {
        let (pairs, failed, resident) = runtime.block_on(async {
            let stage = PressureServer::start().await?;
            let press = (scenario.prepare)(&stage).await?;
            let calls = (300 / effort.divisor).max(20);
            let (mut pairs, mut failed) = (Vec::new(), 0);
            let mut resident: f64 = 0.0;
            for _ in 0..effort.rounds.min(3) {
                let (mut alone, none) = stage.neighbour(calls).await?;
                ensure!(none == 0, "the neighbour's calls fail without any load");
                let pressing = press();
                tokio::time::sleep(Duration::from_millis(300)).await;
                let (mut beside, refused) = stage.neighbour(calls).await?;
                resident = resident.max(stage.resident()?);
                pressing.abort();
                let _ = pressing.await;
                failed += refused;
                pairs.push((percentile(&mut beside, 0.99), percentile(&mut alone, 0.99)));
                // Lets running calls end.
                tokio::time::sleep(Duration::from_millis(1_200)).await;
            }
            Ok::<_, anyhow::Error>((pairs, failed, resident))
        })?;
        let name = scenario.name;
        rows.push(Row::pair(name, "ms", &pairs, Some(Target::AtMost(2.0))).durable());
        let failed = Row::figure(format!("{name}: failed"), "calls", failed as f64);
        rows.push(failed.target(Target::AtMost(0.0)));
        rows.push(Row::figure(format!("{name}: resident"), "MiB", resident));
    }
    Ok(rows)
}
