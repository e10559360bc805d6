//! Notices changes of a plugin's sources, by looking at their times and sizes: no file system or
//! container misses one, and the folders of sources are small.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::Path;

/// Folders of built files. Hidden folders are left out too.
const BUILT: [&str; 4] = ["target", "node_modules", "zig-out", "build"];
/// Cargo writes it while it builds.
const WRITTEN_BY_BUILDS: &str = "Cargo.lock";
/// Depth of folders at which the search ends.
const DEPTH_MAX: usize = 32;

/// Returns a number that changes when a source is written, added or removed.
pub(super) fn state(folder: &Path) -> u64 {
    state_of(folder, DEPTH_MAX)
}

fn state_of(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let mut state = 0_u64;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        // Symbolic links to folders are not followed, since they may lead around.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let part = match metadata.is_dir() {
            true if depth == 0 || text.starts_with('.') || BUILT.contains(&&*text) => continue,
            true => state_of(&entry.path(), depth - 1),
            false if text == WRITTEN_BY_BUILDS => continue,
            false => {
                let mut hasher = DefaultHasher::new();
                (metadata.modified().ok(), metadata.len()).hash(&mut hasher);
                hasher.finish()
            }
        };
        let mut hasher = DefaultHasher::new();
        (&name, part).hash(&mut hasher);
        // A sum, since the order of entries is arbitrary.
        state = state.wrapping_add(hasher.finish());
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_of_sources_change_the_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut states = vec![state(folder.path())];
        let mut changes = |is_expected: bool| {
            let now = state(folder.path());
            assert_eq!(!states.contains(&now), is_expected, "{states:?} {now}");
            states.push(now);
        };
        fs::create_dir(path("src")).unwrap();
        changes(true);
        fs::write(path("src/lib.rs"), "a").unwrap();
        changes(true);
        fs::write(path("src/lib.rs"), "ab").unwrap();
        changes(true);
        fs::rename(path("src/lib.rs"), path("src/main.rs")).unwrap();
        changes(true);
        let before = state(folder.path());
        fs::create_dir(path("target")).unwrap();
        fs::write(path("target/x"), "x").unwrap();
        fs::create_dir(path(".git")).unwrap();
        fs::write(path("Cargo.lock"), "x").unwrap();
        assert_eq!(state(folder.path()), before);
    }
}
