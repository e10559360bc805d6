//! `cargo xtask check`: formatting, lints, features and documentation of all Rust code, and its
//! dependencies.

mod deny;
mod features;
mod versions;
mod words;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::guests::{guest_folders, relative};
use crate::process::{cargo, run as run_command, step, workspace};
use crate::wasm_std::guest_cargo;

pub use features::as_compiler;

/// A part of the checks.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Part {
    /// Formatting
    Format,
    /// Declared minimum compiler version
    Versions,
    /// Words with a plainer alternative, and typos
    Words,
    /// Licences, versions and advisories of dependencies
    Deny,
    /// Lints
    Clippy,
    /// Each feature alone
    Features,
    /// Documentation
    Docs,
}

/// Runs the parts, or every part if none is named; stops at the first that fails.
pub fn run(parts: &[Part]) -> Result<()> {
    let all = Part::value_variants();
    for part in if parts.is_empty() { all } else { parts } {
        match part {
            Part::Format => format()?,
            Part::Versions => versions::run()?,
            Part::Words => words::run()?,
            Part::Deny => deny::run()?,
            Part::Clippy => clippy()?,
            Part::Features => features::run()?,
            Part::Docs => docs()?,
        }
    }
    Ok(())
}

fn format() -> Result<()> {
    step("formatting");
    let hint = "run `cargo fmt --all`, also inside examples and tests/guests";
    run_command(cargo().args(["fmt", "--all", "--check"])).context(hint)?;
    for folder in guest_workspaces() {
        let mut command = guest_cargo(&folder);
        run_command(command.args(["fmt", "--all", "--check"])).context(hint)?;
    }
    let hint = "run `rustfmt --edition 2024 fuzz/fuzz_targets/*.rs`";
    run_command(rustfmt_on_fuzz_targets()?.arg("--check")).context(hint)
}

/// `fuzz` is a workspace whose dependencies may be missing, so rustfmt formats it without
/// cargo.
fn rustfmt_on_fuzz_targets() -> Result<Command> {
    let folder = workspace().join("fuzz/fuzz_targets");
    let mut command = Command::new("rustfmt");
    command.args(["--edition", "2024"]);
    for entry in folder.read_dir().with_context(|| relative(&folder))? {
        command.arg(entry?.path());
    }
    Ok(command)
}

fn clippy() -> Result<()> {
    step("clippy on the workspace");
    run_command(deny_warnings(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
    ])))?;
    for folder in guest_workspaces() {
        step(&format!("clippy on {}", relative(&folder)));
        let mut command = guest_cargo(&folder);
        command.args(["clippy", "--workspace", "--all-targets", "--target-dir"]);
        command.arg(workspace().join("target/examples-native"));
        run_command(deny_warnings(&mut command))?;
    }
    Ok(())
}

fn docs() -> Result<()> {
    step("documentation");
    let mut command = cargo();
    command.args(["doc", "--workspace", "--no-deps"]);
    run_command(command.env("RUSTDOCFLAGS", "-Dwarnings"))
}

fn deny_warnings(command: &mut Command) -> &mut Command {
    command.args(["--", "-D", "warnings"])
}

/// The guests are workspaces of their own, which `--workspace` does not include.
fn guest_workspaces() -> impl Iterator<Item = PathBuf> {
    guest_folders()
        .into_iter()
        .filter(|folder| folder.join("Cargo.toml").is_file())
}
