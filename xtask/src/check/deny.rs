//! Checks the licences, versions and advisories of dependencies with cargo-deny and
//! `deny.toml`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process::{cargo, probe, run as run_command, step};

/// Runs cargo-deny if it is installed. Nothing is fetched: advisories are checked only if their
/// database is present.
pub fn run() -> Result<()> {
    if let Err(why) = probe(cargo().args(["deny", "--version"])) {
        step(&format!(
            "SKIPPED cargo-deny: {why}; `cargo install cargo-deny --locked` installs it"
        ));
        return Ok(());
    }
    step("cargo-deny");
    let mut command = cargo();
    command.args(["deny", "--all-features", "check", "--hide-inclusion-graph"]);
    if has_advisories() {
        command.args(["--disable-fetch", "advisories"]);
    } else {
        step("SKIPPED advisories: their database is missing; `cargo deny fetch db` fetches it");
    }
    run_command(command.args(["bans", "licenses", "sources"])).context("deny.toml has the rules")
}

/// Reports whether cargo-deny has its advisory database.
fn has_advisories() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let folder = home.map(|home| home.join("advisory-dbs"));
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    let is_folder = |entry: std::fs::DirEntry| entry.path().is_dir();
    entries.is_some_and(|mut entries| entries.any(|entry| entry.is_ok_and(is_folder)))
}
