//! A store of twice the memory that its server may use: what an app whose entries are in
//! memory feels of another that reads what is not.

use super::file::{FEW, LARGE, LargeFile, SMALL};
use crate::Effort;
use crate::http::load::{Counted, Load};
use crate::http::p99;
use crate::http::servers::{Child, serve_host};
use crate::report::{Row, Target};
use anyhow::{Context, Result};
use kvasm::store::SqliteOptions;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The file that this process serves, if it serves one; and the group that it enters.
const FILE: &str = "KVASM_BENCH_LARGE";
const GROUP: &str = "KVASM_BENCH_CGROUP";

const ENTRIES: u64 = 10_000_000;
/// Entries that stay in memory when they alone are read.
const HOT: u64 = 10_000;
/// Callers of random entries.
const CALLERS: usize = 16;
/// The server's own memory, beside what it may keep of the file.
const OWN_BYTES: u64 = 64 << 20;

/// A group of processes with a limit of memory; gone with this.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

impl Group {
    /// A group at the root of the hierarchy that has memory, of version 1 or 2. Only root may.
    fn new(bytes: u64) -> Result<Group> {
        let name = format!("kvasm-bench-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        match first.is_dir() {
            true => Group::at(first.join(name), "memory.limit_in_bytes", bytes),
            false => Group::at(Path::new("/sys/fs/cgroup").join(name), "memory.max", bytes),
        }
    }

    fn at(path: PathBuf, limit: &str, bytes: u64) -> Result<Group> {
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let group = Group(path);
        let limit = group.0.join(limit);
        fs::write(&limit, bytes.to_string()).with_context(|| limit.display().to_string())?;
        Ok(group)
    }
}

/// Serves, if this process was started to. Does not return then.
pub fn serve() -> Result<()> {
    let Ok(path) = std::env::var(FILE) else {
        return Ok(());
    };
    if let Ok(group) = std::env::var(GROUP) {
        fs::write(Path::new(&group).join("cgroup.procs"), "0")?;
    }
    Runtime::new()?.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let cache = SqliteOptions::CACHE;
        let host = LargeFile::at(path).open(cache).await?;
        serve_host(&host, listener).await
    })?;
    std::process::exit(0);
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let entries = ENTRIES / effort.divisor as u64;
        let file = LargeFile::of(entries).await?;
        let group = match Group::new(OWN_BYTES + file.bytes()? / 2) {
            Ok(group) => Some(group),
            Err(why) => {
                eprintln!("NOT LIMITED: no cgroup could be made ({why}); the file is only cold");
                None
            }
        };
        // What is in memory already would not count against the group.
        file.cool()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.env(FILE, &file.path);
        if let Some(group) = &group {
            command.env(GROUP, &group.0);
        }
        let server = Child::start(command)?;
        let mut rows = Vec::new();
        for (what, of) in [("in memory", HOT.min(entries)), ("cold", entries)] {
            rows.extend(beside(&server, &format!("{CALLERS} callers, {what}"), of, effort).await?);
        }
        drop((server, group));
        Ok(rows)
    })
}

/// The small app beside callers of so many random entries of the large one.
async fn beside(server: &Child, what: &str, of: u64, effort: Effort) -> Result<Vec<Row>> {
    let load = |app: &str, of: u64| {
        let path = format!("/v1/apps/{app}/call/look_up");
        Load::post_with(server.address, &path, &format!("[1,{of}]"))
    };
    let (quiet, loud) = (load(SMALL, FEW), load(LARGE, of));
    let calls = (500 / effort.divisor).max(20);
    let time = Duration::from_millis(calls as u64 * 5);
    let (mut pairs, mut rates, mut read) = (Vec::new(), Vec::new(), Vec::new());
    loud.count(CALLERS, time).await?;
    for _ in 0..effort.rounds {
        let alone = p99(&quiet, calls).await?;
        let before = bytes_read(server)?;
        let (beside, counted) = tokio::try_join!(p99(&quiet, calls), loud.count(CALLERS, time))?;
        let Counted { rate, failed, .. } = counted;
        anyhow::ensure!(failed == 0, "{failed} answers were not 200");
        pairs.push((beside * 1e3, alone * 1e3));
        rates.push(rate);
        read.push((bytes_read(server)? - before) / rate / time.as_secs_f64() / 1024.0);
    }
    let name = format!("p99 beside {what}, beside alone");
    Ok(vec![
        Row::pair(&name, "ms", &pairs, Some(Target::AtMost(2.0))),
        Row::series(format!("calls of {what}"), "calls/s", &mut rates),
        Row::series("read from the disk for each", "KiB", &mut read),
    ])
}

/// What the server has read from the disk so far.
fn bytes_read(server: &Child) -> Result<f64> {
    let io = fs::read_to_string(format!("/proc/{}/io", server.id()))?;
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    Ok(line.context("no read_bytes")?.trim().parse()?)
}
