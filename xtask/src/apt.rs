//! Installing Debian packages where that is possible without asking anyone.

use std::process::{Command, Stdio};

use crate::process::{find_program, probe, step};

/// Installs packages with apt-get. It does so only as root, and says why it did not otherwise.
pub fn install(packages: &[&str]) -> Result<(), String> {
    if find_program("apt-get").is_none() {
        return Err("there is no apt-get on this machine".to_owned());
    }
    if probe(Command::new("id").arg("-u"))? != "0" {
        return Err("only root can install packages".to_owned());
    }
    step(&format!("installing {} with apt-get", packages.join(" ")));
    // An old package list asks for versions that the mirror has dropped, so it is renewed first.
    // A source that cannot be reached is no reason to stop: the packages may come from another.
    if let Err(why) = apt_get(&["update"]) {
        eprintln!("    {why}; going on with the present lists");
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
    // Its log goes to stderr by way of the shell's own descriptor: stdout is for results.
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
