//! `cargo xtask guests`: builds all plugins of the examples and the tests.
//!
//! The modules are collected in `target/guests`, where the tests, the demo and the
//! documentation look for them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::c_guests;
use crate::other_guests;
use crate::process::{self, copy_if_changed, output, step, workspace};
use crate::wasm_std::{self, WasmStd};

/// Builds all plugins and lists them.
pub fn run() -> Result<()> {
    let folder = build()?;
    print_table(&folder)
}

/// Builds all plugins and returns the folder with them.
pub fn build() -> Result<PathBuf> {
    let root = workspace();
    let gathered = root.join("target/guests");
    // One target folder for all builds, kept between runs, so that the standard library is
    // built once.
    let work = root.join("target/guest-build");
    let c_work = work.join("c");
    for folder in [&gathered, &c_work] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }

    let wasm_std = WasmStd::find()?;
    let mut modules = Vec::new();
    for parent in guest_folders() {
        if parent.join("Cargo.toml").is_file() {
            step(&format!(
                "building the Rust plugins in {}",
                relative(&parent)
            ));
            modules.extend(build_rust(&wasm_std, &parent, &work)?);
        }
        modules.extend(c_guests::build(&parent, &c_work)?);
        modules.extend(other_guests::build(&parent, &c_work)?);
    }
    modules.push(build_wasip1(&root.join("tests/guests"), &work)?);
    if modules.is_empty() {
        bail!("no plugin was built: examples/ has no cdylib crate and no folder with C files");
    }
    gather(&modules, &gathered)?;
    Ok(gathered)
}

/// The existing folders with guests: each is a Cargo workspace, or contains folders with C
/// files, or both.
pub fn guest_folders() -> Vec<PathBuf> {
    ["examples", "tests/guests"]
        .into_iter()
        .map(|folder| workspace().join(folder))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// Builds the tests' plugin `sdk` for `wasm32-wasip1` too, as `sdk-wasip1`.
fn build_wasip1(folder: &Path, work: &Path) -> Result<PathBuf> {
    wasm_std::find_wasip1()?;
    step("building the plugin sdk for wasm32-wasip1");
    let mut command = wasm_std::guest_cargo(folder);
    command
        .args(["build", "--release", "--package", "sdk"])
        .args(["--target", wasm_std::WASIP1, "--target-dir"])
        .arg(work);
    process::run(&mut command)?;
    let built = work.join(wasm_std::WASIP1).join("release/sdk.wasm");
    let named = work.join("sdk-wasip1.wasm");
    copy_if_changed(&built, &named)?;
    Ok(named)
}

fn build_rust(wasm_std: &WasmStd, folder: &Path, work: &Path) -> Result<Vec<PathBuf>> {
    let mut command = wasm_std.cargo_build(folder);
    command
        .arg("--workspace")
        .arg("--target-dir")
        .arg(work)
        .arg("--message-format=json-render-diagnostics");
    let messages = output(command.stdout(Stdio::piped()))
        .with_context(|| format!("building the plugins in {}", relative(folder)))?;
    let is_module = |file: &PathBuf| file.extension().is_some_and(|end| end == "wasm");
    Ok(artifacts(&messages).filter(is_module).collect())
}

/// The files named in cargo's messages, both built and fresh.
fn artifacts(messages: &str) -> impl Iterator<Item = PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| {
            message
                .get("reason")
                .is_some_and(|reason| reason == "compiler-artifact")
        })
        .flat_map(|message| match message.get("filenames") {
            Some(Value::Array(files)) => files.clone(),
            _ => Vec::new(),
        })
        .filter_map(|file| file.as_str().map(PathBuf::from))
}

/// Copies the modules to one folder, and removes those of deleted plugins.
fn gather(modules: &[PathBuf], folder: &Path) -> Result<()> {
    let mut names = BTreeSet::new();
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_owned();
        copy_if_changed(module, &folder.join(&name))?;
        if !names.insert(name.clone()) {
            bail!(
                "two plugins are named {}: rename one",
                name.to_string_lossy()
            );
        }
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !names.contains(&entry.file_name()) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn print_table(folder: &Path) -> Result<()> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        rows.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.metadata()?.len(),
        ));
    }
    rows.sort();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    println!("{}:", relative(folder));
    for (name, size_bytes) in rows {
        println!("  {name:width$}  {size_bytes:>9} bytes");
    }
    Ok(())
}

/// A path as shown in messages: relative to the root of the workspace.
pub fn relative(path: &Path) -> String {
    let root = workspace();
    path.strip_prefix(&root)
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_are_parsed_from_cargo_messages() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"filenames\":[\"/t/a.wasm\",\"/t/a.rlib\"]}\n",
            "not json\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n",
        );
        let files: Vec<PathBuf> = artifacts(messages).collect();
        assert_eq!(
            files,
            [PathBuf::from("/t/a.wasm"), PathBuf::from("/t/a.rlib")]
        );
    }
}
