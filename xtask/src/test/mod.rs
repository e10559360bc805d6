//! `cargo xtask test`: builds everything that the tests need, and runs all tests.
//!
//! Without arguments, the test programs of the workspace run in parallel (see `schedule.rs`),
//! as most of them spend much of their time waiting. With arguments, this runs `cargo test`
//! with them.

mod load;
mod programs;
mod report;
mod schedule;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::browser::Browser;
use crate::process::{cargo, display, run as run_command, step, workspace};
use crate::wasm_std::guest_cargo;
use crate::{guests, host, postgres, schemathesis};
use load::Load;
use schedule::Job;

pub use programs::Programs;
pub use schedule::cores;

/// The options of `cargo xtask test`.
#[derive(Args)]
pub struct Options {
    /// Run the tests this many times; stop at the first failure, and report the run and the
    /// failed tests
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Keep every core busy with a loop meanwhile
    #[arg(long)]
    under_load: bool,
    /// Number of test programs to run in parallel [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Arguments for `cargo test`, such as `--test hostile pointers`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// What the tests need from their environment.
struct TestEnvironment {
    program: PathBuf,
    guests: PathBuf,
    postgres: PathBuf,
    browser: Browser,
    /// None if it is not available.
    schemathesis: Option<PathBuf>,
}

impl TestEnvironment {
    fn find() -> Result<TestEnvironment> {
        Ok(TestEnvironment {
            postgres: postgres::find()?,
            browser: Browser::find()?,
            guests: guests::build()?,
            program: host::build()?,
            schemathesis: schemathesis::find(),
        })
    }

    fn set(&self, command: &mut Command) {
        command
            .env("KVASM_BIN", &self.program)
            .env("KVASM_GUESTS", &self.guests)
            .env("KVASM_PG_BIN", &self.postgres);
        self.browser.set(command);
        if let Some(schemathesis) = &self.schemathesis {
            command.env("KVASM_SCHEMATHESIS", schemathesis);
        }
    }
}

/// Runs the tests, as many times as requested.
pub fn run(options: &Options) -> Result<()> {
    let needs = TestEnvironment::find()?;
    if !options.arguments.is_empty() {
        step("running only the selected tests");
        // Before the load starts, so that it does not slow down the build.
        let own = options.arguments.split(|argument| argument == "--").next();
        let mut build = cargo_test(own.unwrap_or_default());
        needs.set(&mut build);
        run_command(build.arg("--no-run"))?;
        return repeat(options, || {
            let mut command = cargo_test(&options.arguments);
            needs.set(&mut command);
            selected(&mut command)
        });
    }
    step("building the tests");
    let programs = Programs::build()?;
    let jobs = options.jobs.map_or_else(cores, usize::from);
    repeat(options, || {
        let mut all: Vec<Job> = programs.iter().map(|program| program.job()).collect();
        all.extend(by_cargo());
        for job in &mut all {
            needs.set(&mut job.command);
        }
        schedule::run(all, jobs, &schedule::folder())
    })
}

fn repeat(options: &Options, mut once: impl FnMut() -> Result<()>) -> Result<()> {
    let _load = options.under_load.then(Load::start);
    let of = options.repeat;
    for number in 1..=of {
        let beside = if options.under_load {
            ", with all cores busy"
        } else {
            ""
        };
        step(&format!("testing: run {number} of {of}{beside}"));
        once().with_context(|| format!("run {number} of {of} failed"))?;
    }
    Ok(())
}

/// The tests that need cargo: doc tests, and the examples, which are a workspace of their own.
fn by_cargo() -> [Job; 2] {
    let mut documentation = cargo();
    documentation.args(["test", "--workspace", "--doc"]);
    let mut examples = guest_cargo(&workspace().join("examples"));
    // A separate target folder from the wasm32 build, which may use another compiler.
    examples
        .args(["test", "--workspace", "--target-dir"])
        .arg(workspace().join("target/examples-native"));
    [
        Job::new("documentation", documentation),
        Job::new("examples", examples),
    ]
}

fn cargo_test(arguments: &[String]) -> Command {
    let mut command = cargo();
    command.arg("test");
    // Cargo ignores `-p` together with `--workspace`.
    if !names_packages(arguments) {
        command.arg("--workspace");
    }
    command.args(arguments);
    command
}

/// Runs `cargo test` with its output shown as it is printed.
fn selected(command: &mut Command) -> Result<()> {
    let text = display(command);
    let (status, printed) = report::tee(command).with_context(|| format!("`{text}`"))?;
    if !status.success() {
        bail!(
            "`{text}` failed ({status}): {}",
            report::failures(&printed, "")
        );
    }
    Ok(())
}

fn names_packages(arguments: &[String]) -> bool {
    arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn named(arguments: &[&str]) -> bool {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        names_packages(&arguments)
    }

    #[test]
    fn package_arguments_are_recognised_only_before_the_double_dash() {
        assert!(named(&["-p", "kvasm"]));
        assert!(named(&["--package=kvasm"]));
        assert!(!named(&["conformance", "--", "--nocapture", "-p"]));
        assert!(!named(&[]));
    }

    #[test]
    fn arguments_for_cargo_start_at_the_first_unknown_one() {
        let line = ["test", "--repeat", "20", "--under-load"];
        let options = Line::try_parse_from(line).unwrap().options;
        assert_eq!((options.repeat, options.under_load), (20, true));
        assert!(options.arguments.is_empty());
        let line = [
            "test",
            "--under-load",
            "--test",
            "serve",
            "--",
            "--nocapture",
        ];
        let options = Line::try_parse_from(line).unwrap().options;
        assert_eq!((options.repeat, options.under_load), (1, true));
        assert_eq!(options.arguments, ["--test", "serve", "--", "--nocapture"]);
        assert!(Line::try_parse_from(["test", "--repeat", "0"]).is_err());
    }
}
