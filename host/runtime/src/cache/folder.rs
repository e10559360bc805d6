//! The folder itself: ownership, its key, and eviction.

use super::CacheLimits;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const KEY_FILE: &str = "key";
pub(super) const KEY_BYTES: usize = 32;
/// Suffix of files being written.
pub(super) const TMP: &str = ".tmp";
/// Age after which a temporary file was left by a crash.
const TMP_AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// Files of other builds are removed when unused for this long: during an upgrade two builds may
/// share the folder.
const OTHER_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Fill level after a sweep of a full folder, in percent, so that not every new file needs
/// another sweep.
const SWEPT_PERCENT: u64 = 90;

/// A folder that only its owner can access.
pub(super) struct CacheFolder(PathBuf);

/// A compiled module.
struct File {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
    own: bool,
}

impl CacheFolder {
    /// Opens the folder, and creates it if it does not exist.
    pub(super) fn open(dir: PathBuf) -> io::Result<CacheFolder> {
        make_private(&dir)?;
        Ok(CacheFolder(dir))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Returns the key; generates a new one if it is missing or damaged. Files written under a
    /// damaged key are removed, because they cannot be verified.
    pub(super) fn key(&self) -> io::Result<[u8; KEY_BYTES]> {
        let path = self.path(KEY_FILE);
        match std::fs::read(&path) {
            Ok(bytes) => match bytes.try_into() {
                Ok(key) => return Ok(key),
                Err(_) => {
                    tracing::warn!(
                        file = %path.display(),
                        "the key of the cache folder is damaged; removing its files"
                    );
                    self.remove_all()?;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        let aside = self.path(&format!("{}{TMP}", uuid::Uuid::new_v4()));
        let written = private_file(&aside).and_then(|mut file| {
            file.write_all(&key)?;
            // An empty key after a power failure would invalidate all files.
            file.sync_all()
        });
        // If another process does the same, the last one wins. Files of the others then fail
        // verification and are written again.
        written
            .and_then(|()| std::fs::rename(&aside, &path))
            .inspect_err(|_| {
                let _ = std::fs::remove_file(&aside);
            })?;
        // Persists the name too. Not supported by every file system.
        let _ = std::fs::File::open(&self.0).and_then(|dir| dir.sync_all());
        std::fs::read(&path)?
            .try_into()
            .map_err(|_| io::Error::other("the new key was damaged right after it was written"))
    }

    fn remove_all(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| engine_of(name).is_some()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes leftover files, then the least recently used ones until the folder is within
    /// `limits`. Returns the remaining bytes and files.
    ///
    /// Files whose names do not match the cache's own are never touched.
    pub(super) fn sweep(&self, engine: &str, limits: CacheLimits) -> io::Result<(u64, u64)> {
        let now = SystemTime::now();
        let older = |used, than| now.duration_since(used).is_ok_and(|age| age > than);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let of = engine_of(name);
            let is_aside = is_aside(name);
            if of.is_none() && !is_aside {
                continue;
            }
            // Another process may have removed it in the meantime.
            let Ok(about) = entry.metadata() else {
                continue;
            };
            let used = about.modified().unwrap_or(now);
            let own = of == Some(engine);
            let left_over = match is_aside {
                true => older(used, TMP_AGE_MAX),
                false => !own && older(used, OTHER_AGE_MAX),
            };
            if left_over {
                remove(&entry.path())?;
                continue;
            }
            files.push(File {
                path: entry.path(),
                bytes: about.len(),
                used,
                own,
            });
        }
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let mut count = files.len() as u64;
        if bytes > limits.bytes || count > limits.files {
            let part = |limit: u64| limit / 100 * SWEPT_PERCENT + limit % 100 * SWEPT_PERCENT / 100;
            files.sort_by_key(|file| (file.own, file.used));
            for file in files {
                if bytes <= part(limits.bytes) && count <= part(limits.files) {
                    break;
                }
                remove(&file.path)?;
                bytes -= file.bytes;
                count -= 1;
            }
        }
        Ok((bytes, count))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns the engine in the name of a compiled module: two hashes in hexadecimal.
fn engine_of(name: &str) -> Option<&str> {
    let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let (wasm, engine) = name.split_once('-')?;
    (is_hash(wasm) && is_hash(engine)).then_some(engine)
}

fn is_aside(name: &str) -> bool {
    name.strip_suffix(TMP)
        .is_some_and(|id| uuid::Uuid::try_parse(id).is_ok())
}

#[cfg(unix)]
fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    if !dir.is_dir() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
    }
    let about = std::fs::metadata(dir)?;
    let mode = about.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "accessible by other users (mode {mode:o}); run chmod 700 on it, or use another folder"
        )));
    }
    let (owner, own) = (about.uid(), rustix::process::geteuid().as_raw());
    if owner != own {
        return Err(io::Error::other(format!(
            "owned by user {owner}, but this process runs as user {own}; use another folder"
        )));
    }
    Ok(())
}

#[cfg(not(unix))]
fn make_private(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)
}

/// Creates a file that only its owner can read.
pub(super) fn private_file(path: &Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGINE: &str = "00000000000000000000000000000000000000000000000000000000000000ee";
    const OTHER: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

    fn folder() -> (tempfile::TempDir, CacheFolder) {
        let temp = tempfile::tempdir().unwrap();
        let folder = CacheFolder::open(temp.path().join("cache")).unwrap();
        (temp, folder)
    }

    fn module(number: u64, engine: &str) -> String {
        format!("{number:064x}-{engine}")
    }

    fn put(folder: &CacheFolder, name: &str, bytes: usize, age: Duration) {
        let mut file = private_file(&folder.path(name)).unwrap();
        file.write_all(&vec![0; bytes]).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    fn names(folder: &CacheFolder) -> Vec<String> {
        let files = std::fs::read_dir(&folder.0).unwrap();
        let mut names: Vec<_> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    const HOUR: Duration = Duration::from_secs(60 * 60);

    #[test]
    fn least_recently_used_files_are_evicted_first() {
        let (_temp, folder) = folder();
        for number in 0..10 {
            let age = Duration::from_secs(100 - number);
            put(&folder, &module(number, ENGINE), 100, age);
        }
        let limits = |bytes, files| CacheLimits { bytes, files };
        assert_eq!(
            folder.sweep(ENGINE, limits(1_000, 10)).unwrap(),
            (1_000, 10)
        );
        assert_eq!(folder.sweep(ENGINE, limits(999, 10)).unwrap(), (800, 8));
        assert_eq!(folder.sweep(ENGINE, limits(999, 5)).unwrap(), (400, 4));
        let left: Vec<_> = (6..10).map(|number| module(number, ENGINE)).collect();
        assert_eq!(names(&folder), left);
        assert_eq!(folder.sweep(ENGINE, limits(0, 0)).unwrap(), (0, 0));
        assert!(names(&folder).is_empty());
    }

    #[test]
    fn stale_files_are_removed_and_foreign_files_kept() {
        let (_temp, folder) = folder();
        let aside = || format!("{}{TMP}", uuid::Uuid::new_v4());
        let (new, old) = (aside(), aside());
        put(&folder, &new, 1, HOUR / 2);
        put(&folder, &old, 1, HOUR * 2);
        put(&folder, &module(1, OTHER), 1, HOUR * 48);
        put(&folder, &module(2, OTHER), 1, HOUR * 2);
        put(&folder, &module(3, ENGINE), 1, HOUR * 480);
        put(&folder, "letters.tmp", 1, HOUR * 48);
        put(&folder, "photo-of-a-cat.jpeg", 1, HOUR * 48);
        let limits = CacheLimits {
            bytes: 100,
            files: 100,
        };
        assert_eq!(folder.sweep(ENGINE, limits).unwrap(), (3, 3));
        let mut left = vec![
            new,
            module(2, OTHER),
            module(3, ENGINE),
            "letters.tmp".to_owned(),
            "photo-of-a-cat.jpeg".to_owned(),
        ];
        left.sort();
        assert_eq!(names(&folder), left);
        // The other build's file is evicted first, however new.
        let one = CacheLimits {
            bytes: 2,
            files: 100,
        };
        folder.sweep(ENGINE, one).unwrap();
        assert!(!names(&folder).contains(&module(2, OTHER)));
    }

    #[test]
    fn damaged_key_and_its_files_are_replaced() {
        let (_temp, folder) = folder();
        let key = folder.key().unwrap();
        assert_eq!(folder.key().unwrap(), key);
        for damage in [&b""[..], b"short", &[0; 33]] {
            put(&folder, &module(1, ENGINE), 1, HOUR);
            put(&folder, "mine", 1, HOUR);
            std::fs::write(folder.path(KEY_FILE), damage).unwrap();
            let new = folder.key().unwrap();
            assert_ne!(new, key);
            assert_eq!(folder.key().unwrap(), new);
            assert_eq!(names(&folder), [KEY_FILE, "mine"]);
            std::fs::remove_file(folder.path("mine")).unwrap();
        }
    }
}
