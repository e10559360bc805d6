//! A soak test: mixed load for ten minutes, after which the server must hold no more resources
//! than in its first minute.

use super::{PressureServer, client, guest};
use crate::Effort;
use crate::report::{Row, Target};
use anyhow::Result;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const MINUTE: Duration = Duration::from_secs(60);

/// The maximum number of threads of a server under this load.
///
/// Some live as long as the server: one per core, its main thread, and those of the clock, the
/// log and the SQLite writer. Threads of the pool for blocking work end after ten idle seconds,
/// so their number shows how much ran at once in the last ten seconds, and does not show a
/// leak: 9 and 11 were both seen within minutes. What runs at once is limited: long reads, and
/// here one upload that is checked, compiled and loaded, and one export that is written; and as
/// many again, as the pool starts a thread when none is idle yet. A leak of one thread per
/// round of the load would add up to 500.
fn threads_max() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let long_reads = (cores / 2).max(2);
    (cores + 4 + 2 * (long_reads + 2)) as f64
}

/// The resources of a server.
struct Resources {
    resident: f64,
    descriptors: f64,
    threads: f64,
    wal: f64,
    cache: f64,
}

impl Resources {
    fn now(stage: &PressureServer) -> Result<Resources> {
        let process = stage.process.id();
        let folder = stage.folder.path();
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd"))?.count();
        Ok(Resources {
            resident: client::resident_mib(process)?,
            descriptors: descriptors as f64,
            threads: client::status(process, "Threads")?,
            wal: size(&folder.join("kvasm.db-wal"))?,
            cache: size(&folder.join("cache"))?,
        })
    }
}

/// The size of a file, or of the files in a folder, in MiB; 0 if it does not exist.
fn size(path: &Path) -> Result<f64> {
    if !path.exists() {
        return Ok(0.0);
    }
    if path.is_file() {
        return Ok(path.metadata()?.len() as f64 / (1024.0 * 1024.0));
    }
    let mut total = 0.0;
    for entry in std::fs::read_dir(path)? {
        total += size(&entry?.path())?;
    }
    Ok(total)
}

/// Calls, failures, administration, deploys and exports, all at once.
fn load(stage: &PressureServer, wasm: Vec<u8>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (admin, public) = (stage.admin.clone(), stage.anonymous());
    for worker in 0..16 {
        let public = public.clone();
        tasks.spawn(async move {
            for n in 0_u64.. {
                let app = if (n + worker) % 4 == 0 {
                    "mixed"
                } else {
                    "neighbour"
                };
                let path = match n % 50 {
                    0 => format!("/v1/apps/{app}/call/missing"),
                    _ => format!("/v1/apps/{app}/call/add"),
                };
                let body = format!(r#"{{"name":"n{}","by":1}}"#, n % 1_000);
                let _ = public
                    .send("POST", &path, "application/json", body.as_bytes())
                    .await;
            }
        });
    }
    tasks.spawn(async move {
        for _ in 0_u64.. {
            let path = "/v1/apps/mixed/plugins";
            let _ = admin.send("POST", path, "application/wasm", &wasm).await;
            let path = "/v1/apps/mixed/plugins/rollback";
            let _ = admin.send("POST", path, "application/json", b"{}").await;
            for path in [
                "/v1/apps/mixed/kv/export",
                "/v1/apps/mixed/logs",
                "/metrics",
            ] {
                let _ = admin.send("GET", path, "text/plain", &[]).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    tasks
}

/// One row per resource: at the end, compared with the first minute.
pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let stage = PressureServer::start().await?;
        let wasm = guest("counter")?;
        let mixed = stage.app("mixed", &wasm).await?;
        stage.fill_with(mixed, 2_000).await?;
        let mut tasks = load(&stage, wasm);
        let divisor = u32::try_from(effort.divisor)?;
        let start = Instant::now();
        tokio::time::sleep(MINUTE / divisor).await;
        let first = Resources::now(&stage)?;
        let mut threads = first.threads;
        let end = 10 * MINUTE / divisor;
        while start.elapsed() < end {
            let left = end.saturating_sub(start.elapsed());
            tokio::time::sleep(left.min(Duration::from_secs(1))).await;
            threads = threads.max(client::status(stage.process.id(), "Threads")?);
        }
        let last = Resources::now(&stage)?;
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        let (status, _) = stage.anonymous().send("GET", "/readyz", "", &[]).await?;
        anyhow::ensure!(status == 200, "the server is not ready after the soak");
        let row = |name, unit, last: f64, first: f64| {
            Row::pair(name, unit, &[(last, first)], Some(Target::AtMost(1.2)))
        };
        let rows = vec![
            row(
                "soak: resident memory",
                "MiB",
                last.resident,
                first.resident,
            ),
            row(
                "soak: descriptors",
                "files",
                last.descriptors,
                first.descriptors,
            ),
            Row::figure("soak: threads at the most", "threads", threads)
                .target(Target::AtMost(threads_max())),
            row("soak: write-ahead log", "MiB", last.wal, first.wal),
            row("soak: cache folder", "MiB", last.cache, first.cache),
        ];
        Ok(rows)
    })
}
