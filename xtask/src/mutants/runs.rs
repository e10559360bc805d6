//! Runs the tests of mutants.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::list::{Mutant, Test, crate_folder};
use super::tree::VARIABLE;
use crate::test::Programs;

/// Three times the timeout of a wait in a test. A test that takes longer has detected the
/// mutant too.
const LIMIT: Duration = Duration::from_secs(180);
/// Without a mutant, for all tests of a program.
const LIMIT_OF_ALL: Duration = Duration::from_secs(30 * 60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The result of a mutant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MutantOutcome {
    /// At least one test failed.
    Killed,
    /// No test failed.
    Survived,
}

/// How tests ended.
enum TestOutcome {
    Passed,
    Failed,
    /// Timed out, and were killed.
    Hung,
}

/// The built tests, and their environment.
pub struct Runs {
    pub programs: Programs,
    pub environment: Vec<(&'static str, OsString)>,
}

impl Runs {
    /// Runs tests without a mutant.
    ///
    /// # Errors
    /// Fails if a test fails or does not exist.
    pub fn pass<'t>(&self, tests: impl Iterator<Item = &'t Test>) -> Result<()> {
        for (program, paths) in by_program(tests) {
            match self.run(program, &paths, None, LIMIT_OF_ALL)? {
                (TestOutcome::Passed, _) => {}
                (_, printed) => bail!("tests of {program} fail without a mutant:\n{printed}"),
            }
        }
        Ok(())
    }

    /// Runs each mutant, `jobs` in parallel.
    ///
    /// # Errors
    /// Fails if a program cannot be run.
    pub fn try_all(&self, mutants: &[&Mutant], jobs: usize) -> Result<Vec<MutantOutcome>> {
        let waiting = Mutex::new(mutants.iter().enumerate());
        let next = || waiting.lock().ok()?.next();
        let work = || {
            let mut fates = Vec::new();
            while let Some((number, mutant)) = next() {
                fates.push((number, self.try_one(mutant)?));
            }
            Ok(fates)
        };
        let all: Result<Vec<_>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            let ended = workers.into_iter().map(|worker| match worker.join() {
                Ok(fates) => fates,
                Err(_) => bail!("a thread that runs tests panicked"),
            });
            ended.collect()
        });
        let mut all: Vec<_> = all?.into_iter().flatten().collect();
        all.sort_by_key(|(number, _)| *number);
        Ok(all.into_iter().map(|(_, fate)| fate).collect())
    }

    fn try_one(&self, mutant: &Mutant) -> Result<MutantOutcome> {
        let start = Instant::now();
        for (program, paths) in by_program(mutant.tests.iter()) {
            let how = match self.run(program, &paths, Some(&mutant.name), LIMIT)?.0 {
                TestOutcome::Passed => continue,
                TestOutcome::Failed => "killed",
                TestOutcome::Hung => "killed (a test hung)",
            };
            let seconds = start.elapsed().as_secs();
            println!("{how}: {} by {program}, {seconds} s", mutant.name);
            return Ok(MutantOutcome::Killed);
        }
        println!("LIVES: {}: {}", mutant.name, mutant.what);
        Ok(MutantOutcome::Survived)
    }

    /// Runs tests of a program. Returns how they ended, and their output.
    fn run(
        &self,
        program: &str,
        paths: &[&str],
        mutant: Option<&str>,
        limit: Duration,
    ) -> Result<(TestOutcome, String)> {
        let name = match crate_folder(program) {
            Some(_) => format!("{} (lib)", program.replace('-', "_")),
            None => program.to_owned(),
        };
        let program = self.programs.named(&name)?;
        let mut log =
            tempfile::tempfile().context("cannot create a file for the output of tests")?;
        let mut command = program.command();
        command
            .args(["--exact", "--color=never"])
            .args(paths)
            .env_remove(VARIABLE)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        if let Some(mutant) = mutant {
            command.env(VARIABLE, mutant);
        }
        let start = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break Some(status),
                None if start.elapsed() > limit => {
                    child.kill()?;
                    child.wait()?;
                    break None;
                }
                None => thread::sleep(POLL_INTERVAL),
            }
        };
        let printed = text(&mut log)?;
        let ended = match status {
            None => TestOutcome::Hung,
            Some(status) if status.success() => {
                let ran = format!("test result: ok. {} passed", paths.len());
                ensure!(
                    printed.contains(&ran),
                    "{name} does not have all of these tests: {}\n{printed}",
                    paths.join(", ")
                );
                TestOutcome::Passed
            }
            Some(_) => TestOutcome::Failed,
        };
        Ok((ended, printed))
    }
}

fn text(log: &mut File) -> Result<String> {
    log.rewind()?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The tests of each program, without duplicates.
fn by_program<'t>(tests: impl Iterator<Item = &'t Test>) -> BTreeMap<&'t str, Vec<&'t str>> {
    let mut programs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for test in tests {
        let paths = programs.entry(&test.program).or_default();
        if !paths.contains(&test.path.as_str()) {
            paths.push(&test.path);
        }
    }
    programs
}
