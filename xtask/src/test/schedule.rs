//! Runs test programs in parallel, starting with those that took longest the last time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::report::{failures, passed};
use crate::process::{probe, step, workspace};

/// A program that takes longer hangs, even with all cores busy.
const LIMIT: Duration = Duration::from_secs(45 * 60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A test program to run.
pub struct Job {
    name: String,
    pub command: Command,
}

impl Job {
    pub fn new(name: &str, command: Command) -> Job {
        Job {
            name: name.to_owned(),
            command,
        }
    }
}

/// A running program.
struct Running {
    name: String,
    program: OsString,
    child: Child,
    log: PathBuf,
    start: Instant,
}

/// The number of threads that this machine runs in parallel.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(2, usize::from)
}

/// The folder for the programs' output and times.
pub fn folder() -> PathBuf {
    workspace().join("target/xtask-test")
}

/// Runs all jobs, `width` in parallel, also after one has failed: one run reports all failures.
pub fn run(jobs: Vec<Job>, width: usize, folder: &Path) -> Result<()> {
    let start = Instant::now();
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let times = Times::read(folder.join("times.json"));
    let mut waiting = in_order(jobs, &times);
    let (mut running, mut taken) = (Vec::new(), times);
    let (mut failed, mut count) = (Vec::new(), 0);
    loop {
        while running.len() < width {
            let Some(job) = waiting.pop() else { break };
            running.push(begin(job, folder)?);
        }
        if running.is_empty() {
            break;
        }
        let (ended, still) = ended(running)?;
        running = still;
        for (job, status) in ended {
            match finish(&job, status) {
                Ok(tests) => count += tests,
                Err(error) => failed.push(format!("{error:#}")),
            }
            taken.0.insert(job.name, millis(job.start));
        }
        thread::sleep(POLL_INTERVAL);
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    taken.write(&folder.join("times.json"))?;
    let seconds = start.elapsed().as_secs();
    step(&format!("{count} tests passed in {seconds} s"));
    Ok(())
}

/// Jobs are taken from the end: first those without a time, then the slowest.
fn in_order(mut jobs: Vec<Job>, times: &Times) -> Vec<Job> {
    jobs.sort_by_key(|job| times.0.get(&job.name).copied().unwrap_or(u64::MAX));
    jobs
}

fn begin(mut job: Job, folder: &Path) -> Result<Running> {
    let (name, program) = (job.name, job.command.get_program().to_owned());
    let log = folder.join(format!("{}.log", name.replace(['(', ')', ' '], "_")));
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let child = job
        .command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start the tests of {name}"))?;
    let start = Instant::now();
    Ok(Running {
        name,
        program,
        child,
        log,
        start,
    })
}

type Ended = Vec<(Running, ExitStatus)>;

/// Splits the jobs into finished and running ones.
fn ended(running: Vec<Running>) -> Result<(Ended, Vec<Running>)> {
    let (mut ended, mut still) = (Vec::new(), Vec::new());
    for mut job in running {
        match job.child.try_wait()? {
            Some(status) => ended.push((job, status)),
            None if job.start.elapsed() > LIMIT => {
                job.child.kill()?;
                let status = job.child.wait()?;
                ended.push((job, status));
            }
            None => still.push(job),
        }
    }
    Ok((ended, still))
}

/// Returns how many tests passed, or an error with the failed tests after printing the output.
fn finish(job: &Running, status: ExitStatus) -> Result<u64> {
    let printed = fs::read(&job.log)?;
    let printed = String::from_utf8_lossy(&printed);
    let seconds = job.start.elapsed().as_secs_f64();
    let name = &job.name;
    if !status.success() {
        println!("{printed}");
        // For a cargo job, `--list` prints cargo's commands, and no test is found.
        let all = probe(Command::new(&job.program).arg("--list")).unwrap_or_default();
        bail!("{name} ({status}): {}", failures(&printed, &all));
    }
    let tests = passed(&printed);
    println!("{name:<24} {tests:>4} passed in {seconds:>5.1} s");
    Ok(tests)
}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// How long each program took the last time, in milliseconds. Only affects the order.
struct Times(BTreeMap<String, u64>);

impl Times {
    /// Reads a file; empty if the file is missing or damaged.
    fn read(file: PathBuf) -> Times {
        let bytes = fs::read(file).unwrap_or_default();
        Times(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn write(&self, file: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.0)?;
        fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job::new(name, command)
    }

    fn own_folder(name: &str) -> PathBuf {
        let name = format!("kvasm-xtask-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn jobs_without_a_time_start_first_then_the_slowest() {
        let times = [("a", 5), ("b", 7)].map(|(name, ms)| (name.to_owned(), ms));
        let jobs = ["b", "new", "a"].map(|name| shell(name, "true"));
        let order = in_order(jobs.into(), &Times(times.into()));
        let names: Vec<_> = order.iter().rev().map(|job| job.name.as_str()).collect();
        assert_eq!(names, ["new", "b", "a"]);
    }

    /// Each waits for a file of the other.
    #[test]
    fn two_jobs_run_in_parallel() {
        let folder = own_folder("two");
        let wait = |own: &str, other: &str| {
            let folder = folder.display();
            format!("touch {folder}/{own}; until [ -e {folder}/{other} ]; do sleep 0.01; done")
        };
        let jobs = [("first", wait("a", "b")), ("second", wait("b", "a"))];
        let jobs = jobs.map(|(name, script)| shell(name, &script));
        run(jobs.into(), 2, &folder).unwrap();
        let times = Times::read(folder.join("times.json"));
        assert_eq!(times.0.len(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn one_run_reports_all_failures() {
        let said = |test: &str| format!("printf 'failures:\\n    {test}\\n'; exit 101");
        let jobs = ["a::b", "c::d"].map(|test| shell(&test.replace(':', ""), &said(test)));
        let folder = own_folder("failure");
        let error = run(jobs.into(), 1, &folder).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert!(error.contains("ab (") && error.contains("a::b"), "{error}");
        assert!(error.contains("cd (") && error.contains("c::d"), "{error}");
    }
}
