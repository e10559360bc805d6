//! A store of an older or newer version, and a restored store.

use kvasm_tests::program::process::{Home, eventually, run};
use rusqlite::Connection;

/// Sets the schema number of the store's file.
fn set_schema(path: &str, from: i64, to: i64) {
    let file = Connection::open(path).unwrap();
    let update = "UPDATE _sqlx_migrations SET version = ?2 WHERE version = ?1";
    assert_eq!(file.execute(update, [from, to]).unwrap(), 1);
}

#[test]
fn schema_check_is_read_only_and_reports_the_version() {
    let home = Home::new();
    let path = home.path("kvasm.db");
    let store = format!("sqlite:{path}");
    let check = |code: i32, words: &str| {
        let ended = home.run(&["migrate", "--check", "--store", &store]);
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert!(ended.stdout.contains(words), "{}", ended.stdout);
    };
    check(1, "empty");
    assert!(!std::path::Path::new(&path).exists());
    assert_eq!(home.run(&["migrate", "--store", &store]).code, 0);
    check(0, "up to date");
    set_schema(&path, 1, 900);
    check(1, "newer: schema 900");
    let refused = home.run(&["app", "list", "--store", &store]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("a newer version"),
        "{}",
        refused.stderr
    );
    let memory = home.run(&["migrate", "--check", "--store", "memory"]);
    assert_eq!(memory.code, 2, "{}", memory.stderr);
}

#[test]
fn versions_seen_before_a_restore_are_not_reused() {
    let home = Home::new();
    let (path, copy) = (home.path("kvasm.db"), home.path("copy.db"));
    let store = format!("sqlite:{path}");
    let kvasm = |arguments: &[&str]| {
        let mut command = home.command(arguments);
        command.args(["--store", &store]);
        let ended = run(command, b"");
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
        ended.stdout
    };
    let set = |value: &str| {
        let answer = kvasm(&["--json", "kv", "set", "demo", "c", "k", value]);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["version"].as_u64().unwrap()
    };
    kvasm(&["app", "create", "demo"]);
    set("1");
    // As in docs/operating.md, without the sqlite3 program.
    let file = Connection::open(&path).unwrap();
    file.execute("VACUUM INTO ?1", [&copy]).unwrap();
    drop(file);
    let lost = set("2");
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{path}{end}"));
    }
    std::fs::rename(&copy, &path).unwrap();
    let said = kvasm(&["migrate", "--restored"]);
    assert!(said.contains("continue after"), "{said}");
    assert!(set("3") > lost, "a version came back");
}

#[test]
fn world_readable_store_file_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let path = home.path("kvasm.db");
    let store = format!("sqlite:{path}");
    let warned = |server: &kvasm_tests::program::process::Server| {
        server
            .stderr()
            .lines()
            .any(|line| line.contains("chmod 600"))
    };
    let server = home.start(&["--store", &store]);
    assert!(!warned(&server));
    server.stop();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let server = home.start(&["--store", &store]);
    eventually("a warning", || warned(&server).then_some(()));
    server.stop();
}
