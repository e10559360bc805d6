//! Installs Debian packages where that is possible without a prompt.

use std::process::{Command, Stdio};

use crate::process::{find_program, probe, step};

/// Installs packages with apt-get, only as root. An error says why they were not installed.
pub fn install(packages: &[&str]) -> Result<(), String> {
    if find_program("apt-get").is_none() {
        return Err("apt-get is not available".to_owned());
    }
    if probe(Command::new("id").arg("-u"))? != "0" {
        return Err("only root can install packages".to_owned());
    }
    step(&format!("installing {} with apt-get", packages.join(" ")));
    // A stale package list refers to versions that the mirror has dropped, so it is updated
    // first. An unreachable source is not fatal: the packages may come from another one.
    if let Err(why) = apt_get(&["update"]) {
        eprintln!("    {why}; continuing with the current lists");
    }
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend_from_slice(packages);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command
        .args([
            "-q",
            "-o",
            "Acquire::Retries=2",
            "-o",
            "Acquire::http::Timeout=30",
        ])
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    let what = format!("`apt-get {}`", arguments.join(" "));
    // Redirects its output to stderr with the shell: stdout is for results.
    let status = command
        .stdout(std::io::stderr())
        .status()
        .map_err(|error| format!("cannot start {what}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{what} failed ({status})"))
    }
}
