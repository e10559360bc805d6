//! Folders on the disk for the time of a run.

use crate::target;
use anyhow::Result;
use std::path::Path;
use tempfile::TempDir;

const PREFIX: &str = "kvasm-bench-";

/// A new folder beside the build, not in /tmp, which may be in memory. It is removed when
/// it is dropped.
pub fn folder() -> Result<TempDir> {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    Ok(tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(target())?)
}

/// Removes the folders of runs that were killed.
pub fn sweep() -> Result<()> {
    for entry in std::fs::read_dir(target())? {
        let entry = entry?;
        let name = entry.file_name();
        let process = name.to_str().and_then(owner);
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another run may sweep at the same time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// The process whose folder this is.
fn owner(name: &str) -> Option<&str> {
    let (process, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    process
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_ends_with_its_process() {
        let own = folder().unwrap();
        // No process has a number above 2^22.
        let left = target().join(format!("{PREFIX}99999999-left"));
        std::fs::create_dir_all(left.join("inner")).unwrap();
        let other = target().join("kvasm-bench-report-x");
        std::fs::create_dir_all(&other).unwrap();
        sweep().unwrap();
        assert!(own.path().exists());
        assert!(!left.exists());
        assert!(other.exists());
        std::fs::remove_dir(other).unwrap();
    }
}
