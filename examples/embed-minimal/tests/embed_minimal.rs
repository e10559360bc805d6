//! Runs the program as docs/embedding.md shows.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A plugin built by `cargo xtask guests`.
fn counter() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    let folder = std::env::var_os("KVASM_GUESTS").map_or_else(built, PathBuf::from);
    folder.join("counter.wasm")
}

fn run(store: &Path, function: &str, input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-minimal"));
    command.arg(store).arg(counter()).args([function, input]);
    command.output().unwrap()
}

#[test]
fn counter_persists_across_processes() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.join(format!("embed-minimal-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let store = folder.join("demo.db");
    for value in [2, 4] {
        let ended = run(&store, "add", r#"{"name":"visits","by":2}"#);
        let stdout = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(stdout.trim(), format!(r#"{{"value":{value}}}"#));
    }
    let ended = run(&store, "no_such_function", "");
    assert!(!ended.status.success());
    let message = String::from_utf8_lossy(&ended.stderr);
    assert!(message.contains("no_such_function"), "{message}");
    std::fs::remove_dir_all(&folder).unwrap();
}
