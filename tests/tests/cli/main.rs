//! The `kvasm` program as users run it: verbs, exit codes, misuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod blocks;
mod build;
mod cookbook;
mod dev;
mod entries;
mod events;
mod grants;
mod guide;
mod harness;
mod input_validation;
mod inspect;
mod languages;
mod large_data;
mod misbehaving_servers;
mod new;
mod plugins;
mod settings;
mod token_files;
mod tutorial;
mod verbs;

use kvasm_tests::program::process::program;
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A user with their own home folder.
struct User {
    home: TempDir,
}

struct CommandOutput {
    code: i32,
    stdout: String,
    stderr: String,
}

impl CommandOutput {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {:?}", self.stdout))
    }
}

impl User {
    fn new() -> User {
        User {
            home: tempfile::tempdir().unwrap(),
        }
    }

    /// A user with an app named `demo`.
    fn with_app() -> User {
        let user = User::new();
        user.ok(&["app", "create", "demo"]);
        user
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> CommandOutput {
        self.run_with(arguments, b"")
    }

    fn run_with(&self, arguments: &[&str], input: &[u8]) -> CommandOutput {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that fails early closes its input.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        CommandOutput {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let answer = self.run(arguments);
        assert_eq!(answer.code, 0, "{arguments:?}: {}", answer.stderr);
        answer.stdout
    }

    /// Asserts that the command fails with this code and message.
    fn fails(&self, arguments: &[&str], code: i32, words: &str) {
        let answer = self.run(arguments);
        assert_eq!(
            answer.code, code,
            "{arguments:?}: {}{}",
            answer.stdout, answer.stderr
        );
        assert!(
            answer.stderr.contains(words),
            "{arguments:?}: {}",
            answer.stderr
        );
    }
}

#[test]
fn apps_can_be_created_and_deleted() {
    let user = User::new();
    assert!(user.ok(&["app", "create", "demo"]).contains("demo"));
    user.fails(
        &["app", "create", "demo"],
        2,
        "an app named demo already exists",
    );
    user.fails(&["app", "create", "../x"], 2, "a-z");
    user.fails(&["app", "show", "nope"], 2, "kvasm app create nope");
    assert!(user.ok(&["app", "show", "demo"]).contains("demo"));
    let apps = user.run(&["app", "list", "--json"]).json();
    assert_eq!(apps[0]["name"], "demo");
    user.ok(&["kv", "set", "demo", "c", "k", "1"]);
    user.fails(&["app", "delete", "demo"], 2, "--yes");
    user.ok(&["app", "delete", "demo", "--yes"]);
    user.fails(&["kv", "get", "demo", "c", "k"], 2, "there is no app demo");
    user.ok(&["app", "create", "demo"]);
    assert_eq!(user.run(&["kv", "get", "demo", "c", "k"]).code, 1);
}

/// Each client changes a different limit at the same time; no change is lost.
#[test]
fn concurrent_changes_of_different_limits_are_all_kept() {
    let user = User::with_app();
    let limits = ["entries", "bytes", "calls-per-second", "calls-at-once"];
    for round in 1..=4 {
        let value = round.to_string();
        let set = |limit: &&str| {
            let option = format!("--{limit}");
            user.command(&["app", "limits", "demo", &option, &value])
                .spawn()
                .unwrap()
        };
        let running: Vec<_> = limits.iter().map(set).collect();
        for child in running {
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{stderr}");
        }
        let shown = user.run(&["app", "show", "demo", "--json"]).json();
        for limit in limits {
            assert_eq!(shown["limits"][limit.replace('-', "_")], round, "{limit}");
        }
    }
    user.ok(&["app", "limits", "demo", "--bytes", "none"]);
    let shown = user.run(&["app", "show", "demo", "--json"]).json();
    assert_eq!(shown["limits"]["bytes"], Value::Null);
    assert_eq!(shown["limits"]["entries"], 4);
    // A row contains only the fields that were given.
    let audit = user.run(&["audit", "demo", "--json"]).json();
    assert_eq!(audit[0]["detail"], serde_json::json!({ "bytes": null }));
    let found = |options: &[&str]| {
        let rows = user.run(&[&["audit", "--json"], options].concat()).json();
        rows.as_array().unwrap().len()
    };
    let all = found(&[]);
    let limits = found(&["--action", "app.limits"]);
    assert!(limits > 2 && found(&["--action", "app"]) > limits, "{all}");
    assert_eq!(found(&["--action", "app.limits", "--limit", "2"]), 2);
    assert_eq!(
        (found(&["--actor", "nobody"]), found(&["--until", "1h"])),
        (0, 0)
    );
    assert_eq!(found(&["--since", "1h"]), all);
    assert_eq!(user.run(&["audit", "--action", "no such"]).code, 2);
}

#[test]
fn default_store_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let user = User::with_app();
    let folder = user.home.path().join(".local/share/kvasm");
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder.join("kvasm.db")), 0o600);
    assert_eq!(mode(folder), 0o700);
}

#[test]
fn unreachable_store_is_a_host_error() {
    let user = User::new();
    user.fails(
        &["--store", "postgres://127.0.0.1:1/x", "app", "list"],
        4,
        "unavailable",
    );
    user.fails(
        &["--store", "sqlite:/nonexistent/x.db", "migrate"],
        4,
        "/nonexistent/x.db",
    );
    user.fails(&["--store", "redis:x", "migrate"], 2, "sqlite:PATH");
    let no_database = user.home.path().join("text");
    std::fs::write(&no_database, "no database at all, but a text").unwrap();
    let store = format!("sqlite:{}", no_database.display());
    user.fails(&["--store", &store, "migrate"], 4, "not a database");
    user.ok(&["--store", "memory", "migrate"]);
}

#[test]
fn migrate_enables_incremental_vacuum() {
    let user = User::new();
    let path = user.home.path().join("old.db");
    // As SQLite creates a file by default.
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
        .unwrap();
    let store = format!("sqlite:{}", path.display());
    let migrate = || user.ok(&["--store", &store, "migrate"]);
    assert!(migrate().contains("stop every process"), "it is held open");
    drop(old);
    assert!(migrate().contains("was rewritten"));
    let json = user.ok(&["--store", &store, "--json", "migrate"]);
    assert!(json.contains("\"incremental_vacuum\":\"on\""), "{json}");
}
