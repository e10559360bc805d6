//! Checks the minimum compiler version: where it is declared, and whether it can build.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::process::{cargo, output, probe, run as run_command, step, workspace};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    rust_version: Option<String>,
}

/// Files that mention the minimum compiler version, each with the preceding text.
const NAMED: &[(&str, &str)] = &[
    ("CONTRIBUTING.md", "Rust "),
    (".github/workflows/ci.yml", "toolchain: \""),
];

/// Checks that every package declares the same minimum version, that documents and the CI
/// mention it, and that the workspace builds with it, if it is installed.
pub fn run() -> Result<()> {
    step("minimum compiler version");
    let declared = declared()?;
    for (path, before) in NAMED {
        let text =
            fs::read_to_string(workspace().join(path)).with_context(|| (*path).to_owned())?;
        let named = format!("{before}{declared}");
        ensure!(
            text.contains(&named),
            "{path} does not contain {named:?}, the declared rust-version"
        );
    }
    build(&declared)
}

/// The version that all packages declare, including the examples.
fn declared() -> Result<String> {
    let mut found: Option<String> = None;
    for folder in ["", "examples"] {
        let mut command = cargo();
        command.current_dir(workspace().join(folder));
        let text = output(command.args(["metadata", "--no-deps", "--format-version=1"]))?;
        let metadata: Metadata = serde_json::from_str(&text).context("reading cargo's metadata")?;
        for Package { name, rust_version } in metadata.packages {
            let Some(version) = rust_version else {
                bail!("the package {name} declares no rust-version");
            };
            let first = found.get_or_insert_with(|| version.clone());
            ensure!(
                *first == version,
                "{name} declares Rust {version}, others {first}"
            );
        }
    }
    found.context("no packages found")
}

fn build(declared: &str) -> Result<()> {
    let active = output(Command::new("rustc").arg("--version"))?;
    if is_of(&active, declared) {
        step(&format!("Rust {declared} is the active toolchain"));
        return Ok(());
    }
    let run = ["run", declared, "rustc", "--version"];
    match probe(Command::new("rustup").args(run)) {
        Ok(_) => {
            let mut command = Command::new("rustup");
            command.args(["run", declared, "cargo", "check", "--workspace"]);
            command.arg("--target-dir").arg("target/oldest-compiler");
            run_command(command.current_dir(workspace()))
        }
        Err(why) => {
            step(&format!("SKIPPED the build with Rust {declared}: {why}"));
            Ok(())
        }
    }
}

/// Reports whether the output of `rustc --version` matches the declared version, ignoring the
/// patch level.
fn is_of(version: &str, declared: &str) -> bool {
    let number = version.split(' ').nth(1).unwrap_or_default();
    number == declared || number.starts_with(&format!("{declared}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patch_versions_are_ignored() {
        assert!(is_of("rustc 1.95.0 (59807616e 2026-04-14)", "1.95"));
        assert!(is_of("rustc 1.95.2", "1.95.2"));
        assert!(!is_of("rustc 1.96.0", "1.95"));
        assert!(!is_of("rustc 1.950.0", "1.95"));
    }
}
