//! Notices changes of a plugin's sources, by looking at their times and sizes: no file system or
//! container misses one, and the folders of sources are small.

use crate::build::local_packages;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

/// Folders of built files. Hidden folders are left out too.
const BUILT: [&str; 4] = ["target", "node_modules", "zig-out", "build"];
/// Says which packages a plugin depends on.
const MANIFEST: &str = "Cargo.toml";
/// Cargo writes it while it builds.
const LOCK: &str = "Cargo.lock";
/// Depth of folders at which the search ends.
const DEPTH_MAX: usize = 32;

/// The sources of a plugin: its folder, those of the packages in other folders that it depends on,
/// and the lock file of its dependencies.
pub(super) struct Sources {
    folder: PathBuf,
    /// Folders of other packages.
    packages: Vec<PathBuf>,
    /// The folder with the lock file and the profiles.
    workspace: PathBuf,
    /// The state of the files that say what the others are.
    manifests: Option<u64>,
    /// That of the lock file.
    lock: Option<u64>,
    /// The state of everything else when it was last looked at.
    sources: Option<u64>,
}

impl Sources {
    pub(super) fn new(folder: PathBuf) -> Sources {
        Sources {
            packages: Vec::new(),
            workspace: folder.clone(),
            folder,
            manifests: None,
            lock: None,
            sources: None,
        }
    }

    /// Whether a source was written, added or removed since the last time.
    pub(super) fn have_changed(&mut self) -> bool {
        let mut manifests = self.manifests();
        let mut have_changed = self.manifests != Some(manifests);
        if have_changed {
            if let Some(found) = local_packages(&self.folder) {
                self.workspace = found.workspace;
                self.packages = found.folders;
            }
            manifests = self.manifests();
        }
        self.manifests = Some(manifests);
        let lock = self.lock();
        have_changed |= self.lock != Some(lock);
        self.lock = Some(lock);
        let sources = self.sources();
        have_changed |= self.sources != Some(sources);
        self.sources = Some(sources);
        have_changed
    }

    /// Takes the lock file as it is now: the build that has just ended may have written it.
    pub(super) fn ignore_lock(&mut self) {
        self.lock = Some(self.lock());
    }

    fn lock(&self) -> u64 {
        state_of_file(&self.workspace.join(LOCK))
    }

    fn manifests(&self) -> u64 {
        let packages = self.packages.iter();
        let folders = packages.chain([&self.folder, &self.workspace]);
        sum(folders.map(|folder| state_of_file(&folder.join(MANIFEST))))
    }

    fn sources(&self) -> u64 {
        let folders = self.packages.iter().chain([&self.folder]);
        sum(folders.map(|folder| state_of(folder, DEPTH_MAX)))
    }
}

/// Combines states, whose order is arbitrary.
fn sum(states: impl Iterator<Item = u64>) -> u64 {
    states.fold(0, u64::wrapping_add)
}

/// Returns a number that changes when a file is written, added or removed.
fn state_of_file(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| {
        let mut hasher = DefaultHasher::new();
        (path, metadata.modified().ok(), metadata.len()).hash(&mut hasher);
        hasher.finish()
    })
}

/// Returns a number that changes when a source in a folder is written, added or removed.
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
            false if text == LOCK => continue,
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
        let state = |folder: &Path| state_of(folder, DEPTH_MAX);
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

    #[test]
    fn lock_is_a_source_unless_the_build_has_written_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join(LOCK);
        let mut sources = Sources::new(folder.path().to_owned());
        assert!(sources.have_changed());
        assert!(!sources.have_changed());
        fs::write(&lock, "by the author").unwrap();
        assert!(sources.have_changed());
        fs::write(&lock, "by the build, which has just ended").unwrap();
        sources.ignore_lock();
        assert!(!sources.have_changed());
        // A manifest that is written during a build is one of the next.
        fs::write(&lock, "by the build again").unwrap();
        fs::write(folder.path().join(MANIFEST), "[package]").unwrap();
        sources.ignore_lock();
        assert!(sources.have_changed());
        fs::write(folder.path().join("plugin.c"), "").unwrap();
        assert!(sources.have_changed());
    }
}
