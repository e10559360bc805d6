//! Runs the program as docs/embedding.md shows.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn host_function_is_scoped_to_the_calling_app() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-host-functions"));
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let lines = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(
        lines.lines().collect::<Vec<_>>(),
        ["books atlas: 4900", "garden atlas: -1", "garden rake: 1950"]
    );
}
