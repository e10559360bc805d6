//! A server process: this program in one of its roles, or a peer's program.

use crate::folders::folder;
use crate::large::cgroup::GROUPS;
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The variable with the role of a server process.
pub const ROLE: &str = "KVASM_BENCH_SERVER";
/// The variable with the database it uses, if it is on Postgres.
pub const POSTGRES: &str = "KVASM_BENCH_POSTGRES";
/// The variable with the SQLite file that it uses otherwise.
pub const FILE: &str = "KVASM_BENCH_FILE";
/// The timeout for the start of a peer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server process. On drop it is stopped, and its folder is removed.
pub struct Child {
    process: Process,
    pub address: SocketAddr,
    /// The pipes of a process of this program, which exits when they are closed.
    pipes: Option<(ChildStdin, BufReader<ChildStdout>)>,
    _folder: Option<TempDir>,
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Child {
    /// Starts this program in a role, over a new file.
    pub fn own(role: &str) -> Result<Child> {
        let folder = folder()?;
        let mut child = Child::on(role, &folder.path().join("bench.db"))?;
        child._folder = Some(folder);
        Ok(child)
    }

    /// Starts this program in a role, over an existing file.
    pub fn on(role: &str, file: &Path) -> Result<Child> {
        Child::within(role, file, "")
    }

    /// Like [`on`](Child::on), within the [`GROUPS`] of these paths.
    pub fn within(role: &str, file: &Path, groups: &str) -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(FILE, file).env(GROUPS, groups);
        Child::start(command, role)
    }

    /// Starts this program in a role, over a database that others may use too.
    pub fn postgres(role: &str, url: &str) -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(POSTGRES, url);
        Child::start(command, role)
    }

    fn start(mut command: Command, role: &str) -> Result<Child> {
        command.env(ROLE, role).stdin(Stdio::piped());
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let orders = process.stdin.take().context("no input")?;
        let mut answers = BufReader::new(process.stdout.take().context("no output")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let address = line.trim().parse();
        if address.is_err() {
            process.wait()?;
        }
        Ok(Child {
            process,
            address: address.with_context(|| format!("the server {role} did not start"))?,
            pipes: Some((orders, answers)),
            _folder: None,
        })
    }

    /// Starts a peer's program in its own folder: `command` gets that folder and a port that
    /// was just free. Waits until it listens.
    pub fn peer(
        name: &str,
        command: impl FnOnce(&Path, SocketAddr) -> Result<Command>,
    ) -> Result<Child> {
        let folder = folder()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = command(folder.path(), address)?;
        let log = folder.path().join("log");
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        let mut child = Child {
            process,
            address,
            pipes: None,
            _folder: Some(folder),
        };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = child.process.try_wait()?.is_some();
            if ended || start.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("{name} did not start: {said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(child)
    }

    /// The number of modules that the server has compiled.
    pub fn compiled(&mut self) -> Result<u64> {
        let (orders, answers) = self.pipes.as_mut().context("no server of this program")?;
        orders.write_all(b"compiled\n")?;
        let mut line = String::new();
        answers.read_line(&mut line)?;
        line.trim().parse().context("no number of modules")
    }

    /// The CPU time that the process has used so far, in user and kernel mode.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.process.id().to_string())
    }

    /// Resets the peak of resident memory to its current value, and returns that value in MiB.
    pub fn reset_peak(&self) -> Result<f64> {
        std::fs::write(self.file("clear_refs"), "5")?;
        self.peak_mib()
    }

    /// The peak of resident memory, in MiB.
    pub fn peak_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(self.file("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let figure = line.and_then(|line| line.split_whitespace().next());
        let kib: f64 = figure.context("no VmHWM")?.parse()?;
        ensure!(kib > 0.0, "the server has ended");
        Ok(kib / 1024.0)
    }

    /// The bytes that the process has read from disk so far.
    pub fn bytes_read(&self) -> Result<f64> {
        let io = std::fs::read_to_string(self.file("io"))?;
        let mut lines = io.lines();
        let line = lines.find_map(|line| line.strip_prefix("read_bytes: "));
        Ok(line.context("no read_bytes")?.trim().parse()?)
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.process.id())
    }
}

/// The CPU time that a process, or `self`, has used so far, in user and kernel mode.
pub fn cpu_seconds(process: &str) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // After the name, which may contain spaces, fields 12 and 13 are ticks of 10 ms.
    let (_, fields) = stat.rsplit_once(')').context("no stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}
