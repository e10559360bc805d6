//! Running other programs: step messages, errors with the command, and timeouts.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Announces a step on stderr; stdout is for results.
pub fn step(text: &str) {
    eprintln!("==> {text}");
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let crate_dir = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    crate_dir
        .parent()
        .map_or(crate_dir.clone(), Path::to_path_buf)
}

/// A cargo command of the active toolchain, in the root of the workspace.
///
/// `cargo run` sets variables that describe the xtask package. They are removed, as build
/// scripts and tests would mistake them for their own.
pub fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(workspace()).stdin(Stdio::null());
    for (name, _) in env::vars_os() {
        if describes_a_package(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn describes_a_package(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy();
    let prefixes = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
    ];
    prefixes.iter().any(|prefix| name.starts_with(prefix))
        || name == "CARGO_PRIMARY_PACKAGE"
        || name == "OUT_DIR"
}

/// Formats a command for messages, without shell quoting.
pub fn display(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Runs a command with inherited stdout and stderr. A non-zero exit status is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let text = display(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{text}`"))?;
    if !status.success() {
        bail!("`{text}` failed ({status}); see its output above");
    }
    Ok(())
}

/// Runs a command and returns its stdout as text; stderr is inherited.
pub fn output(command: &mut Command) -> Result<String> {
    let text = display(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{text}`"))?;
    if !output.status.success() {
        bail!("`{text}` failed ({}); see its output above", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{text}` printed invalid UTF-8"))
}

/// Runs a command that may fail. Returns its stdout, or the reason for the failure.
pub fn probe(command: &mut Command) -> Result<String, String> {
    let text = display(command);
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => Err(last_line(&output.stderr)
            .unwrap_or_else(|| format!("`{text}` failed ({})", output.status))),
        Err(error) => Err(format!("cannot start `{text}`: {error}")),
    }
}

/// Like [`probe`], but kills the command after `limit`.
pub fn probe_bounded(command: &mut Command, limit: Duration) -> Result<(), String> {
    let text = display(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start `{text}`: {error}"))?;
    // Read concurrently: a full pipe would block the child until the limit.
    let stderr = child.stderr.take();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stderr) = stderr {
            // A broken pipe only shortens the message.
            let _ = stderr.read_to_end(&mut bytes);
        }
        bytes
    });
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < limit => thread::sleep(Duration::from_millis(50)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", limit.as_secs()));
            }
            Err(error) => return Err(format!("cannot wait for `{text}`: {error}")),
        }
    };
    if status.success() {
        return Ok(());
    }
    let stderr = reader.join().unwrap_or_default();
    Err(last_line(&stderr).unwrap_or_else(|| format!("`{text}` failed ({status})")))
}

fn last_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().to_owned())
}

/// Finds a program in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Copies a file unless the target already has the same contents. The target is replaced
/// atomically, so a reader never sees a partial file.
pub fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let partial = to.with_extension("partial");
    fs::write(&partial, &bytes)
        .and_then(|()| fs::rename(&partial, to))
        .with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_killed_after_its_timeout() {
        let start = Instant::now();
        let error = probe_bounded(Command::new("sleep").arg("30"), Duration::from_millis(200));
        assert!(error.unwrap_err().contains("no answer"));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn failed_command_reports_its_last_line() {
        let script = "echo first >&2; echo 'the reason' >&2; exit 3";
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let error = probe_bounded(&mut command, Duration::from_secs(10)).unwrap_err();
        assert_eq!(error, "the reason");
    }

    #[test]
    fn cargo_run_variables_are_not_inherited() {
        for name in [
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "CARGO_PRIMARY_PACKAGE",
        ] {
            assert!(describes_a_package(OsStr::new(name)), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_TERM_COLOR",
            "RUSTFLAGS",
        ] {
            assert!(!describes_a_package(OsStr::new(name)), "{name}");
        }
    }
}
