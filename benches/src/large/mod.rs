//! Stores with many entries: the cost of a get, a durable set and a page, compared with a store
//! of 10,000 entries, in memory and cold. In calls within this process, to an SDK plugin.

pub mod cache;
pub mod cgroup;
mod file;

use crate::Effort;
use crate::http::child::cpu_seconds;
use crate::report::{Row, Target, percentile};
use anyhow::{Context, Result};
use file::{LARGE, LargeFile};
use kvasm::model::{App, AppName, Collection, Cursor};
use kvasm::service::{Caller, List};
use kvasm::store::SqliteOptions;
use kvasm::{Call, Host, Plugin};
use kvasm_tests::guests;
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The sizes of the stores, in entries; the others are compared with the first.
const SIZES: [u64; 3] = [10_000, 1_000_000, 10_000_000];
/// The number of entries before a deep page.
const DEPTH: u64 = 1_000_000;
/// The number of entries in a page, with their values.
const PAGE: u32 = 100;

/// Microseconds per operation.
struct Cost {
    took: f64,
    /// The CPU time of this process, which is less affected by other work on the machine.
    cpu: f64,
}

impl Cost {
    async fn of(times: usize, work: impl Future<Output = Result<()>>) -> Result<Cost> {
        let (start, cpu) = (Instant::now(), cpu_seconds("self")?);
        work.await?;
        let each = 1e6 / times as f64;
        Ok(Cost {
            took: start.elapsed().as_secs_f64() * each,
            cpu: (cpu_seconds("self")? - cpu) * each,
        })
    }
}

/// A host over a file, and the app with many entries.
struct LargeHost {
    file: LargeFile,
    host: Host,
    app: App,
    plugin: Plugin,
}

impl LargeHost {
    async fn of(entries: u64) -> Result<LargeHost> {
        LargeHost::open(LargeFile::of(entries).await?, SqliteOptions::CACHE).await
    }

    async fn open(file: LargeFile, cache: usize) -> Result<LargeHost> {
        file.warm()?;
        let host = file.open(cache).await?;
        let app = host.app(&AppName::parse(LARGE)?).await?.context("no app")?;
        let plugin = host.load(&app, guests::wasm("sdk")).await?;
        Ok(LargeHost {
            file,
            host,
            app,
            plugin,
        })
    }

    /// A call that looks up or overwrites `times` random entries.
    fn call(&self, function: &str, times: usize) -> impl Future<Output = Result<()>> + use<> {
        let input = format!("[{times},{}]", self.file.entries);
        let call = Call::function(function).input(input);
        let (host, plugin) = (self.host.clone(), self.plugin.clone());
        async move {
            host.call(&plugin, call).await?;
            Ok(())
        }
    }

    /// The cost per operation, with `times` operations in one call.
    async fn in_one(&self, function: &str, times: usize) -> Result<Cost> {
        Cost::of(times, self.call(function, times)).await
    }

    /// The cost per operation, with `times` calls of one operation.
    async fn one_by_one(&self, function: &str, times: usize) -> Result<Cost> {
        let calls = async {
            for _ in 0..times {
                self.call(function, 1).await?;
            }
            Ok(())
        };
        Cost::of(times, calls).await
    }

    /// The cost of a durable set, with `times` sets divided among the callers.
    async fn sets(&self, callers: usize, times: usize) -> Result<Cost> {
        let each = (times / callers).max(1);
        let sets = async {
            let mut calls = JoinSet::new();
            for _ in 0..callers {
                calls.spawn(self.call("overwrite", each));
            }
            while let Some(call) = calls.join_next().await {
                call??;
            }
            Ok(())
        };
        Cost::of(callers * each, sets).await
    }

    fn list(&self, cursor: Option<Cursor>) -> Result<List> {
        Ok(List {
            cursor,
            ..List::all(Collection::parse("large")?)
        })
    }

    /// The cursor after `depth` entries.
    async fn cursor(&self, depth: u64) -> Result<Option<Cursor>> {
        let caller = Caller::new(&self.app, None);
        let (mut cursor, mut passed) = (None, 0);
        while passed < depth {
            let page = self.host.kv().list(&caller, self.list(cursor)?).await?;
            passed += page.entries.len() as u64;
            cursor = Some(page.cursor.context("the list is too short")?);
        }
        Ok(cursor)
    }

    /// Microseconds per page.
    async fn page(&self, cursor: Option<&Cursor>, times: usize) -> Result<f64> {
        let caller = Caller::new(&self.app, None);
        let start = Instant::now();
        for _ in 0..times {
            let list = List {
                limit: Some(PAGE),
                with_values: true,
                ..self.list(cursor.cloned())?
            };
            let page = self.host.kv().list(&caller, list).await?;
            anyhow::ensure!(page.entries.len() == PAGE as usize, "a page is too short");
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / times as f64)
    }
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let mut stages = Vec::new();
        for size in SIZES {
            stages.push(LargeHost::of(size / effort.divisor as u64).await?);
        }
        let (few, many) = stages.split_first().context("no store")?;
        let mut rows = Vec::new();
        for stage in many {
            rows.extend(beside(stage, few, effort).await?);
        }
        if let Some(last) = many.last() {
            rows.push(pages(last, effort).await?);
        }
        for stage in &stages {
            rows.extend(cold(stage, effort).await?);
        }
        Ok(rows)
    })
}

/// In memory, compared with the small store.
async fn beside(stage: &LargeHost, few: &LargeHost, effort: Effort) -> Result<Vec<Row>> {
    let (many, some) = (20_000 / effort.divisor, 1_000 / effort.divisor);
    // What readers cache of both.
    stage.in_one("look_up", many).await?;
    few.in_one("look_up", many).await?;
    let mut costs = [const { Vec::new() }; 4];
    for _ in 0..effort.rounds {
        let [each, calls, set, sets] = &mut costs;
        each.push((
            stage.in_one("look_up", many).await?,
            few.in_one("look_up", many).await?,
        ));
        calls.push((
            stage.one_by_one("look_up", 5 * some).await?,
            few.one_by_one("look_up", 5 * some).await?,
        ));
        set.push((stage.sets(1, some).await?, few.sets(1, some).await?));
        sets.push((stage.sets(64, many).await?, few.sets(64, many).await?));
    }
    let beside = format!("{}, vs. {}", stage.file.entries, few.file.entries);
    let (get, set) = (Some(Target::AtMost(1.3)), Some(Target::AtMost(1.5)));
    let names = [
        ("kv_get of a random key", None),
        ("call with one kv_get", get),
        ("durable set, 1 caller", set),
        ("durable set, 64 callers", set),
    ];
    let mut rows = Vec::new();
    for ((name, target), costs) in names.into_iter().zip(&costs) {
        let pairs = |part: fn(&Cost) -> f64| -> Vec<_> {
            costs.iter().map(|(a, b)| (part(a), part(b))).collect()
        };
        let name = format!("{name}, {beside}");
        rows.push(Row::pair(&name, "us", &pairs(|cost| cost.took), target));
        let cpu = pairs(|cost| cost.cpu);
        rows.push(Row::pair("its CPU time", "us", &cpu, None));
    }
    let mib = stage.file.bytes()? as f64 / f64::from(1 << 20);
    rows.push(Row::figure("the file", "MiB", mib));
    Ok(rows)
}

/// Deep in a list, compared with its first page.
async fn pages(stage: &LargeHost, effort: Effort) -> Result<Row> {
    let depth = DEPTH / effort.divisor as u64;
    let cursor = stage.cursor(depth).await?;
    let times = (500 / effort.divisor).max(10);
    let mut pairs = Vec::new();
    stage.page(cursor.as_ref(), times).await?;
    for _ in 0..effort.rounds {
        pairs.push((
            stage.page(cursor.as_ref(), times).await?,
            stage.page(None, times).await?,
        ));
    }
    let name = format!("page of {PAGE} at depth {depth}, vs. the first");
    Ok(Row::pair(&name, "us", &pairs, Some(Target::AtMost(1.1))))
}

/// After the file was evicted from the page cache.
async fn cold(stage: &LargeHost, effort: Effort) -> Result<Vec<Row>> {
    let times = (500 / effort.divisor).max(10);
    let mut rows = Vec::new();
    for (function, what) in [
        ("look_up", "call with one kv_get"),
        ("overwrite", "durable set"),
    ] {
        stage.file.cool()?;
        let mut took = Vec::with_capacity(times);
        for _ in 0..times {
            took.push(stage.in_one(function, 1).await?.took);
        }
        for (part, label) in [(0.5, "p50"), (0.99, "p99")] {
            let entries = stage.file.entries;
            let name = format!("{what}, cold, {entries} entries: {label}");
            rows.push(Row::figure(name, "us", percentile(&mut took, part)));
        }
    }
    stage.file.cool()?;
    let name = format!("first page of {PAGE}, cold, {} entries", stage.file.entries);
    rows.push(Row::figure(name, "us", stage.page(None, 1).await?));
    Ok(rows)
}
