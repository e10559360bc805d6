//! Finds the Postgres programs with which the tests start their clusters.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::apt;
use crate::process::{find_program, probe, step};

const DEBIAN_ROOT: &str = "/usr/lib/postgresql";
const PROGRAMS: [&str; 4] = ["initdb", "pg_ctl", "postgres", "psql"];

/// Returns the folder of initdb, pg_ctl, postgres and psql, after installing them if possible.
pub fn find() -> Result<PathBuf> {
    let why = match find_installed() {
        Some(folder) => return Ok(announce(folder)),
        None => apt::install(&["postgresql"]).err(),
    };
    if let Some(folder) = find_installed() {
        return Ok(announce(folder));
    }
    bail!(
        "the tests need Postgres, and {} were not found together in PATH, under {DEBIAN_ROOT} or \
         by pg_config ({}).\nOn Debian: sudo apt-get update && sudo apt-get install postgresql\n\
         Elsewhere: install Postgres 15 or later and put its programs in PATH",
        PROGRAMS.join(", "),
        why.as_deref()
            .unwrap_or("the package is installed but has them elsewhere"),
    )
}

fn announce(folder: PathBuf) -> PathBuf {
    step(&format!("Postgres: {}", folder.display()));
    folder
}

fn find_installed() -> Option<PathBuf> {
    // A link in PATH points to the folder with all programs of one version.
    let in_path = find_program("initdb").and_then(|file| file.canonicalize().ok());
    let in_path = in_path.and_then(|file| file.parent().map(Path::to_path_buf));
    let by_config = || {
        probe(Command::new("pg_config").arg("--bindir"))
            .ok()
            .map(PathBuf::from)
    };
    in_path
        .filter(|folder| is_complete(folder))
        .or_else(newest_of_debian)
        .or_else(|| by_config().filter(|folder| is_complete(folder)))
}

fn newest_of_debian() -> Option<PathBuf> {
    let versions = Path::new(DEBIAN_ROOT).read_dir().ok()?;
    versions
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| is_complete(folder))
        .max()
        .map(|(_, folder)| folder)
}

fn is_complete(folder: &Path) -> bool {
    PROGRAMS
        .iter()
        .all(|program| folder.join(program).is_file())
}
