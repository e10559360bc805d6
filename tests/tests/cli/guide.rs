//! The Rust blocks of docs/writing-plugins.md and docs/cookbook.md compile without warnings, and
//! their tests pass, with the real cargo.
//!
//! Each block is a test program of its own, as it is a plugin of its own. In a page, the comment
//! `<!-- block: NAME -->` names a block, and `<!-- after: NAME -->` puts that one before another.

use super::User;
use super::blocks::{self, checkout};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const PAGES: [&str; 2] = ["docs/writing-plugins.md", "docs/cookbook.md"];
/// Short functions that a page shows are not called.
const HEAD: &str = "#![deny(warnings)]\n#![allow(dead_code)]\n";

/// Writes the programs of a page. Returns how many tests they have.
fn write_programs(page: &str, folder: &Path) -> usize {
    let blocks = blocks::read(page);
    let name = page.trim_start_matches("docs/").trim_end_matches(".md");
    let mut tests = 0;
    for block in blocks.iter().filter(|block| block.language == "rust") {
        block.allow(&["block", "after"]);
        let mut text = HEAD.to_owned();
        if let Some(name) = block.comment("after") {
            let mut named = blocks.iter();
            let named = named.find(|block| block.comment("block") == Some(name));
            let named = named.unwrap_or_else(|| panic!("{}: no block {name}", block.place));
            text.push_str(&named.text);
        }
        write!(text, "// {}\n{}", block.place, block.text).unwrap();
        tests += text.matches("test]\n").count();
        let path = format!("{}-{}.rs", name.replace('-', "_"), block.line);
        std::fs::write(folder.join(path), text).unwrap();
    }
    tests
}

/// Makes a package for blocks of a page. Returns its folder.
pub fn make_package(user: &User, name: &str, more: &str) -> PathBuf {
    let folder = user.home.path().join(name);
    for part in ["src", "tests", "examples"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    let sdk = checkout().join("guest-sdk");
    let manifest = format!(
        "[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n\
         [dependencies]\nkvasm-guest = {{ path = {sdk:?} }}\nlog = \"0.4\"\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\n\
         [profile.dev]\ndebug = false\n[workspace]\n{more}"
    );
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(folder.join("src/lib.rs"), "").unwrap();
    folder
}

/// Runs cargo for a package, and returns what it prints on stdout.
#[track_caller]
pub fn cargo(user: &User, folder: &Path, arguments: &[&str]) -> String {
    let environment = user.command_with_cargo(&[]);
    let variables = environment.get_envs();
    let mut command = Command::new(env!("CARGO"));
    command
        .env_clear()
        .envs(variables.filter_map(|(name, value)| Some((name, value?))))
        .args(arguments)
        .current_dir(folder);
    let output = command.output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}{printed}");
    printed
}

#[test]
fn blocks_of_the_guide_compile_and_pass_their_tests() {
    let user = User::new();
    let folder = make_package(&user, "kvasm-guide", "");
    let expected: usize = PAGES
        .iter()
        .map(|page| write_programs(page, &folder.join("tests")))
        .sum();
    let arguments = ["test", "--quiet", "--no-fail-fast", "--tests"];
    let printed = cargo(&user, &folder, &arguments);
    let passed = printed.lines().filter_map(|line| {
        let rest = line.strip_prefix("test result: ok. ")?;
        rest.split_once(' ')?.0.parse::<usize>().ok()
    });
    assert_eq!(passed.sum::<usize>(), expected, "{printed}");
}
