//! `cargo xtask`: the commands that a person or the CI runs on this workspace.
//!
//! Steps are announced on stderr as `==> ...`. A failure names what failed and
//! what to do about it, and ends the program with status 1.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod apt;
mod bench;
mod c_guests;
mod check;
mod demo;
mod guests;
mod host;
mod mutants;
mod postgres;
mod process;
mod schemathesis;
mod test;
mod wasm_std;

/// The commands of the Kvasm workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start a server with two apps that run one plugin, and ask it with curl.
    Demo {
        /// End when everything was shown and found right.
        #[arg(long)]
        check: bool,
    },
    /// Build everything that the tests need, then run all tests.
    ///
    /// The test programs run side by side. Arguments go to `cargo test`, which then
    /// runs what they select.
    Test(test::Options),
    /// Check formatting, lints, dependencies, features and documentation.
    Check {
        /// Only these parts.
        parts: Vec<check::Part>,
    },
    /// Put careless lines into a copy of the code and see whether the tests notice.
    ///
    /// The lines are in `tests/mutants.toml`. Each must still be in the code, and one
    /// of its tests must fail with it.
    Mutants(mutants::Options),
    /// Build the example and test plugins into `target/guests`.
    Guests,
    /// Run the benchmarks in release mode; arguments go to them.
    ///
    /// `cargo xtask bench -- --help` lists them, with the variables that name peers.
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    if let Some(compiled) = check::as_compiler() {
        return compiled;
    }
    let result = match Arguments::parse().task {
        Task::Demo { check } => demo::run(check),
        Task::Test(options) => test::run(&options),
        Task::Check { parts } => check::run(&parts),
        Task::Mutants(options) => mutants::run(&options),
        Task::Guests => guests::run(),
        Task::Bench { arguments } => bench::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not Debug: with RUST_BACKTRACE set, a backtrace would hide the reason.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
