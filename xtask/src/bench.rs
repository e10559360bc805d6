//! `cargo xtask bench`: the benchmarks, in release mode.

use anyhow::Result;
use std::process::Command;

use crate::process::{cargo, run as run_command, step, workspace};
use crate::{guests, postgres};

/// Builds the plugins, then runs the benchmarks with `arguments`.
pub fn run(arguments: &[String]) -> Result<()> {
    let postgres = postgres::find()?;
    let guests = guests::build()?;
    step("building the benchmarks and the program");
    let packages = ["--package", "kvasm-benches", "--package", "kvasm-cli"];
    run_command(cargo().args(["build", "--release"]).args(packages))?;
    step("running the benchmarks");
    let mut command = Command::new(workspace().join("target/release/kvasm-benches"));
    run_command(
        command
            .args(arguments)
            .env("KVASM_GUESTS", &guests)
            .env("KVASM_PG_BIN", &postgres),
    )
}
