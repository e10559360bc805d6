//! What a cluster needs from the machine: programs, an account, a port, signals.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use anyhow::{Context, Result, bail};

const INSTALL_HINT: &str = "the tests need Postgres 15 or later: run `cargo xtask test`, which \
     installs it where it can, or `apt-get install postgresql`, or set KVASM_PG_BIN to the folder \
     that has initdb, pg_ctl, postgres and psql";

/// The folder with the programs of one Postgres version.
#[derive(Clone)]
pub(super) struct Installation(PathBuf);

impl Installation {
    pub(super) fn find() -> Result<Self> {
        if let Some(folder) = env::var_os("KVASM_PG_BIN") {
            let folder = PathBuf::from(folder);
            if !is_complete(&folder) {
                bail!(
                    "KVASM_PG_BIN is {}: programs are missing; {INSTALL_HINT}",
                    folder.display()
                );
            }
            return Ok(Self(folder));
        }
        // A link in PATH points to the folder with all programs of one version.
        let path = env::var_os("PATH").unwrap_or_default();
        let in_path = env::split_paths(&path)
            .filter_map(|folder| folder.join("initdb").canonicalize().ok())
            .filter_map(|file| file.parent().map(Path::to_path_buf));
        in_path
            .chain(debian_folders())
            .find(|folder| is_complete(folder))
            .map(Self)
            .context(INSTALL_HINT)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn is_complete(folder: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres", "psql"]
        .iter()
        .all(|name| folder.join(name).is_file())
}

/// The folders of Debian's packages, newest version first.
fn debian_folders() -> Vec<PathBuf> {
    let mut versions: Vec<u32> = Path::new("/usr/lib/postgresql")
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions
        .into_iter()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")))
        .collect()
}

/// The user that runs a server when the tests run as root, which Postgres refuses.
#[derive(Clone, Copy)]
pub(super) struct Account {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Account {
    pub(super) fn for_server() -> Result<Option<Self>> {
        if output(Command::new("id").arg("-u"))?.trim() != "0" {
            return Ok(None);
        }
        let number = |flag: &str, name: &str| -> Result<u32> {
            Ok(output(Command::new("id").args([flag, name]))?
                .trim()
                .parse()?)
        };
        for name in ["postgres", "nobody"] {
            if let (Ok(user), Ok(group)) = (number("-u", name), number("-g", name)) {
                return Ok(Some(Self { user, group }));
            }
        }
        bail!("Postgres does not run as root, and there is no user `postgres` or `nobody`")
    }
}

/// Makes a command run as the account, in a folder that it can enter, without the caller's
/// settings for Postgres clients.
pub(super) fn as_account(mut command: Command, account: Option<Account>, folder: &Path) -> Command {
    if let Some(Account { user, group }) = account {
        command.uid(user).gid(group);
    }
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// Finds a port that nothing listens on, below the ephemeral range: a cluster must find its
/// port free at a restart.
pub(super) fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    for _ in 0..COUNT {
        // Concurrent processes start at different offsets.
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = process::id().wrapping_mul(37).wrapping_add(step) % COUNT;
        let port = u16::try_from(FIRST + offset)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {FIRST} to {}", FIRST + COUNT)
}

/// Sends a signal with the shell's built-in `kill`, which is always available.
pub(super) fn kill(signal: &str, pids: &[String]) -> Result<()> {
    let script = r#"signal=$1; shift; [ $# -eq 0 ] || kill -s "$signal" "$@""#;
    output(
        Command::new("sh")
            .args(["-c", script, "kill", signal])
            .args(pids),
    )
    .map(|_| ())
}

/// Lists the child processes of a process, with `ps` where there is no `/proc`.
pub(super) fn children_of(parent: &str) -> Result<Vec<String>> {
    let pairs = match fs::read_dir("/proc") {
        Ok(entries) => entries
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
            .collect::<Vec<_>>()
            .join("\n"),
        Err(_) => output(Command::new("ps").args(["-A", "-o", "pid=,ppid="]))?,
    };
    Ok(pairs
        .lines()
        .filter_map(|line| child_in(line, parent))
        .collect())
}

/// Returns the pid of a line `pid ppid` or `pid (name) state ppid ...` if its parent is
/// `parent`.
fn child_in(line: &str, parent: &str) -> Option<String> {
    let pid = line.split_whitespace().next()?;
    // A name may contain anything, even parentheses, so only the text after it counts.
    let found = match line.rsplit_once(')') {
        Some((_, rest)) => rest.split_whitespace().nth(1)?,
        None => line.split_whitespace().nth(1)?,
    };
    (found == parent).then(|| pid.to_owned())
}

/// Runs a command to its end. An error includes the command and its output.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args().map(OsStr::to_string_lossy) {
        text.push(' ');
        text.push_str(&argument);
    }
    let result = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{text}`; {INSTALL_HINT}"))?;
    if !result.status.success() {
        bail!(
            "`{text}` failed ({}):\n{}{}",
            result.status,
            String::from_utf8_lossy(&result.stdout),
            String::from_utf8_lossy(&result.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&result.stdout)
        .trim_end()
        .to_owned())
}
