//! Compiled modules on disk.
//!
//! A compiled module is machine code: whoever can put one in place runs code in
//! the host. So the folder is private to its owner, and each file is under an
//! HMAC with a key that lies in the folder. A file that does not check is
//! compiled anew, never loaded.

use super::error::RuntimeError;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use wasmtime::{Engine, Module};

const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;

/// A private folder of compiled modules.
pub(super) struct DiskCache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    /// Tells this build of wasmtime with these settings from any other.
    engine: String,
}

impl DiskCache {
    /// Opens the folder, and makes it and its key if they are not there.
    pub(super) fn open(dir: PathBuf, engine: &Engine) -> Result<DiskCache, RuntimeError> {
        let unusable = |why: String| RuntimeError::Cache {
            path: dir.display().to_string(),
            why,
        };
        make_private(&dir).map_err(|e| unusable(e.to_string()))?;
        let key = read_or_make_key(&dir).map_err(|e| unusable(e.to_string()))?;
        let mut hasher = DigestHasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(DiskCache {
            key,
            engine: hex::encode(hasher.0.finalize()),
            dir,
        })
    }

    fn name(&self, wasm: &[u8; 32]) -> String {
        format!("{}-{}", hex::encode(wasm), self.engine)
    }

    /// The module compiled from wasm of this hash, if it is there and sound.
    #[allow(unsafe_code)]
    pub(super) fn get(&self, engine: &Engine, wasm: &[u8; 32]) -> Option<Module> {
        let name = self.name(wasm);
        let file = match std::fs::read(self.dir.join(&name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, "a compiled module could not be read; compiling it anew");
                return None;
            }
        };
        let Some((tag, code)) = file.split_at_checked(TAG_BYTES) else {
            tracing::warn!("a compiled module on disk is cut short; compiling it anew");
            return None;
        };
        if self.mac(&name, code).verify_slice(tag).is_err() {
            tracing::warn!("a compiled module on disk was altered; compiling it anew");
            return None;
        }
        // SAFETY: `deserialize` trusts its bytes to come from `Module::serialize`.
        // The HMAC that was just verified over these very bytes in memory says
        // that a holder of the key wrote them, which is this function's `put`
        // alone, for this name: this wasm, this wasmtime, these settings.
        let module = unsafe { Module::deserialize(engine, code) };
        module
            .inspect_err(|error| tracing::warn!(%error, "a compiled module could not be loaded"))
            .ok()
    }

    /// Keeps a module. A failure costs the next start some time and no more.
    pub(super) fn put(&self, wasm: &[u8; 32], module: &Module) {
        let kept = module
            .serialize()
            .map_err(|e| e.to_string())
            .and_then(|code| self.write(wasm, &code).map_err(|e| e.to_string()));
        if let Err(error) = kept {
            tracing::warn!(error, "a compiled module could not be kept");
        }
    }

    fn write(&self, wasm: &[u8; 32], code: &[u8]) -> io::Result<()> {
        let name = self.name(wasm);
        let tag = self.mac(&name, code).finalize().into_bytes();
        // Written aside and renamed, so that no reader sees half a file.
        let aside = self.dir.join(format!("{}.tmp", uuid::Uuid::new_v4()));
        let written = private_file(&aside).and_then(|mut file| {
            file.write_all(&tag)?;
            file.write_all(code)
        });
        written
            .and_then(|()| std::fs::rename(&aside, self.dir.join(&name)))
            .inspect_err(|_| {
                let _ = std::fs::remove_file(&aside);
            })
    }

    fn mac(&self, name: &str, code: &[u8]) -> Hmac<Sha256> {
        #[allow(clippy::expect_used)] // HMAC takes keys of every length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key of 32 bytes");
        mac.update(&(name.len() as u64).to_le_bytes());
        mac.update(name.as_bytes());
        mac.update(code);
        mac
    }
}

/// Feeds what is hashed to SHA-256, whose result does not change between builds
/// of Rust as the default hasher's may.
struct DigestHasher(Sha256);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(unix)]
fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let mode = std::fs::metadata(dir)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "others have access to it (mode {mode:o}); run chmod 700 on it, or name another folder"
        )));
    }
    Ok(())
}

#[cfg(not(unix))]
fn make_private(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)
}

/// A new file that its owner alone can read.
fn private_file(path: &Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn read_or_make_key(dir: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let path = dir.join(KEY_FILE);
    if !path.exists() {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        let aside = dir.join(format!("{}.tmp", uuid::Uuid::new_v4()));
        private_file(&aside)?.write_all(&key)?;
        // A link, unlike a rename, does not replace the key that another
        // process may have made meanwhile.
        let linked = std::fs::hard_link(&aside, &path);
        std::fs::remove_file(&aside)?;
        match linked {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Ok(()) | Err(_) => {}
        }
    }
    std::fs::read(&path)?.try_into().map_err(|_| {
        io::Error::other(format!(
            "its key file {} is damaged; remove it, and the modules are compiled anew",
            path.display()
        ))
    })
}
