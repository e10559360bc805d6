//! `cargo xtask author`: how long the author of a plugin waits, from `kvasm new` to the first answer,
//! for the first tests, and after a change. It prints figures and checks none: they depend on the
//! machine and on its load.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::host;
use crate::process::{cargo, step, workspace};

const INPUT: &str = r#"{"name":"ada","tag":"kind"}"#;
/// A plugin with nothing in it.
const EMPTY: &str = "#[kvasm_guest::function]\nfn hello() {}\n";

/// Makes plugins in a temporary folder, and prints the times and sizes.
pub fn run() -> Result<()> {
    let program = host::build()?;
    let author = Author::new(program)?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before         {}", load.trim_end());
    author.first_answer()?;
    author.first_tests()?;
    author.empty_plugin()?;
    author.change()
}

/// An author with an empty home folder, which is removed at the end.
struct Author {
    program: PathBuf,
    folder: PathBuf,
}

impl Author {
    fn new(program: PathBuf) -> Result<Author> {
        let folder = env::temp_dir().join(format!("kvasm-author-{}", process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Author { program, folder })
    }

    /// A command in a folder, without settings of the caller that would change what it does.
    fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder).stdin(Stdio::null());
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("KVASM_") || text == "CARGO_TARGET_DIR" {
                command.env_remove(name);
            }
        }
        let store = format!("sqlite:{}", self.folder.join("kvasm.db").display());
        command.env("KVASM_STORE", store);
        command.env("KVASM_CACHE_DIR", self.folder.join("compiled"));
        command
    }

    /// Runs a command of Kvasm. Returns its output and its time.
    fn kvasm(&self, folder: &Path, arguments: &[&str]) -> Result<(String, Duration)> {
        let mut command = self.command(&self.program, folder);
        timed(command.args(arguments))
    }

    /// Makes a plugin. Returns its folder.
    fn make(&self, name: &str) -> Result<(PathBuf, Duration)> {
        let sdk = workspace().join("guest-sdk");
        let sdk = sdk
            .to_str()
            .context("the path of the workspace is not UTF-8")?;
        let (_, time) = self.kvasm(&self.folder, &["new", name, "--sdk", sdk])?;
        Ok((self.folder.join(name), time))
    }

    fn first_answer(&self) -> Result<()> {
        step("kvasm new, build, deploy and call");
        let (folder, made) = self.make("answer")?;
        let (_, built) = self.kvasm(&folder, &["build"])?;
        let (_, created) = self.kvasm(&folder, &["app", "create", "demo"])?;
        let (_, deployed) = self.kvasm(&folder, &["deploy", "demo"])?;
        let call = ["call", "demo", "add_tag", "--input", INPUT];
        let (output, called) = self.kvasm(&folder, &call)?;
        ensure!(output.contains("kind"), "unexpected answer: {output}");
        let own = made + created + deployed + called;
        print("new to first answer", built + own);
        print("  kvasm build", built);
        print("  the others", own);
        Ok(())
    }

    fn first_tests(&self) -> Result<()> {
        step("the first cargo test");
        let (folder, _) = self.make("tests")?;
        let program = PathBuf::from(cargo().get_program());
        let mut command = self.command(&program, &folder);
        let (_, time) = timed(command.arg("test"))?;
        print("first cargo test", time);
        let mut command = self.command(&program, &folder);
        let (_, time) = timed(command.arg("test"))?;
        print("  again", time);
        Ok(())
    }

    fn empty_plugin(&self) -> Result<()> {
        step("the size of an empty plugin");
        let (folder, _) = self.make("empty")?;
        fs::write(folder.join("src/lib.rs"), EMPTY)?;
        for (name, arguments) in [
            ("empty plugin", &["build", "--json"][..]),
            ("  without names", &["build", "--json", "--strip-names"]),
        ] {
            let (built, _) = self.kvasm(&folder, arguments)?;
            let built: Value = serde_json::from_str(&built).context("kvasm build --json")?;
            let bytes = built.get("bytes").and_then(Value::as_u64);
            let bytes = bytes.context("kvasm build --json names no size")?;
            println!("{name:19} {bytes:>8} bytes");
        }
        Ok(())
    }

    fn change(&self) -> Result<()> {
        step("a change under kvasm dev");
        let (folder, _) = self.make("change")?;
        let mut command = self.command(&self.program, &folder);
        let child = command.arg("dev").stdout(Stdio::piped()).spawn();
        let mut dev = Dev(child.context("cannot start kvasm dev")?);
        let stdout = dev.0.stdout.take().context("kvasm dev has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut swapped = || {
            for line in lines.by_ref() {
                let line = line?;
                if line.contains(" is active, built in ") {
                    return Ok(line);
                }
            }
            bail!("kvasm dev ended")
        };
        swapped()?;
        let source = folder.join("src/lib.rs");
        let text = fs::read_to_string(&source)?;
        for number in 0..3 {
            let changed = format!("{text}\n#[kvasm_guest::function]\nfn added_{number}() {{}}\n");
            fs::write(&source, changed)?;
            let start = Instant::now();
            let line = swapped()?;
            print("save to swapped", start.elapsed());
            println!("  {}", line.split(':').next().unwrap_or_default());
        }
        Ok(())
    }
}

impl Drop for Author {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A running `kvasm dev`, which is killed on drop.
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command, and returns its standard output and its time.
fn timed(command: &mut Command) -> Result<(String, Duration)> {
    let start = Instant::now();
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let time = start.elapsed();
    ensure!(
        output.status.success(),
        "{command:?} failed ({})",
        output.status
    );
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), time))
}

fn print(name: &str, time: Duration) {
    println!("{name:19} {:>8.2} s", time.as_secs_f64());
}
