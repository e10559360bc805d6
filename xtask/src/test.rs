//! `cargo xtask test`: all tests, with everything that they need built and found first.

use anyhow::Result;

use crate::process::{cargo, run as run_command, step, workspace};
use crate::wasm_std::guest_cargo;
use crate::{guests, host, postgres, schemathesis};

/// Runs the tests. `arguments` go to `cargo test` of the workspace.
pub fn run(arguments: &[String]) -> Result<()> {
    let postgres = postgres::find()?;
    let guests = guests::build()?;
    let program = host::build()?;
    let schemathesis = schemathesis::find();

    step("testing the workspace");
    let mut command = cargo();
    command
        .env("KVASM_BIN", &program)
        .env("KVASM_GUESTS", &guests)
        .env("KVASM_PG_BIN", &postgres)
        .arg("test");
    if let Some(schemathesis) = schemathesis {
        command.env("KVASM_SCHEMATHESIS", schemathesis);
    }
    // Cargo ignores `-p` beside `--workspace`.
    if !names_packages(arguments) {
        command.arg("--workspace");
    }
    run_command(command.args(arguments))?;

    if arguments.is_empty() {
        test_examples()
    } else {
        step("not testing the examples: `cargo xtask test` without arguments does");
        Ok(())
    }
}

fn test_examples() -> Result<()> {
    step("testing the examples on this machine");
    let mut command = guest_cargo(&workspace().join("examples"));
    command.args(["test", "--workspace", "--target-dir"]);
    // Apart from the wasm32 build, which may be by another compiler.
    run_command(command.arg(workspace().join("target/examples-native")))
}

fn names_packages(arguments: &[String]) -> bool {
    arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
}

#[cfg(test)]
mod tests {
    use super::names_packages;

    fn named(arguments: &[&str]) -> bool {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        names_packages(&arguments)
    }

    #[test]
    fn packages_are_seen_before_the_double_dash_only() {
        assert!(named(&["-p", "kvasm"]));
        assert!(named(&["--package=kvasm"]));
        assert!(!named(&["conformance", "--", "--nocapture", "-p"]));
        assert!(!named(&[]));
    }
}
