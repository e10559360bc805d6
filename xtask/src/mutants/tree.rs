//! The copy of the workspace with the mutants.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::list::{Mutant, mutate};
use crate::process::output;

/// The environment variable that selects a mutant.
pub const VARIABLE: &str = "KVASM_MUTANT";

/// Code added to the copy's library.
const SELECTOR: &str = r#"
/// Selects a mutant.
pub mod mutant {
    /// Reports whether a mutant is the active one.
    pub fn is(name: &str) -> bool {
        static SELECTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        let selected = SELECTED.get_or_init(|| std::env::var("KVASM_MUTANT").ok());
        selected.as_deref() == Some(name)
    }
}
"#;
/// Placed before it: generated expressions are always in parentheses, needed or not.
const NO_WARNINGS: &str = "#![allow(unused_parens, unused_braces)]\n";

/// The root of the crate that a file of `host/` is of.
fn root_of(file: &str) -> String {
    let folder = file.split("/src/").next().unwrap_or_default();
    format!("{folder}/src/lib.rs")
}

/// Gives the packages of the copy another version than those of the workspace. Cargo tells
/// packages of the same name apart by their version and their folder *in the workspace*: with
/// the same version, it would use artifacts of the copy for the original.
const OWN_VERSION: (&str, &str) = ("[workspace.package]\nversion = \"", "0.0.0-mutants.");
const MANIFEST: &str = "Cargo.toml";

/// Makes `tree` a copy of the workspace in `root` with these mutants. Unchanged files keep
/// their modification times, so that little is rebuilt.
pub fn write(root: &Path, tree: &Path, mutants: &[Mutant]) -> Result<()> {
    let mut of_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        of_file.entry(&mutant.file).or_default().push(mutant);
    }
    let roots: HashSet<String> = of_file.keys().map(|file| root_of(file)).collect();
    let mut kept = HashSet::new();
    for file in files(root)? {
        let from = root.join(&file);
        // Listed by git, but deleted since.
        let Ok(mut bytes) = fs::read(&from) else {
            continue;
        };
        if let Some(mutants) = of_file.get(file.as_str()) {
            let text = String::from_utf8(bytes).with_context(|| format!("{file} is not text"))?;
            bytes = mutate(&text, mutants)?.into_bytes();
        }
        if file == MANIFEST {
            bytes = with_own_version(&bytes)?;
        }
        if roots.contains(&file) {
            bytes = [NO_WARNINGS.as_bytes(), &bytes, SELECTOR.as_bytes()].concat();
        }
        let to = tree.join(&file);
        put(&to, &bytes).with_context(|| format!("cannot write {}", to.display()))?;
        kept.insert(to);
    }
    remove_others(tree, &kept).with_context(|| format!("cannot clear {}", tree.display()))
}

/// The current files of the workspace, committed or not.
fn files(root: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("git");
    command
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .stdout(Stdio::piped());
    let listed = output(&mut command).context("the copy consists of the files that git lists")?;
    let files = listed.split('\0').filter(|file| !file.is_empty());
    Ok(files.map(str::to_owned).collect())
}

/// The manifest of the workspace with the copy's own version.
fn with_own_version(manifest: &[u8]) -> Result<Vec<u8>> {
    let text = String::from_utf8_lossy(manifest);
    let (before, own) = OWN_VERSION;
    let (start, rest) = text
        .split_once(before)
        .with_context(|| format!("{MANIFEST} must have a line after {before:?}"))?;
    Ok([start, before, own, rest].concat().into_bytes())
}

fn put(to: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(to, bytes)
}

/// Removes files left by earlier copies.
fn remove_others(folder: &Path, kept: &HashSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_others(&path, kept)?;
        } else if !kept.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::workspace;

    #[test]
    fn packages_of_the_mutant_copy_have_a_distinct_version() {
        let manifest = fs::read(workspace().join(MANIFEST)).unwrap();
        let copy = String::from_utf8(with_own_version(&manifest).unwrap()).unwrap();
        assert!(copy.contains("\nversion = \"0.0.0-mutants."), "{copy}");
        // All packages take their version from there.
        let manifest: toml::Table = toml::from_str(&copy).unwrap();
        let members = manifest["workspace"]["members"].as_array().unwrap();
        assert!(members.len() > 5, "{members:?}");
        for member in members {
            let file = workspace().join(member.as_str().unwrap()).join(MANIFEST);
            let member = fs::read_to_string(&file).unwrap();
            let inherits = member.contains("\nversion.workspace = true\n");
            assert!(inherits, "{}", file.display());
        }
        assert!(with_own_version(b"[workspace]").is_err());
    }
}
