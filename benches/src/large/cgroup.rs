//! A store twice as large as the memory of its server: how an app whose entries are in memory
//! is affected by another app that reads entries from disk.

use super::file::{FEW, LARGE, LargeFile, SMALL};
use crate::Effort;
use crate::http::child::Child;
use crate::http::load::{Load, LoadResult};
use crate::http::p99;
use crate::http::servers;
use crate::report::{Row, Target};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;

/// The variable with the paths of the cgroups that a server enters, each followed by a colon.
pub const GROUPS: &str = "KVASM_BENCH_CGROUPS";

const ENTRIES: u64 = 10_000_000;
/// Entries that stay in memory when only they are read.
const HOT: u64 = 10_000;
/// The number of callers of random entries.
const CALLERS: usize = 16;
/// Reads per second of a slow disk.
const READS: u32 = 300;
/// The server's own memory, in addition to cached parts of the file.
const OWN_BYTES: u64 = 64 << 20;

/// A cgroup with a limit; removed on drop.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

impl Group {
    /// A cgroup limited to `bytes` of memory, including the page cache.
    fn of_memory(bytes: u64) -> Result<Group> {
        Group::new(
            ("memory", "memory.limit_in_bytes", &bytes.to_string()),
            ("memory.max", &bytes.to_string()),
        )
    }

    /// A cgroup limited to `reads` reads per second from the disk of a file.
    fn of_disk(file: &Path, reads: u32) -> Result<Group> {
        let (major, minor) = device(file)?;
        Group::new(
            (
                "blkio",
                "blkio.throttle.read_iops_device",
                &format!("{major}:{minor} {reads}"),
            ),
            ("io.max", &format!("{major}:{minor} riops={reads}")),
        )
    }

    /// Creates a cgroup at the root of the controller's hierarchy, of version 1 or 2. Only root
    /// may.
    fn new(first: (&str, &str, &str), second: (&str, &str)) -> Result<Group> {
        let root = Path::new("/sys/fs/cgroup");
        let (controller, file, limit) = first;
        let (parent, (file, limit)) = match root.join(controller) {
            parent if parent.is_dir() => (parent, (file, limit)),
            _ => (root.to_owned(), second),
        };
        let path = parent.join(format!("kvasm-bench-{controller}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let group = Group(path);
        let file = group.0.join(file);
        fs::write(&file, limit).with_context(|| file.display().to_string())?;
        Ok(group)
    }
}

/// The device numbers of a file.
fn device(file: &Path) -> Result<(u64, u64)> {
    let device = std::os::unix::fs::MetadataExt::dev(&file.metadata()?);
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & !0xff);
    Ok((major, minor & 0xffff_ffff))
}

/// Moves this process into the cgroups that it was started for.
pub fn enter() -> Result<()> {
    let groups = std::env::var(GROUPS).unwrap_or_default();
    for group in groups.split_terminator(':') {
        fs::write(Path::new(group).join("cgroup.procs"), "0")?;
    }
    Ok(())
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let entries = ENTRIES / effort.divisor as u64;
        let file = LargeFile::of(entries).await?;
        let memory = Group::of_memory(OWN_BYTES + file.bytes()? / 2);
        let disk = Group::of_disk(&file.path, READS);
        let mut rows = Vec::new();
        let fast = Limited::start(&file, &[&memory])?;
        rows.extend(beside(&fast, "cold", effort).await?);
        drop(fast);
        if disk.is_ok() {
            let slow = Limited::start(&file, &[&memory, &disk])?;
            let what = format!("cold, {READS} reads/s");
            rows.extend(beside(&slow, &what, effort).await?);
        } else if let Err(why) = disk {
            eprintln!("SKIPPED: the rows of a slow disk, as no cgroup could be created: {why:#}");
        }
        Ok(rows)
    })
}

/// A server over a file, with limits.
struct Limited {
    server: Child,
    entries: u64,
}

impl Limited {
    fn start(file: &LargeFile, groups: &[&Result<Group>]) -> Result<Limited> {
        // Pages already in memory would not be charged to the group.
        file.cool()?;
        let mut paths = String::new();
        for group in groups {
            match group {
                Ok(Group(path)) => paths.push_str(&format!("{}:", path.display())),
                Err(why) => {
                    eprintln!(
                        "NOT LIMITED: no cgroup could be created, the file is only cold: {why:#}"
                    );
                }
            }
        }
        Ok(Limited {
            server: Child::within(servers::HOST, &file.path, &paths)?,
            entries: file.entries,
        })
    }

    /// Calls that each look up one random entry out of `of` of an app.
    fn load(&self, app: &str, of: u64) -> Load {
        let path = format!("/v1/apps/{app}/call/look_up");
        Load::post_with(self.server.address, &path, &format!("[1,{of}]"))
    }
}

/// Measures the small app alone, together with callers of entries in memory, and together with
/// callers of all entries, in turns.
async fn beside(limited: &Limited, what: &str, effort: Effort) -> Result<Vec<Row>> {
    let quiet = limited.load(SMALL, FEW);
    let hot = limited.load(LARGE, HOT.min(limited.entries));
    let cold = limited.load(LARGE, limited.entries);
    let calls = (500 / effort.divisor).max(20);
    let time = Duration::from_millis(calls as u64 * 5);
    let (mut to_alone, mut to_hot, mut hot_to_alone) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rates, mut read) = (Vec::new(), Vec::new());
    // Until the hot entries are in memory.
    quiet.count(CALLERS, time).await?;
    hot.count(CALLERS, 2 * time).await?;
    for _ in 0..effort.rounds.min(5) {
        let alone = p99(&quiet, calls).await? * 1e3;
        let (beside_hot, _) = tokio::try_join!(p99(&quiet, calls), hot.count(CALLERS, time))?;
        let before = limited.server.bytes_read()?;
        let (beside, counted) = tokio::try_join!(p99(&quiet, calls), cold.count(CALLERS, time))?;
        let LoadResult {
            rate,
            answers,
            failed,
        } = counted;
        anyhow::ensure!(failed == 0, "{failed} responses were not 200");
        rates.push(rate);
        read.push((limited.server.bytes_read()? - before) / answers as f64 / 1024.0);
        to_alone.push((beside * 1e3, alone));
        hot_to_alone.push((beside_hot * 1e3, alone));
        to_hot.push((beside * 1e3, beside_hot * 1e3));
    }
    let target = Some(Target::AtMost(2.0));
    let name =
        |of: &str, other: &str| format!("p99 with {CALLERS} other callers, {of}, vs. {other}");
    Ok(vec![
        Row::pair(&name(what, "alone"), "ms", &to_alone, target),
        Row::pair(&name(what, "in memory"), "ms", &to_hot, None),
        Row::pair(&name("in memory", "alone"), "ms", &hot_to_alone, None),
        Row::series(format!("calls of these, {what}"), "calls/s", &mut rates),
        Row::series("read from the disk for each", "KiB", &mut read),
    ])
}
