//! Building the `kvasm` program.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{cargo, output, step};

/// Builds the program and returns its path.
///
/// This selects the whole workspace, not `-p kvasm`: then features are unified as for `cargo
/// test --workspace`, and wasmtime is not built twice.
pub fn build() -> Result<PathBuf> {
    step("building the host");
    let mut command = cargo();
    command.args(["build", "--workspace", "--bin", "kvasm"]);
    command.arg("--message-format=json-render-diagnostics");
    let messages = output(command.stdout(Stdio::piped())).context("building the host")?;
    executable(&messages).context("cargo built the host but reported no executable `kvasm`")
}

fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| {
            message
                .pointer("/target/name")
                .is_some_and(|name| name == "kvasm")
        })
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_and_library_artifacts_are_distinguished() {
        let messages = concat!(
            "{\"target\":{\"name\":\"kvasm\"},\"executable\":null}\n",
            "{\"target\":{\"name\":\"other\"},\"executable\":\"/t/other\"}\n",
            "{\"target\":{\"name\":\"kvasm\"},\"executable\":\"/t/kvasm\"}\n",
        );
        assert_eq!(executable(messages), Some(PathBuf::from("/t/kvasm")));
    }
}
