//! `kv_get` on SQLite: warm, compared with the same read without wasm; and cold.

use crate::report::{Row, Target, percentile};
use crate::{Bench, Effort, generous};
use anyhow::{Result, ensure};
use kvasm::model::{Batch, Collection, Commit, Key, Op, Timestamp, Value};
use kvasm::{Call, Plugin};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::runtime::Runtime;

/// Reads the entry `notes`/`00000007` as many times as the input's u32 says.
pub const GET: &str = r#"(module
  (import "kvasm_v1" "kv_get" (func $get (param i32 i32 i32 i32 i32 i32 i32 i32) (result i64)))
  (import "kvasm_v1" "input_read" (func $input (param i32 i32 i32) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "notes") (data (i32.const 16) "00000007")
  (func (export "run") (result i32) (local $left i32)
    (drop (call $input (i32.const 0) (i32.const 32) (i32.const 4)))
    (local.set $left (i32.load (i32.const 32)))
    (loop $again
      (if (i64.lt_s (call $get (i32.const 0) (i32.const 5) (i32.const 16) (i32.const 8)
                       (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 4096)) (i64.const 0))
        (then (return (i32.const 1))))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.const 0)))"#;

pub const SELECT: &str = "SELECT value, version, created_at, updated_at, expires_at FROM kv_entries
    WHERE app_id = ?1 AND collection = ?2 AND key = ?3
      AND (expires_at IS NULL OR expires_at > ?4)";

/// Writes `count` entries of `bytes` bytes of JSON.
async fn fill(bench: &Bench, count: usize, bytes: usize) -> Result<()> {
    let collection = Collection::parse("notes")?;
    let text = format!("\"{}\"", "x".repeat(bytes.saturating_sub(2)));
    let numbers: Vec<_> = (0..count).collect();
    for chunk in numbers.chunks(100) {
        let ops = chunk.iter().map(|n| {
            Ok(Op::Set {
                collection: collection.clone(),
                key: Key::parse(format!("{n:08}"))?,
                value: Value::json(text.clone(), 1 << 20)?,
                expires_at: None,
            })
        });
        let batch = Commit::new(
            bench.app.id,
            Timestamp::now(),
            Batch::of(ops.collect::<Result<_>>()?),
        );
        bench.host.store().commit(batch).await?;
    }
    Ok(())
}

pub async fn guest(bench: &Bench, plugin: &Plugin, reads: usize) -> Result<f64> {
    let input = u32::try_from(reads)?.to_le_bytes();
    let start = Instant::now();
    bench
        .host
        .call(plugin, Call::function("run").input(input))
        .await?;
    Ok(start.elapsed().as_secs_f64() * 1e6 / reads as f64)
}

fn inline(connection: &Connection, app: &[u8], reads: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..reads {
        let now = Timestamp::now().0;
        let read: (Vec<u8>, i64, i64, i64, Option<i64>) = connection
            .prepare_cached(SELECT)?
            .query_row((app, "notes", "00000007", now), |row| {
                let value = row.get_ref(0)?.as_bytes()?.to_vec();
                Ok((value, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })?;
        std::hint::black_box(read);
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / reads as f64)
}

fn reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(path, flags)?)
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let bench = Bench::new(|builder| builder.limits(generous())).await?;
        fill(&bench, 10_000, 100).await?;
        let plugin = bench.host.load(&bench.app, wat::parse_str(GET)?).await?;
        let connection = reader(&bench.database())?;
        let app = *bench.app.id.uuid().as_bytes();
        let reads = 20_000 / effort.divisor;
        let (mut pairs, mut single) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            pairs.push((
                guest(&bench, &plugin, reads).await?,
                inline(&connection, &app, reads)?,
            ));
            let start = Instant::now();
            for _ in 0..reads / 20 {
                guest(&bench, &plugin, 1).await?;
            }
            let each = start.elapsed().as_secs_f64() * 1e6 / (reads / 20) as f64;
            single.push((each, pairs.last().map_or(0.0, |p| p.1)));
        }
        Ok(vec![
            Row::pair(
                "kv_get from a guest, SQLite, 100 B",
                "us",
                &pairs,
                Some(Target::AtMost(1.75)),
            ),
            Row::pair("an invocation that does one kv_get", "us", &single, None),
        ])
    })
}

/// Evicts a file from the page cache.
pub fn drop_cache(path: &Path) -> Result<()> {
    let of = format!("of={}", path.display());
    dd(&[&of, "oflag=nocache", "conv=notrunc,fdatasync", "count=0"])
}

/// Runs `dd` on a file. A separate process is needed, as closing a file descriptor in this one
/// would drop SQLite's locks.
pub fn dd(arguments: &[&str]) -> Result<()> {
    let done = Command::new("dd").args(arguments).output()?;
    ensure!(
        done.status.success(),
        "dd: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// Reads that miss every cache, and empty invocations on the same single thread: how long does
/// a read take, and how long does another app wait?
pub fn cold(_: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        const ENTRIES: usize = 4000;
        let bench = Arc::new(Bench::new(|builder| builder.limits(generous())).await?);
        fill(&bench, ENTRIES, 16 * 1024).await?;
        let mut rows = Vec::new();
        for (name, is_cold) in [("warm", false), ("cold", true)] {
            let (mut reads, mut waits) = (Vec::new(), Vec::new());
            for round in 0..effort.rounds.min(5) {
                if is_cold {
                    drop_cache(&bench.database())?;
                    drop_cache(&bench.folder.path().join("bench.db-wal"))?;
                }
                let count = 1000 / effort.divisor.min(10);
                let (r, w) = beside(&bench, round, count).await?;
                reads.extend(r);
                waits.extend(w);
            }
            for (part, label) in [(0.5, "p50"), (0.99, "p99")] {
                rows.push(Row::figure(
                    format!("read of 16 KiB, {name}: {label}"),
                    "us",
                    percentile(&mut reads, part),
                ));
                rows.push(Row::figure(
                    format!("an empty call during it, {name}: {label}"),
                    "us",
                    percentile(&mut waits, part),
                ));
            }
        }
        Ok(rows)
    })
}

/// The durations of reads, and of empty calls interleaved with them.
async fn beside(bench: &Arc<Bench>, seed: usize, count: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let empty = "(module (memory (export \"memory\") 1) (func (export \"run\") (result i32) (i32.const 0)))";
    let plugin = bench.host.load(&bench.app, wat::parse_str(empty)?).await?;
    let done = Arc::new(AtomicBool::new(false));
    let quiet = tokio::spawn({
        let (bench, done) = (Arc::clone(bench), Arc::clone(&done));
        async move {
            let mut waits = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let start = Instant::now();
                // Queued behind whatever the thread is doing.
                tokio::task::yield_now().await;
                bench.host.call(&plugin, Call::function("run")).await?;
                waits.push(start.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(waits)
        }
    });
    let collection = Collection::parse("notes")?;
    let store = bench.host.store();
    let mut reads = Vec::new();
    for n in 0..count {
        let key = Key::parse(format!("{:08}", (n * 2_654_435_761 + seed * 97) % 4000))?;
        let start = Instant::now();
        let read = store.get(bench.app.id, &collection, &key, Timestamp::now());
        read.await?;
        reads.push(start.elapsed().as_secs_f64() * 1e6);
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::Relaxed);
    Ok((reads, quiet.await??))
}
