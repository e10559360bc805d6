//! Installs Schemathesis, which tests the server against its OpenAPI document, from PyPI into
//! the target folder.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::process::{find_program, probe_bounded, step, workspace};

/// Pinned, so that the same tests are generated everywhere.
const PACKAGE: &str = "schemathesis==4.32.5";
/// The timeout of the installation.
const PATIENCE: Duration = Duration::from_secs(300);

/// Returns the path of the program. If it is not available, prints why: its test is then
/// skipped.
pub fn find() -> Option<PathBuf> {
    match installed() {
        Ok(program) => Some(program),
        Err(why) => {
            step(&format!("SKIPPED the Schemathesis test: {why}"));
            None
        }
    }
}

fn installed() -> Result<PathBuf, String> {
    let folder = workspace().join("target/schemathesis");
    let bin = folder.join("bin");
    let program = bin.join("schemathesis");
    // Written last, so that an interrupted installation is repeated.
    let mark = folder.join("installed");
    if std::fs::read_to_string(&mark).is_ok_and(|text| text == PACKAGE) && program.is_file() {
        return Ok(program);
    }
    let python = find_program("python3").ok_or("python3 is not installed")?;
    step("installing Schemathesis");
    probe_bounded(
        Command::new(python).args(["-m", "venv"]).arg(&folder),
        PATIENCE,
    )?;
    let mut install = Command::new(bin.join("python3"));
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    probe_bounded(install.args(["--retries", "1", PACKAGE]), PATIENCE)?;
    std::fs::write(&mark, PACKAGE).map_err(|error| format!("{}: {error}", mark.display()))?;
    Ok(program)
}
