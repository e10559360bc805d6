//! `cargo xtask mutants`: checks that the tests detect mutants.
//!
//! `tests/mutants.toml` lists the mutants, each with the tests that must fail with it. All of
//! them are built into one copy of the workspace, in which an environment variable selects the
//! active one; without it the copy behaves like the original. So the whole list costs one
//! build, and the product's code is not affected.

mod list;
mod runs;
mod tree;

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::process::{cargo, step, workspace};
use crate::test::{Programs, cores};
use crate::{guests, postgres};
use list::Mutant;
use runs::{MutantOutcome, Runs};

/// The options of `cargo xtask mutants`.
#[derive(Args)]
pub struct Options {
    /// Only mutants whose name contains this text; can be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Print the names and changes without building anything
    #[arg(long)]
    list: bool,
    /// Number of mutants to run in parallel [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

/// Runs the mutants.
pub fn run(options: &Options) -> Result<()> {
    let all = list::read(&workspace())?;
    let is_meant = |mutant: &Mutant| {
        let mut only = options.only.iter();
        options.only.is_empty() || only.any(|text| mutant.name.contains(text.as_str()))
    };
    let mutants: Vec<&Mutant> = all.iter().filter(|mutant| is_meant(mutant)).collect();
    ensure!(!mutants.is_empty(), "no mutant matches");
    if options.list {
        for mutant in &mutants {
            println!("{}\n    {}: {}", mutant.name, mutant.file, mutant.change());
        }
        return Ok(());
    }
    let (postgres, guests) = (postgres::find()?, guests::build()?);
    step("copying the workspace, with all mutants in it");
    let tree = workspace().join("target/mutants");
    // All mutants, so that the next selection needs no build.
    tree::write(&workspace(), &tree, &all)?;
    step("building the tests of the copy");
    let programs = build(&tree, &mutants)?;
    let runs = Runs {
        programs,
        environment: vec![
            ("KVASM_GUESTS", guests.into()),
            ("KVASM_PG_BIN", postgres.into()),
        ],
    };
    step("running the tests without a mutant");
    let all_tests = mutants.iter().flat_map(|mutant| &mutant.tests);
    runs.pass(all_tests)
        .context("without a mutant the tests must pass")?;
    step(&format!("trying {} mutants", mutants.len()));
    let start = Instant::now();
    let jobs = options.jobs.map_or_else(cores, usize::from);
    let fates = runs.try_all(&mutants, jobs)?;
    report(&mutants, &fates, start)
}

fn build(tree: &std::path::Path, mutants: &[&Mutant]) -> Result<Programs> {
    let mut command = cargo();
    // Shares the build of the workspace's dependencies, which are the same. Its own crates are
    // separate, as they have another version.
    command
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", workspace().join("target"))
        .args(["test", "--workspace", "--no-run"]);
    let mut programs: Vec<_> = mutants
        .iter()
        .flat_map(|mutant| &mutant.tests)
        .map(|test| test.program.as_str())
        .collect();
    programs.sort_unstable();
    programs.dedup();
    for program in programs {
        match list::crate_folder(program) {
            Some(_) => command.arg("--lib"),
            None => command.args(["--test", program]),
        };
    }
    Programs::built_by(&mut command).context(
        "the mutants do not compile together: the code and what it becomes must be \
         expressions of the same type",
    )
}

fn report(mutants: &[&Mutant], fates: &[MutantOutcome], start: Instant) -> Result<()> {
    let mut wrong = Vec::new();
    let (mut killed, mut excused) = (0, 0);
    for (mutant, fate) in mutants.iter().zip(fates) {
        match (fate, &mutant.lives) {
            (MutantOutcome::Killed, None) => killed += 1,
            (MutantOutcome::Survived, Some(_)) => excused += 1,
            (MutantOutcome::Survived, None) => {
                wrong.push(format!("{} survived: none of its tests fails", mutant.name))
            }
            (MutantOutcome::Killed, Some(_)) => wrong.push(format!(
                "{} was killed: remove its `lives` from the list",
                mutant.name
            )),
        }
    }
    println!(
        "{killed} of {} mutants were killed, {excused} survived as expected; {} s",
        mutants.len(),
        start.elapsed().as_secs()
    );
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}
