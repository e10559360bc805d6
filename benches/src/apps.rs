//! Many apps on one host: start-up time, memory, and the first call of a plugin.

use crate::folders::folder;
use crate::http::audit;
use crate::report::{Row, Target, median};
use crate::{Effort, memory, target};
use anyhow::{Context, Result};
use kvasm::model::{
    App, AppId, AppLimits, AppName, CursorKey, Digest, Exports, NewPlugin, Timestamp,
};
use kvasm::store::{SqliteOptions, SqliteStore, Store};
use kvasm::{Call, Host};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The typical size of a small plugin in Rust.
const PAD_BYTES: usize = 100 * 1024;

/// A module with an empty function, some data, and a unique number.
fn module(mark: usize) -> Result<Vec<u8>> {
    let pad = "x".repeat(PAD_BYTES);
    let text = format!(
        r#"(module (memory (export "memory") 4) (data (i32.const 0) "{mark:08}{pad}")
             (func (export "run") (result i32) (i32.const 0)))"#
    );
    Ok(wat::parse_str(text)?)
}

fn app(n: usize) -> Result<App> {
    Ok(App {
        id: AppId::generate(),
        name: AppName::parse(&format!("app-{n}"))?,
        created_at: Timestamp::now(),
        cursor_key: CursorKey::new([7; CursorKey::BYTES]),
        public: false,
        limits: AppLimits::default(),
        active: None,
        settings: None,
    })
}

async fn add(store: Arc<dyn Store>, app: App, wasm: Vec<u8>) -> Result<()> {
    use sha2::Digest as _;
    store.create_app(app.clone(), audit()).await?;
    let plugin = NewPlugin {
        app: app.id,
        digest: Digest(sha2::Sha256::digest(&wasm).into()),
        wasm: wasm.into(),
        exports: Exports {
            functions: vec!["run".to_owned()],
            ..Exports::default()
        },
        activate: true,
    };
    store.add_plugin(plugin, audit()).await?;
    Ok(())
}

/// Creates a store with `apps` apps, each with its own module or all with the same one.
async fn fill(file: &Path, apps: usize, distinct: bool) -> Result<()> {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(SqliteOptions::new(file)).await?);
    let shared = module(0)?;
    let mut tasks = JoinSet::new();
    for n in 0..apps {
        let wasm = if distinct { module(n)? } else { shared.clone() };
        tasks.spawn(add(Arc::clone(&store), app(n)?, wasm));
        if tasks.len() >= 128 {
            tasks.join_next().await.context("a task")???;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn open(file: &Path, cache: &Path) -> Result<Host> {
    let store = SqliteStore::open(SqliteOptions::new(file)).await?;
    let host = Host::builder().store(store).cache_dir(cache);
    Ok(host.modules(20_000).build()?)
}

async fn call(host: &Host, n: usize) -> Result<()> {
    let app = host.app(&AppName::parse(&format!("app-{n}"))?).await?;
    host.invoke(&app.context("an app")?, Call::function("run"))
        .await?;
    Ok(())
}

/// The time to the first response in milliseconds, and the memory per app in KiB.
async fn start(folder: &Path, apps: usize) -> Result<(f64, f64)> {
    let begin = Instant::now();
    let host = open(&folder.join("bench.db"), &folder.join("cache")).await?;
    call(&host, 0).await?;
    let first = begin.elapsed().as_secs_f64() * 1e3;
    let before = memory::resident_kib()?;
    for n in 0..apps {
        call(&host, n).await?;
    }
    Ok((first, (memory::resident_kib()? - before) / apps as f64))
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let mut rows = Vec::new();
        for (kind, distinct, apps) in [
            ("one module", false, 10_000),
            ("a module each", true, 1_000),
        ] {
            let apps = (apps / effort.divisor).max(20);
            let folder = folder()?;
            fill(&folder.path().join("bench.db"), apps, distinct).await?;
            // The first start compiles; the second one is measured.
            start(folder.path(), apps).await?;
            let (first, memory) = start(folder.path(), apps).await?;
            let name = format!("{apps} apps with {kind}: start to the first response");
            rows.push(Row::figure(name, "ms", first));
            let row = Row::figure(
                format!("memory of an app, {apps} with {kind}"),
                "KiB",
                memory,
            );
            rows.push(if distinct {
                row
            } else {
                row.target(Target::AtMost(64.0))
            });
        }
        rows.push(first_call(effort).await?);
        Ok(rows)
    })
}

/// The first call of a plugin compiled by another process, relative to a later call.
async fn first_call(effort: Effort) -> Result<Row> {
    let folder = folder()?;
    let (file, cache) = (folder.path().join("bench.db"), folder.path().join("cache"));
    let wasm = std::fs::read(target().join("guests/guestbook.wasm"))
        .context("`cargo xtask guests` builds it")?;
    {
        let host = open(&file, &cache).await?;
        let app = host.create_app(AppName::parse("app-0")?).await?;
        let actor = host.operator("bench");
        host.deploy(&actor, &app, wasm, true).await?;
    }
    let mut over = Vec::new();
    for _ in 0..effort.rounds {
        let host = open(&file, &cache).await?;
        let app = host
            .app(&AppName::parse("app-0")?)
            .await?
            .context("an app")?;
        let mut times = Vec::new();
        for _ in 0..3 {
            let begin = Instant::now();
            let page = Call::function("page").input(r#"{"limit":1}"#);
            host.invoke(&app, page).await?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        if let [first, .., last] = times.as_slice() {
            over.push(first - last);
        }
    }
    let row = Row::figure(
        "first call of a cached 100 KB plugin, over a warm one",
        "ms",
        median(&mut over),
    );
    Ok(row.target(Target::AtMost(5.0)))
}
