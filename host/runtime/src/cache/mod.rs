//! Compiled modules on disk.
//!
//! A compiled module is machine code: anyone who can replace one runs code in the host. So the
//! folder is private to its owner, and each file has an HMAC, whose key is also in the folder. A
//! file that fails verification is compiled again, never loaded.
//!
//! The folder is optional. Problems with it are logged once, and modules are compiled in memory.

mod folder;

use super::module::LoadedModule;
use super::source_lines::SourceLines;
use super::worker;
use folder::{CacheFolder, TMP};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use sha2::Sha256;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use wasmtime::{Engine, Module};

const TAG_BYTES: usize = 32;
/// The length of the section, which follows the tag.
const LEN_BYTES: usize = 4;
/// The section length of a module without a section.
const NO_SECTION: u32 = u32::MAX;
/// Interval at which the folder's size is recalculated, as other processes may use it too.
const RECOUNT: Duration = Duration::from_secs(60);
/// Minimum interval between updates of a file's time of last use.
const TOUCH: Duration = Duration::from_secs(60);

/// Limits of the cache folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Total size of all files, in bytes.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
}

impl Default for CacheLimits {
    /// 1 GiB, 10,000 files.
    fn default() -> CacheLimits {
        CacheLimits {
            bytes: 1 << 30,
            files: 10_000,
        }
    }
}

/// A private folder of compiled modules.
pub(super) struct DiskCache {
    folder: CacheFolder,
    key: [u8; folder::KEY_BYTES],
    limits: CacheLimits,
    /// Identifies this build of wasmtime with these settings.
    engine: String,
    count: Mutex<FolderSize>,
    warned: AtomicBool,
}

/// The size of the folder, as known to this process.
struct FolderSize {
    bytes: u64,
    files: u64,
    at: Instant,
}

impl DiskCache {
    /// Opens the folder; creates it and its key if they do not exist. Logs a warning and returns
    /// `None` if it cannot be used.
    pub(super) fn open(dir: PathBuf, limits: CacheLimits, engine: &Engine) -> Option<DiskCache> {
        let shown = dir.display().to_string();
        let engine = hex::encode(worker::fingerprint(engine));
        let opened = CacheFolder::open(dir).and_then(|folder| {
            let key = folder.key()?;
            let count = folder.sweep(&engine, limits)?;
            Ok((folder, key, count))
        });
        match opened {
            Ok((folder, key, (bytes, files))) => Some(DiskCache {
                folder,
                key,
                limits,
                engine,
                count: Mutex::new(FolderSize {
                    bytes,
                    files,
                    at: Instant::now(),
                }),
                warned: AtomicBool::new(false),
            }),
            Err(error) => {
                tracing::warn!(
                    folder = shown, %error,
                    "the cache folder cannot be used; plugins are compiled at each start"
                );
                None
            }
        }
    }

    fn name(&self, wasm: &[u8; 32]) -> String {
        format!("{}-{}", hex::encode(wasm), self.engine)
    }

    /// Returns the module compiled from wasm with this hash, and its section of declarations, if
    /// the file exists and passes verification.
    #[allow(unsafe_code)]
    pub(super) fn get(
        &self,
        engine: &Engine,
        wasm: &[u8; 32],
    ) -> Option<(LoadedModule, Option<Vec<u8>>)> {
        let name = self.name(wasm);
        let path = self.folder.path(&name);
        let file = match std::fs::read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.warn(
                    &error,
                    "a compiled module could not be read from the cache folder",
                );
                return None;
            }
        };
        let sound = self.sound(&name, &file).and_then(|(section, compiled)| {
            let (lines, code) = SourceLines::decode(compiled)?;
            Some((section, lines, code))
        });
        let Some((section, lines, code)) = sound else {
            tracing::warn!(
                file = %path.display(),
                "a compiled module in the cache folder is damaged; it is compiled again"
            );
            return None;
        };
        // SAFETY: `deserialize` trusts its bytes to come from `Module::serialize` or
        // `Engine::precompile_module`. The HMAC that was just verified over these very
        // bytes in memory says that a holder of the key wrote them, which is this
        // type's `put` alone, for this name: this wasm, this wasmtime, these settings.
        let module = unsafe { Module::deserialize(engine, code) };
        let module = module
            .inspect_err(|error| tracing::warn!(%error, "a cached module could not be loaded"))
            .ok()?;
        self.touch(&path);
        Some((LoadedModule { module, lines }, section.map(<[u8]>::to_vec)))
    }

    /// Returns the section and the code of a file if its tag is valid.
    fn sound<'f>(&self, name: &str, file: &'f [u8]) -> Option<(Option<&'f [u8]>, &'f [u8])> {
        let (tag, body) = file.split_at_checked(TAG_BYTES)?;
        self.mac(name, &[body]).verify_slice(tag).ok()?;
        let (len, rest) = body.split_first_chunk::<LEN_BYTES>()?;
        match u32::from_le_bytes(*len) {
            NO_SECTION => Some((None, rest)),
            len => {
                let (section, code) = rest.split_at_checked(usize::try_from(len).ok()?)?;
                Some((Some(section), code))
            }
        }
    }

    /// Updates a file's time of last use, which determines eviction.
    fn touch(&self, path: &std::path::Path) {
        let now = SystemTime::now();
        let mark = || -> io::Result<()> {
            let used = std::fs::metadata(path)?.modified()?;
            if now.duration_since(used).is_ok_and(|age| age < TOUCH) {
                return Ok(());
            }
            std::fs::File::options()
                .write(true)
                .open(path)?
                .set_modified(now)
        };
        // Nothing is evicted on a read-only file system either.
        let _ = mark();
    }

    /// Stores a module. A failure only costs time at the next start.
    pub(super) fn put(&self, wasm: &[u8; 32], section: Option<&[u8]>, code: &[u8]) {
        if let Err(error) = self.write(wasm, section, code) {
            self.warn(
                &error,
                "a compiled module could not be kept in the cache folder",
            );
        }
    }

    fn write(&self, wasm: &[u8; 32], section: Option<&[u8]>, code: &[u8]) -> io::Result<()> {
        let len = match section {
            Some(section) => u32::try_from(section.len()).map_err(io::Error::other)?,
            None => NO_SECTION,
        };
        let parts = [&len.to_le_bytes()[..], section.unwrap_or_default(), code];
        let bytes = parts.iter().map(|part| part.len() as u64).sum::<u64>() + TAG_BYTES as u64;
        if bytes > self.limits.bytes {
            return Ok(());
        }
        let name = self.name(wasm);
        let tag = self.mac(&name, &parts).finalize().into_bytes();
        // Writes are serialized, so that two cannot use the same free space.
        let mut count = self.count.lock();
        let full = count.bytes.saturating_add(bytes) > self.limits.bytes
            || count.files >= self.limits.files;
        if full || count.at.elapsed() > RECOUNT {
            let room = CacheLimits {
                bytes: self.limits.bytes - bytes,
                files: self.limits.files.saturating_sub(1),
            };
            (count.bytes, count.files) = self.folder.sweep(&self.engine, room)?;
            count.at = Instant::now();
        }
        if count.files >= self.limits.files {
            return Ok(());
        }
        // Written to a temporary file and renamed, so that no reader sees a partial file.
        let aside = self.folder.path(&format!("{}{TMP}", uuid::Uuid::new_v4()));
        let written = folder::private_file(&aside).and_then(|mut file| {
            file.write_all(&tag)?;
            parts.iter().try_for_each(|part| file.write_all(part))
        });
        written
            .and_then(|()| std::fs::rename(&aside, self.folder.path(&name)))
            .inspect_err(|_| {
                let _ = std::fs::remove_file(&aside);
            })?;
        count.bytes += bytes;
        count.files += 1;
        Ok(())
    }

    /// Warns about the first failure only; a folder that stays broken would repeat it for each
    /// module.
    fn warn(&self, error: &io::Error, what: &str) {
        if self.warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(%error, "{what}");
        } else {
            tracing::warn!(%error, "{what}; plugins are compiled again instead");
        }
    }

    fn mac(&self, name: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        #[allow(clippy::expect_used)] // HMAC accepts keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key of 32 bytes");
        mac.update(&(name.len() as u64).to_le_bytes());
        mac.update(name.as_bytes());
        for part in parts {
            mac.update(part);
        }
        mac
    }
}
