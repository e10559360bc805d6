//! Temporary folders on disk.

use crate::target;
use anyhow::Result;
use std::path::Path;
use tempfile::TempDir;

const PREFIX: &str = "kvasm-bench-";

/// Creates a folder in the build folder, not in /tmp, which may be in memory. It is removed on
/// drop.
pub fn folder() -> Result<TempDir> {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    Ok(tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(target())?)
}

/// Removes the folders of killed runs.
pub fn sweep() -> Result<()> {
    sweep_in(&target())
}

fn sweep_in(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let process = name.to_str().and_then(owner);
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another run may be removing it at the same time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// The process that owns a folder.
fn owner(name: &str) -> Option<&str> {
    let (process, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let is_number = process.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_dead_processes_are_removed() {
        let target = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = target.path().join(name);
            std::fs::create_dir_all(folder.join("inner")).unwrap();
            folder
        };
        let own = folder(&format!("{PREFIX}{}-x", std::process::id()));
        // No process id is above 2^22.
        let left = folder(&format!("{PREFIX}99999999-x"));
        let other = folder(&format!("{PREFIX}report-x"));
        sweep_in(target.path()).unwrap();
        assert!(own.exists());
        assert!(!left.exists());
        assert!(other.exists());
    }
}
