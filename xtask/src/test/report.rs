//! Parses the output of test programs: which tests failed, and how many passed.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

/// Runs a command, and both shows its stdout as it is printed and returns it.
pub fn tee(command: &mut Command) -> Result<(ExitStatus, String)> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot be started")?;
    let mut printed = String::new();
    let mut lines = BufReader::new(child.stdout.take().context("it has no stdout")?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        printed.push_str(&text);
        line.clear();
    }
    Ok((child.wait()?, printed))
}

/// The failed tests, from the list at the end of a test program's output. If there is no list,
/// the tests of `all` (the output of `--list`) that did not finish.
pub fn failures(printed: &str, all: &str) -> String {
    let mut names = Vec::new();
    let mut in_list = false;
    for line in printed.lines() {
        if line == "failures:" {
            in_list = true;
        } else if let Some(name) = line.strip_prefix("    ").filter(|_| in_list) {
            names.push(name.trim());
        } else if !line.is_empty() {
            in_list = false;
        }
    }
    if !names.is_empty() {
        return names.join(", ");
    }
    let unfinished = unfinished(printed, all);
    match unfinished.get(..SHOWN) {
        Some(first) => format!(
            "crashed or hung; first unfinished tests: {}",
            first.join(", ")
        ),
        None if unfinished.is_empty() => "did not start, or crashed".to_owned(),
        None => format!(
            "crashed or hung; unfinished tests: {}",
            unfinished.join(", ")
        ),
    }
}

/// Tests start in the order of the list, so those that were running are among the first
/// unfinished ones.
const SHOWN: usize = 6;

fn unfinished<'a>(printed: &str, all: &'a str) -> Vec<&'a str> {
    let ended: HashSet<_> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "))
        .map(|(name, _)| name)
        .collect();
    let all = all.lines().filter_map(|line| line.strip_suffix(": test"));
    all.filter(|name| !ended.contains(name)).collect()
}

/// The number of passed tests, over all programs of an output.
pub fn passed(printed: &str) -> u64 {
    let counts = printed.lines().filter_map(|line| {
        let (_, rest) = line.split_once("test result: ok. ")?;
        rest.split_once(" passed")?.0.parse::<u64>().ok()
    });
    counts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = "\
running 3 tests
test a::works ... ok
test b::fails ... FAILED
test b::dies ... FAILED

failures:

---- b::fails stdout ----
    left: 1
thread 'b::fails' panicked at src/b.rs:1:
failures:
not a list
---- b::dies stdout ----

failures:
    b::dies
    b::fails

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out
";

    #[test]
    fn failed_tests_are_named() {
        assert_eq!(failures(FAILED, ""), "b::dies, b::fails");
        assert!(failures("Segmentation fault\n", "").contains("crashed"));
    }

    #[test]
    fn unfinished_tests_of_a_hung_program_are_named() {
        let all = "a: test\nb: test\nc: test\n\n3 tests, 0 benchmarks\n";
        let text = failures("running 3 tests\ntest b ... ok\n", all);
        assert!(text.ends_with("unfinished tests: a, c"), "{text}");
        let all = "a: test\n".repeat(SHOWN + 1);
        assert!(failures("", &all).contains("first unfinished tests"));
    }

    #[test]
    fn passed_tests_are_summed() {
        let text = "test result: ok. 12 passed; 0 failed\n\ntest result: ok. 3 passed; 0 failed\n";
        assert_eq!(passed(text), 15);
        assert_eq!(passed(FAILED), 0);
    }

    #[test]
    fn tee_shows_and_returns_the_output() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two; exit 3"]);
        let (status, printed) = tee(&mut command).unwrap();
        assert_eq!((status.code(), printed.as_str()), (Some(3), "one\ntwo\n"));
    }
}
