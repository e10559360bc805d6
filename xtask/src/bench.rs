//! `cargo xtask bench`: the benchmarks, in release mode.

use anyhow::Result;

use crate::process::{cargo, run as run_command, step};
use crate::{guests, postgres};

/// Builds the plugins, then runs the benchmarks with `arguments`.
pub fn run(arguments: &[String]) -> Result<()> {
    let postgres = postgres::find()?;
    let guests = guests::build()?;
    step("building and running the benchmarks");
    let mut command = cargo();
    command
        .args(["run", "--release", "--package", "kvasm-benches", "--"])
        .args(arguments);
    run_command(
        command
            .env("KVASM_GUESTS", &guests)
            .env("KVASM_PG_BIN", &postgres),
    )
}
