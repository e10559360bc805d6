//! `cargo xtask`: the commands that developers and the CI run on this workspace.
//!
//! Steps are announced on stderr as `==> ...`. A failure says what failed and what to do about
//! it, and exits with status 1.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod apt;
mod author;
mod bench;
mod browser;
mod c_guests;
mod check;
mod console;
mod demo;
mod guests;
mod host;
mod mutants;
mod other_guests;
mod postgres;
mod process;
mod schemathesis;
mod test;
mod toolchains;
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
    /// Start a server with two apps that run one plugin, and query it with curl
    Demo {
        /// Exit once everything was shown and found correct
        #[arg(long)]
        check: bool,
    },
    /// Build everything that the tests need, then run all tests
    ///
    /// The test programs run in parallel. Arguments are passed to `cargo test`, which then runs
    /// the tests that they select.
    Test(test::Options),
    /// Check formatting, lints, dependencies, features and documentation
    Check {
        /// Only these parts
        parts: Vec<check::Part>,
    },
    /// Inject mutants into a copy of the code and check that the tests fail
    ///
    /// The mutants are listed in `tests/mutants.toml`. Each must still apply to the code, and
    /// make at least one of its tests fail.
    Mutants(mutants::Options),
    /// Build the example and test plugins into `target/guests`
    Guests,
    /// Update the libraries of the console in host/server/console/vendor from npm
    Console,
    /// Measure how long the author of a plugin waits: for the first answer, the first tests, a change
    Author,
    /// Run the benchmarks in release mode; arguments are passed to them
    ///
    /// `cargo xtask bench -- --help` lists them, and the variables for the programs of peers.
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
        Task::Console => console::run(),
        Task::Author => author::run(),
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
