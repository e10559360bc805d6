//! `cargo xtask check`: formatting, lints and documentation of all Rust code.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::guests::{guest_folders, relative};
use crate::process::{cargo, run as run_command, step, workspace};
use crate::wasm_std::guest_cargo;

/// Runs every check; stops at the first that fails.
pub fn run() -> Result<()> {
    step("formatting");
    let hint = "run `cargo fmt --all`, also inside examples and tests/guests";
    run_command(cargo().args(["fmt", "--all", "--check"])).context(hint)?;
    for folder in guest_workspaces() {
        let mut command = guest_cargo(&folder);
        run_command(command.args(["fmt", "--all", "--check"])).context(hint)?;
    }

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

    step("documentation");
    let mut command = cargo();
    command.args(["doc", "--workspace", "--no-deps"]);
    run_command(command.env("RUSTDOCFLAGS", "-Dwarnings"))
}

fn deny_warnings(command: &mut Command) -> &mut Command {
    command.args(["--", "-D", "warnings"])
}

/// The guests are workspaces of their own, which `--workspace` does not reach.
fn guest_workspaces() -> impl Iterator<Item = PathBuf> {
    guest_folders()
        .into_iter()
        .filter(|folder| folder.join("Cargo.toml").is_file())
}
