//! A 1 MiB plugin that the host has not loaded, called by many callers at once.
//!
//! Each time the server is a new process without a cache folder. It compiles in its own
//! process, so its peak memory includes that.

use crate::Effort;
use crate::folders::folder;
use crate::http::child::Child;
use crate::http::load::Load;
use crate::http::servers;
use crate::report::{Row, Target};
use anyhow::{Result, ensure};
use kvasm::Host;
use kvasm::store::{SqliteOptions, SqliteStore};
use kvasm_tests::guests;
use std::path::Path;
use tokio::runtime::Runtime;

const CALLERS: usize = 32;
const MIB: usize = 1024 * 1024;

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    let wasm = guests::wasm("megabyte");
    ensure!(
        wasm.len() >= MIB,
        "the plugin has only {} bytes",
        wasm.len()
    );
    runtime.block_on(async {
        let folder = folder()?;
        let file = folder.path().join("bench.db");
        let options = SqliteOptions::new(&file);
        let host = Host::builder().store(SqliteStore::open(options).await?);
        servers::make_app(&host.build()?, "cold", wasm).await?;
        let (mut times, mut peaks) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds.div_ceil(2) {
            let one = start(&file, 1).await?;
            let many = start(&file, CALLERS).await?;
            times.push((many.milliseconds, one.milliseconds));
            peaks.push((many.mib, one.mib));
        }
        let name = format!("first responses of a cold 1 MiB plugin, {CALLERS} callers, vs. 1");
        let time = Row::pair(&name, "ms", &times, None);
        let name = "the same: increase of peak memory";
        let peak = Row::pair(name, "MiB", &peaks, Some(Target::AtMost(2.0)));
        // Each start has verified this.
        let loads = Row::figure("the same: loads of the plugin", "loads", 1.0);
        Ok(vec![time, peak, loads.target(Target::AtMost(1.0))])
    })
}

/// The cost of the first calls of a plugin.
struct Start {
    milliseconds: f64,
    mib: f64,
}

/// Starts a server and calls the plugin from `callers` callers at once.
async fn start(file: &Path, callers: usize) -> Result<Start> {
    let mut server = Child::on(servers::HOST, file)?;
    let load = Load::post(server.address, "/v1/apps/cold/call/steps");
    let before = server.reset_peak()?;
    let seconds = load.burst(callers).await?;
    let mib = server.peak_mib()? - before;
    let compiled = server.compiled()?;
    ensure!(
        compiled == 1,
        "with {callers} concurrent callers, the plugin was loaded {compiled} times"
    );
    Ok(Start {
        milliseconds: seconds * 1e3,
        mib,
    })
}
