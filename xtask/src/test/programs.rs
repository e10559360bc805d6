//! The test programs that cargo builds.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::schedule::Job;
use crate::process::{cargo, output, probe, workspace};

/// A test program.
pub struct Program {
    name: String,
    file: PathBuf,
    /// The folder of its package, where cargo starts it.
    package: PathBuf,
    libraries: OsString,
}

impl Program {
    /// The command to run it, as `cargo test` does.
    pub fn job(&self) -> Job {
        Job::new(&self.name, self.command())
    }

    /// Like [`job`](Program::job), for adding arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.file);
        command
            .current_dir(&self.package)
            .env("CARGO_MANIFEST_DIR", &self.package)
            .env("LD_LIBRARY_PATH", &self.libraries)
            .env("DYLD_FALLBACK_LIBRARY_PATH", &self.libraries);
        command
    }
}

/// The test programs that one cargo command builds.
pub struct Programs(Vec<Program>);

impl Programs {
    /// Builds all test programs of the workspace.
    pub fn build() -> Result<Programs> {
        let mut command = cargo();
        Programs::built_by(command.args(["test", "--workspace", "--no-run"]))
    }

    /// Runs a `cargo test --no-run` command, and returns the programs that it built.
    pub fn built_by(command: &mut Command) -> Result<Programs> {
        command.arg("--message-format=json-render-diagnostics");
        let messages = output(command.stdout(Stdio::piped())).context("building the tests")?;
        let libraries = libraries()?;
        let found: Vec<_> = messages
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter_map(|message| program(&message, &libraries))
            .collect();
        ensure!(!found.is_empty(), "cargo built no test program");
        Ok(Programs(found))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Program> {
        self.0.iter()
    }

    /// The program with this name.
    pub fn named(&self, name: &str) -> Result<&Program> {
        let found = self.iter().find(|program| program.name == name);
        found.with_context(|| format!("cargo built no test program {name}"))
    }
}

/// The path of the standard library, which the tests of macros load.
fn libraries() -> Result<OsString> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    let root = probe(
        command
            .args(["--print", "sysroot"])
            .current_dir(workspace()),
    )
    .map_err(|why| anyhow::anyhow!("cannot determine the library path of rustc: {why}"))?;
    let before = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = [Path::new(&root).join("lib")]
        .into_iter()
        .chain(env::split_paths(&before));
    env::join_paths(folders).context("the path of the toolchain contains a path separator")
}

/// The program of a cargo message, if there is one.
fn program(message: &Value, libraries: &OsString) -> Option<Program> {
    if message.pointer("/profile/test") != Some(&Value::Bool(true)) {
        return None;
    }
    let file = PathBuf::from(message.get("executable")?.as_str()?);
    let manifest = Path::new(message.get("manifest_path")?.as_str()?);
    let target = message.pointer("/target/name")?.as_str()?;
    let name = match message.pointer("/target/kind/0")?.as_str()? {
        "test" => target.to_owned(),
        kind => format!("{target} ({kind})"),
    };
    Some(Program {
        name,
        file,
        package: manifest.parent()?.to_owned(),
        libraries: libraries.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn test_programs_are_named_after_their_target() {
        let message = |test: bool, kind: &str, executable: Value| {
            json!({
                "reason": "compiler-artifact", "manifest_path": "/w/tests/Cargo.toml",
                "target": {"name": "serve", "kind": [kind]},
                "profile": {"test": test}, "executable": executable,
            })
        };
        let libraries = OsString::from("/lib");
        let name = |message| program(&message, &libraries).map(|program| program.name);
        let file = || json!("/t/serve-1");
        assert_eq!(
            name(message(true, "test", file())).as_deref(),
            Some("serve")
        );
        let library = name(message(true, "lib", file()));
        assert_eq!(library.as_deref(), Some("serve (lib)"));
        assert!(name(message(false, "bin", file())).is_none());
        assert!(name(message(true, "test", Value::Null)).is_none());
        assert!(name(json!({"reason": "build-finished"})).is_none());
    }
}
