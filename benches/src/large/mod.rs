//! Stores with many entries: what a get, a durable set and a page cost there beside a store
//! with 10,000, in memory and cold. In calls within this process, of a plugin of the SDK.

pub mod cache;
pub mod cgroup;
mod file;

use crate::Effort;
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

/// Entries of the stores; the first is what the others are beside.
const SIZES: [u64; 3] = [10_000, 1_000_000, 10_000_000];
/// Entries before a page that is deep in its list.
const DEPTH: u64 = 1_000_000;
/// Entries of a page, with their values.
const PAGE: u32 = 100;
/// Callers of durable sets.
const CALLERS: [usize; 2] = [1, 64];

/// A host over a file, and the app with many entries.
struct Stage {
    file: LargeFile,
    host: Host,
    app: App,
    plugin: Plugin,
}

impl Stage {
    async fn of(entries: u64) -> Result<Stage> {
        Stage::open(LargeFile::of(entries).await?, SqliteOptions::CACHE).await
    }

    async fn open(file: LargeFile, cache: usize) -> Result<Stage> {
        file.warm()?;
        let host = file.open(cache).await?;
        let app = host.app(&AppName::parse(LARGE)?).await?.context("no app")?;
        let plugin = host.load(&app, guests::wasm("sdk")).await?;
        Ok(Stage {
            file,
            host,
            app,
            plugin,
        })
    }

    /// A call that looks up or overwrites so many random entries.
    fn call(&self, function: &str, times: usize) -> impl Future<Output = Result<()>> + use<> {
        let input = format!("[{times},{}]", self.file.entries);
        let call = Call::function(function).input(input);
        let (host, plugin) = (self.host.clone(), self.plugin.clone());
        async move {
            host.call(&plugin, call).await?;
            Ok(())
        }
    }

    /// Microseconds each, of so many in one call.
    async fn in_one(&self, function: &str, times: usize) -> Result<f64> {
        let start = Instant::now();
        self.call(function, times).await?;
        Ok(start.elapsed().as_secs_f64() * 1e6 / times as f64)
    }

    /// Microseconds of each call of one.
    async fn one_by_one(&self, function: &str, times: usize) -> Result<Vec<f64>> {
        let mut took = Vec::with_capacity(times);
        for _ in 0..times {
            took.push(self.in_one(function, 1).await?);
        }
        Ok(took)
    }

    /// Microseconds a durable set, of callers that each have their share of so many.
    async fn sets(&self, callers: usize, times: usize) -> Result<f64> {
        let each = (times / callers).max(1);
        let mut calls = JoinSet::new();
        let start = Instant::now();
        for _ in 0..callers {
            calls.spawn(self.call("overwrite", each));
        }
        while let Some(call) = calls.join_next().await {
            call??;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / (callers * each) as f64)
    }

    fn list(&self, cursor: Option<Cursor>) -> Result<List> {
        Ok(List {
            cursor,
            ..List::all(Collection::parse("large")?)
        })
    }

    /// The cursor behind so many entries.
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

    /// Microseconds of a page.
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
            stages.push(Stage::of(size / effort.divisor as u64).await?);
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

/// In memory, beside the store with few.
async fn beside(stage: &Stage, few: &Stage, effort: Effort) -> Result<Vec<Row>> {
    let (gets, calls) = (20_000 / effort.divisor, 1_000 / effort.divisor);
    let (mut each, mut alone, mut sets) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    // What readers keep of both.
    stage.in_one("look_up", gets).await?;
    few.in_one("look_up", gets).await?;
    for _ in 0..effort.rounds {
        each.push((
            stage.in_one("look_up", gets).await?,
            few.in_one("look_up", gets).await?,
        ));
        let mean = |took: Vec<f64>| took.iter().sum::<f64>() / took.len() as f64;
        alone.push((
            mean(stage.one_by_one("look_up", calls).await?),
            mean(few.one_by_one("look_up", calls).await?),
        ));
        for (callers, sets) in CALLERS.into_iter().zip(&mut sets) {
            // Of many callers more, so that there are checkpoints in each round.
            let times = if callers == 1 { calls } else { gets };
            let pair = (
                stage.sets(callers, times).await?,
                few.sets(callers, times).await?,
            );
            sets.push(pair);
        }
    }
    let beside = format!(
        "{} entries, beside {}",
        stage.file.entries, few.file.entries
    );
    let (get, set) = (Some(Target::AtMost(1.3)), Some(Target::AtMost(1.5)));
    let mut rows = vec![
        Row::pair(
            &format!("kv_get of a random key, {beside}"),
            "us",
            &each,
            get,
        ),
        Row::pair(
            &format!("call with one kv_get, {beside}"),
            "us",
            &alone,
            get,
        ),
    ];
    for (callers, sets) in CALLERS.iter().zip(&sets) {
        let name = format!("durable set, {callers} callers, {beside}");
        rows.push(Row::pair(&name, "us", sets, set));
    }
    let mib = stage.file.bytes()? as f64 / f64::from(1 << 20);
    rows.push(Row::figure("the file", "MiB", mib));
    Ok(rows)
}

/// Deep in a list, beside its first page.
async fn pages(stage: &Stage, effort: Effort) -> Result<Row> {
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
    let name = format!("page of {PAGE} at depth {depth}, beside the first");
    Ok(Row::pair(&name, "us", &pairs, Some(Target::AtMost(1.1))))
}

/// When the system has forgotten the file.
async fn cold(stage: &Stage, effort: Effort) -> Result<Vec<Row>> {
    let times = (500 / effort.divisor).max(10);
    let mut rows = Vec::new();
    for (function, what) in [
        ("look_up", "call with one kv_get"),
        ("overwrite", "durable set"),
    ] {
        stage.file.cool()?;
        let mut took = stage.one_by_one(function, times).await?;
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
