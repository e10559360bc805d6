//! The smallest program that embeds Kvasm: opens a store, loads a plugin for an app, and
//! calls a function.
//!
//! ```text
//! embed-minimal STORE.db PLUGIN.wasm FUNCTION [INPUT]
//! embed-minimal demo.db target/guests/counter.wasm add '{"name":"visits","by":1}'
//! ```

use anyhow::{Context, Result};
use kvasm::model::AppName;
use kvasm::store::{SqliteOptions, SqliteStore};
use kvasm::{Call, Host};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().with_context(|| format!("missing {what}"));
    let (path, file) = (next("STORE.db")?, next("PLUGIN.wasm")?);
    let function = next("FUNCTION")?;
    let input = next("INPUT").unwrap_or_default();
    let wasm = std::fs::read(&file).with_context(|| file.clone())?;

    let store = SqliteStore::open(SqliteOptions::new(path)).await?;
    // Eight instances are enough here; each reserves address space when the host is built.
    let host = Host::builder().store(store).instances(8).build()?;

    // Entries belong to an app: the plugin sees only those of `demo`.
    let name = AppName::parse("demo")?;
    let app = match host.app(&name).await? {
        Some(app) => app,
        None => host.create_app(name).await?,
    };

    let plugin = host.load(&app, wasm).await?;
    let call = Call::function(function).input(input.into_bytes());
    let response = host.call(&plugin, call).await?;
    println!("{}", String::from_utf8_lossy(&response.output));
    Ok(())
}
