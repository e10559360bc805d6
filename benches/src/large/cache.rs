//! SQLite's page cache: gets and sets by `sqlite.cache`, and the same read without a plugin by
//! `mmap_size`. In CPU time of this process, as the variants are measured one after another.

use super::{LargeFile, LargeHost, SIZES};
use crate::Effort;
use crate::http::child::cpu_seconds;
use crate::report::Row;
use anyhow::Result;
use kvasm::model::Timestamp;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;

const CACHES_MIB: [usize; 4] = [2, 16, 64, 256];
/// As built, SQLite maps at most 2 GiB.
const MAPPED_GIB: [i64; 2] = [0, 2];
/// The pause between two sets of the writer during gets.
const PACE: Duration = Duration::from_millis(5);

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let mut rows = Vec::new();
        for size in SIZES.into_iter().skip(1) {
            let size = size / effort.divisor as u64;
            let file = LargeFile::of(size).await?;
            let mut figures = BTreeMap::<_, Vec<f64>>::new();
            for _ in 0..effort.rounds.min(3) {
                for cache in CACHES_MIB {
                    let stage = LargeHost::open(file.clone(), cache << 20).await?;
                    for (at, figure) in by_cache(&stage, effort).await?.into_iter().enumerate() {
                        figures.entry((at, cache)).or_default().push(figure);
                    }
                }
            }
            for ((at, cache), mut figures) in figures {
                let what = [
                    "get",
                    "get with a concurrent writer",
                    "durable set, 64 callers",
                ];
                let what = what.get(at).unwrap_or(&"");
                let name = format!("{what}, {size} entries, {cache} MiB");
                rows.push(Row::series(name, "us", &mut figures));
            }
            rows.extend(mapped(&file, effort)?);
        }
        Ok(rows)
    })
}

/// Microseconds of CPU time of a get, of a get while another call writes every few
/// milliseconds, and of a set.
async fn by_cache(stage: &LargeHost, effort: Effort) -> Result<[f64; 3]> {
    let gets = 50_000 / effort.divisor;
    // Until the largest cache is full.
    for _ in 0..3 {
        stage.in_one("look_up", gets).await?;
    }
    let quiet = stage.in_one("look_up", gets).await?.cpu;
    let beside = beside_a_writer(stage, gets).await?;
    stage.sets(64, gets / 2).await?;
    let set = stage.sets(64, gets / 2).await?.cpu;
    Ok([quiet, beside, set])
}

async fn beside_a_writer(stage: &LargeHost, gets: usize) -> Result<f64> {
    let done = AtomicBool::new(false);
    let reads = async {
        let took = stage.in_one("look_up", gets).await;
        done.store(true, Ordering::Relaxed);
        took
    };
    let writes = async {
        while !done.load(Ordering::Relaxed) {
            stage.call("overwrite", 1).await?;
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    };
    Ok(tokio::try_join!(reads, writes)?.0.cpu)
}

/// The same read on a connection of the benchmark, with and without a mapping.
fn mapped(file: &LargeFile, effort: Effort) -> Result<Vec<Row>> {
    file.warm()?;
    let app: Vec<u8> = Connection::open(&file.path)?.query_row(
        "SELECT id FROM apps WHERE name = ?1",
        [super::LARGE],
        |row| row.get(0),
    )?;
    let mut figures = BTreeMap::<_, Vec<f64>>::new();
    for _ in 0..effort.rounds.min(3) {
        for mapped in MAPPED_GIB {
            for cache in CACHES_MIB {
                let took = inline(&file.path, &app, file.entries, cache, mapped, effort)?;
                figures.entry((mapped, cache)).or_default().push(took);
            }
        }
    }
    let row = |((mapped, cache), mut took): ((i64, usize), Vec<f64>)| {
        let entries = file.entries;
        let name = format!("no wasm, {entries} entries, {cache} MiB, {mapped} GiB mapped");
        Row::series(name, "us", &mut took)
    };
    Ok(figures.into_iter().map(row).collect())
}

fn inline(
    path: &Path,
    app: &[u8],
    entries: u64,
    cache: usize,
    mapped: i64,
    effort: Effort,
) -> Result<f64> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "cache_size", -((cache << 10) as i64))?;
    connection.pragma_update(None, "mmap_size", mapped << 30)?;
    let reads = 100_000 / effort.divisor as u64;
    let (mut took, mut key) = (0.0, 1_u64);
    // The second pass is measured.
    for _ in 0..2 {
        let start = cpu_seconds("self")?;
        for _ in 0..reads {
            key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = format!("{:08}", (key >> 33) % entries);
            let now = Timestamp::now().0;
            let value: String = connection
                .prepare_cached(crate::reads::SELECT)?
                .query_row((app, "large", key, now), |row| row.get(0))?;
            std::hint::black_box(value);
        }
        took = (cpu_seconds("self")? - start) * 1e6 / reads as f64;
    }
    Ok(took)
}
