//! Postgres clusters that live exactly as long as a test process.
//!
//! A cluster is a fresh data directory in a temporary folder and a server on a free port of
//! 127.0.0.1, run by a user other than root. The server is a child of a small shell script, the
//! supervisor, whose stdin is a pipe held by the test process. When that pipe closes, even by
//! `kill -9` of the process, the supervisor stops the server and removes the folder.

use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvasm::store::PostgresOptions;
use tempfile::TempDir;

pub use bouncer::{Bouncer, PoolMode};
pub use session::Session;
use system::{Account, Installation, as_account, children_of, free_port, kill, output};

mod bouncer;
mod certificate;
mod session;
mod system;
#[cfg(test)]
mod tests;

/// The options of a store for tests: they run concurrently on one small server, and on a busy machine
/// a long wait is not a failure.
pub fn store_options(url: impl Into<String>) -> PostgresOptions {
    let mut options = PostgresOptions::new(url);
    options.max_connections = 8;
    options.acquire_timeout = Duration::from_secs(60);
    options.statement_timeout = Duration::from_secs(60);
    options
}

/// The only role of a cluster: a superuser, trusted without a password.
const ROLE: &str = "postgres";
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(25);
const PORT_ATTEMPTS: u32 = 10;

/// Each line on stdin starts the server once; the end of stdin stops everything. `pid` and
/// `exited` report the last start to the test process. The server is killed in a loop because a
/// signal is lost if it arrives while the server is still installing its handlers. The folder
/// is removed in a loop because a program that is still running may be creating files in it.
const SUPERVISOR: &str = r#"
dir=$1; shift; started=
while read -r order; do
    started=yes
    (
        sh -c 'echo $$ >"$0/pid.new" && mv "$0/pid.new" "$0/pid" && exec "$@"' "$dir" "$@" \
            </dev/null >>"$dir/server.log" 2>&1
        echo $? >"$dir/exited"
    ) &
done
signal=QUIT; tries=0
while [ -n "$started" ] && [ ! -e "$dir/exited" ]; do
    read -r pid 2>/dev/null <"$dir/pid" && kill -s "$signal" "$pid" && kill -s CONT "$pid"
    tries=$((tries + 1)); [ "$tries" -lt 100 ] || signal=KILL
    sleep 0.1
done 2>/dev/null
cd /; tries=0
until rm -rf "$dir" || [ "$tries" -ge 50 ]; do tries=$((tries + 1)); sleep 0.1; done 2>/dev/null
"#;

/// The settings of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether commits reach the disk before they are acknowledged (`fsync`). Without it a
    /// cluster is faster, and still survives a kill of the server but not a crash of the
    /// machine.
    pub durable: bool,
    /// Additional settings of the server, each `name=value`.
    pub settings: &'static [&'static str],
    /// Whether it accepts encrypted connections, with a self-signed certificate of X.509
    /// version 1.
    pub tls: bool,
}

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ends sessions and writes a checkpoint, so that nothing needs recovery.
    Fast,
    /// Aborts at once; the next start recovers from the log.
    Immediate,
}

impl Stop {
    fn mode(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// One Postgres server with its own data. Dropping it stops and removes it.
pub struct Cluster {
    installation: Installation,
    account: Option<Account>,
    folder: TempDir,
    port: u16,
    supervisor: Child,
    /// `Some` until the cluster is dropped; closing it stops the supervisor.
    orders: Option<ChildStdin>,
}

impl Cluster {
    /// Creates a cluster and waits until it accepts connections. Fails after a minute, or at
    /// once if the server exits; the error includes the server's log.
    pub fn start(options: Options) -> Result<Self> {
        let installation = Installation::find()?;
        let account = Account::for_server()?;
        let mut attempts_left = PORT_ATTEMPTS;
        loop {
            attempts_left -= 1;
            match Self::start_on(free_port()?, options, &installation, account) {
                // Another process may take the port between the check and the start.
                Err(error) if port_was_taken(&error) && attempts_left > 0 => {}
                result => return result,
            }
        }
    }

    fn start_on(
        port: u16,
        options: Options,
        installation: &Installation,
        account: Option<Account>,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("kvasm-postgres-")
            .tempdir()
            .context("cannot create a temporary folder")?;
        if let Some(account) = account {
            chown(folder.path(), Some(account.user), Some(account.group)).with_context(|| {
                format!("cannot change the owner of {}", folder.path().display())
            })?;
        }

        let mut command = as_account(Command::new("sh"), account, folder.path());
        command
            .args(["-c", SUPERVISOR, "kvasm-postgres-supervisor"])
            .arg(folder.path());
        command
            .arg(installation.program("postgres"))
            .args(server_arguments(folder.path(), port, options));
        // In its own process group, so that Ctrl-C does not kill the script before it has
        // cleaned up.
        command.process_group(0).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut supervisor = command.spawn().context("cannot start `sh`")?;
        let orders = supervisor.stdin.take();
        let installation = installation.clone();
        let mut cluster = Self {
            installation,
            account,
            folder,
            port,
            supervisor,
            orders,
        };
        if options.tls {
            certificate::make(&cluster)?;
        }
        // The supervisor is already running, so that a kill during this step leaves nothing
        // behind.
        cluster.init_data()?;
        cluster.launch()?;
        Ok(cluster)
    }

    /// Returns the URL of a database of this cluster. `postgres` always exists.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port, which never changes.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL in a database with psql and returns its output: a line per row, columns
    /// separated by `|`. Stops at the first error.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = self.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        output(
            command
                .arg("-d")
                .arg(self.url(database))
                .env("PGCONNECT_TIMEOUT", "10"),
        )
    }

    /// Creates an empty database.
    pub fn create_database(&self, name: &str) -> Result<()> {
        self.psql("postgres", &format!("CREATE DATABASE \"{name}\""))
            .map(|_| ())
    }

    /// Stops the server and keeps its data.
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        let mut command = self.command("pg_ctl");
        command
            .args(["stop", "-w", "-t"])
            .arg(STOP_LIMIT.as_secs().to_string());
        command.args(["-m", how.mode(), "-D"]).arg(self.data());
        output(&mut command)?;
        self.wait_for_exit()
    }

    /// Starts the server again with the same port and data. A running server is stopped first,
    /// with [`Stop::Fast`].
    pub fn restart(&mut self) -> Result<()> {
        if self.is_running() {
            self.stop(Stop::Fast)?;
        }
        self.launch()
    }

    /// Kills the server and all its processes with SIGKILL, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        let server = fs::read_to_string(self.file("pid")).context("the server has no pid file")?;
        let server = server.trim().to_owned();
        // While stopped, it cannot start or reap processes during the count.
        kill("STOP", std::slice::from_ref(&server))?;
        let children = children_of(&server)?;
        kill("KILL", std::slice::from_ref(&server))?;
        // A process that has already ended is fine.
        let _ = kill("KILL", &children);
        self.wait_for_exit()
    }

    /// Limits the size of the files that the server's processes write, in bytes; `None` removes
    /// the limit. A write beyond it fails as on a full disk, if the limit is not a multiple of
    /// the page size. Log segments have 16 MiB.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let server = fs::read_to_string(self.file("pid")).context("the server has no pid file")?;
        let server = server.trim().to_owned();
        // Before the children are listed, as each inherits the limits of the server.
        let soft = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let limit = |process: &str| {
            let command = Command::new("prlimit");
            // Root may lack the capability to do it for other users.
            let mut command = as_account(command, self.account, self.folder.path());
            output(command.args(["--pid", process, &format!("--fsize={soft}:")]))
        };
        limit(&server)?;
        for child in children_of(&server)? {
            // A process that has ended in the meantime needs no limit.
            let _ = limit(&child);
        }
        Ok(())
    }

    /// Creates a tablespace in an empty folder, whose owner becomes the server's account.
    pub fn create_tablespace(&self, name: &str, folder: &Path) -> Result<()> {
        if let Some(account) = self.account {
            chown(folder, Some(account.user), Some(account.group))
                .with_context(|| format!("cannot change the owner of {}", folder.display()))?;
        }
        let sql = format!(
            "CREATE TABLESPACE \"{name}\" LOCATION '{}'",
            folder.display()
        );
        self.psql("postgres", &sql).map(|_| ())
    }

    /// Reports whether the server process is running.
    pub fn is_running(&self) -> bool {
        self.file("pid").exists() && !self.file("exited").exists()
    }

    fn init_data(&self) -> Result<()> {
        let mut command = self.command("initdb");
        command.args([
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
            "--no-instructions",
        ]);
        // The default collation is not bytewise, as on most real servers: a schema that forgets
        // COLLATE "C" fails here, not in production.
        command.args(["--locale=C", "--locale-provider=icu", "--icu-locale=en-US"]);
        command
            .arg(format!("--username={ROLE}"))
            .arg("-D")
            .arg(self.data());
        output(&mut command).map(|_| ())
    }

    fn launch(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            // Removed here, not by the supervisor, so that no stale answer is read.
            for name in ["pid", "exited", "server.log"] {
                // Absent at the first start.
                let _ = fs::remove_file(self.file(name));
            }
            let orders = self
                .orders
                .as_mut()
                .context("the supervisor has no stdin")?;
            orders
                .write_all(b"start\n")
                .context("the supervisor of Postgres has exited")?;
            match self.wait_until_ready(start) {
                // The processes of a killed server release its memory a moment later.
                Err(error)
                    if error
                        .to_string()
                        .contains("pre-existing shared memory block")
                        && start.elapsed() < START_LIMIT =>
                {
                    thread::sleep(POLL_INTERVAL);
                }
                result => return result,
            }
        }
    }

    fn wait_until_ready(&self, start: Instant) -> Result<()> {
        loop {
            if self.file("exited").exists() {
                bail!("postgres did not start; its log:\n{}", self.log());
            }
            if self.is_accepting() && self.psql("postgres", "SELECT 1").is_ok() {
                return Ok(());
            }
            if start.elapsed() > START_LIMIT {
                let limit_s = START_LIMIT.as_secs();
                bail!(
                    "postgres does not accept connections after {limit_s} s; its log:\n{}",
                    self.log()
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Reads the state that the server writes to the last line of its lock file. Any process
    /// may listen on the port, but only this one writes the file.
    fn is_accepting(&self) -> bool {
        fs::read_to_string(self.data().join("postmaster.pid"))
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "ready"))
    }

    fn wait_for_exit(&self) -> Result<()> {
        let start = Instant::now();
        while !self.file("exited").exists() {
            if start.elapsed() > STOP_LIMIT {
                bail!(
                    "postgres still runs after {} s:\n{}",
                    STOP_LIMIT.as_secs(),
                    self.log()
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let program = Command::new(self.installation.program(program));
        as_account(program, self.account, self.folder.path())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.file("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("server.log")).unwrap_or_else(|_| "(no log)".to_owned())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The supervisor cleans up, as it would for a killed test process.
        drop(self.orders.take());
        let start = Instant::now();
        while matches!(self.supervisor.try_wait(), Ok(None)) && start.elapsed() < STOP_LIMIT {
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// The cluster shared by the tests of this process: not durable, started by the first call. If
/// it cannot be started, every call panics with the reason, since no test that needs it can
/// continue.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let cluster = SHARED.get_or_init(|| {
        Cluster::start(Options {
            durable: false,
            ..Options::default()
        })
        .map_err(|error| format!("{error:#}"))
    });
    match cluster {
        Ok(cluster) => cluster,
        Err(why) => panic!("no Postgres for the tests: {why}"),
    }
}

/// Creates an empty database on the shared cluster and returns its URL. Panics like [`shared`].
pub fn fresh_database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let cluster = shared();
    match cluster.create_database(&name) {
        Ok(()) => cluster.url(&name),
        Err(error) => panic!("no database for a test: {error:#}"),
    }
}

fn server_arguments(folder: &Path, port: u16, options: Options) -> Vec<String> {
    let mut settings = vec![
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", folder.display()),
        "max_connections=200".to_owned(),
        "shared_buffers=64MB".to_owned(),
    ];
    settings.extend(options.settings.iter().map(|&setting| setting.to_owned()));
    if options.tls {
        settings.push("ssl=on".to_owned());
        for (setting, file) in [
            ("ssl_cert_file", certificate::CERTIFICATE),
            ("ssl_key_file", certificate::KEY),
        ] {
            settings.push(format!("{setting}={}", folder.join(file).display()));
        }
    }
    if !options.durable {
        settings.extend(["fsync=off", "full_page_writes=off"].map(str::to_owned));
    }
    let mut arguments = vec!["-p".to_owned(), port.to_string(), "-D".to_owned()];
    arguments.push(folder.join("data").display().to_string());
    arguments.extend(
        settings
            .into_iter()
            .flat_map(|setting| ["-c".to_owned(), setting]),
    );
    arguments
}

fn port_was_taken(error: &anyhow::Error) -> bool {
    error.to_string().contains("Address already in use")
}
