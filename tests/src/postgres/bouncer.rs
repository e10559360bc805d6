//! A PgBouncer in front of a cluster.

use super::system::{Account, as_account, free_port};
use super::{Cluster, POLL_INTERVAL, ROLE, START_LIMIT};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Instant;
use tempfile::TempDir;

/// Stops the pooler when the test process closes its end of stdin.
const SUPERVISOR: &str = r#""$0" "$1" & read -r _; kill "$!"; wait "$!""#;

/// What a client has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    Session,
    Transaction,
    Statement,
}

impl PoolMode {
    fn word(self) -> &'static str {
        match self {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        }
    }
}

/// A PgBouncer with minimal settings. Dropping it stops it.
pub struct Bouncer {
    port: u16,
    supervisor: Child,
    orders: Option<ChildStdin>,
    _folder: TempDir,
}

impl Bouncer {
    /// Starts a PgBouncer, with `more` lines of configuration. Returns `None`, and prints why,
    /// if PgBouncer is not installed.
    pub fn start(cluster: &Cluster, mode: PoolMode, more: &str) -> Result<Option<Bouncer>> {
        let Some(program) = program() else {
            eprintln!("SKIPPED: pgbouncer is not installed; run `apt-get install pgbouncer`");
            return Ok(None);
        };
        let folder = tempfile::Builder::new()
            .prefix("kvasm-bouncer-")
            .tempdir()?;
        let account = Account::for_server()?;
        let port = free_port()?;
        let file = folder.path().join("pgbouncer.ini");
        let server = cluster.port();
        let word = mode.word();
        let configuration = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user={ROLE}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {word}\n{more}\n"
        );
        fs::write(&file, configuration)?;
        if let Some(account) = account {
            for path in [folder.path(), &file] {
                chown(path, Some(account.user), Some(account.group))?;
            }
        }
        let log = fs::File::create(folder.path().join("log"))?;
        let mut command = as_account(Command::new("sh"), account, folder.path());
        command.args(["-c", SUPERVISOR]).arg(program).arg(&file);
        command.process_group(0).stdin(Stdio::piped());
        command.stdout(log.try_clone()?).stderr(log);
        let mut supervisor = command.spawn().context("cannot start `sh`")?;
        let orders = supervisor.stdin.take();
        let bouncer = Bouncer {
            port,
            supervisor,
            orders,
            _folder: folder,
        };
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if start.elapsed() > START_LIMIT {
                let log = fs::read_to_string(bouncer._folder.path().join("log"))?;
                bail!("pgbouncer does not answer; its log:\n{log}");
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(Some(bouncer))
    }

    /// Returns the URL of a database through the pooler.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        drop(self.orders.take());
        // An error here is of no use to a test that ends.
        let _ = self.supervisor.wait();
    }
}

/// Debian's folder for it is not in every PATH.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("pgbouncer"));
    let usual = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
    let usual = usual.into_iter().map(|path| Path::new(path).to_owned());
    in_path.chain(usual).find(|path| path.is_file())
}
