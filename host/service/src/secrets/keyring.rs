//! The keys of a host.

use super::key::{OpenedSecret, SecretsKey};
use super::key_file::{self, FileState};
use super::{KeyFileError, SecretsError};
use kvasm_core::{AppId, KeyId, SealedSecret, SettingName};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};

/// Keys that are kept in memory after they have left the file: a reader may still hold what they
/// have sealed, read before a rotation.
const OLD_KEYS_MAX: usize = 16;

/// The keys with which a host seals and opens secrets. Debug output shows their identities only.
#[derive(Debug, Default)]
pub struct Keyring {
    source: KeySource,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
enum KeySource {
    /// No keys.
    #[default]
    None,
    /// Keys that end with this process.
    Memory,
    File {
        path: PathBuf,
        /// Whether a missing file is created when the first secret is sealed.
        create: bool,
    },
}

#[derive(Debug, Default)]
struct Loaded {
    /// The keys of the file, the one that seals first.
    keys: Vec<SecretsKey>,
    /// Keys that were in the file before.
    old: Vec<SecretsKey>,
    /// The file as it was when it was read.
    file: Option<FileState>,
}

impl Loaded {
    fn find(&self, id: KeyId) -> Option<SecretsKey> {
        let mut all = self.keys.iter().chain(&self.old);
        all.find(|key| key.id() == id).cloned()
    }

    fn replace(&mut self, keys: Vec<SecretsKey>, file: FileState) {
        let gone = std::mem::replace(&mut self.keys, keys).into_iter();
        let gone = gone.filter(|key| !self.keys.iter().any(|kept| kept.id() == key.id()));
        let gone: Vec<_> = gone.collect();
        self.old.splice(0..0, gone);
        self.old.truncate(OLD_KEYS_MAX);
        self.file = Some(file);
    }
}

impl Keyring {
    /// A random key that is lost when the process ends. For a store in memory.
    ///
    /// # Errors
    /// [`SecretsError::Random`].
    pub fn ephemeral() -> Result<Keyring, SecretsError> {
        let loaded = Loaded {
            keys: vec![SecretsKey::generate()?],
            ..Loaded::default()
        };
        Ok(Keyring {
            source: KeySource::Memory,
            loaded: Mutex::new(loaded),
        })
    }

    /// The keys of an operator's file. It is read again when it changes.
    pub fn file(path: impl Into<PathBuf>) -> Keyring {
        Keyring::of_file(path.into(), false)
    }

    /// The keys of a file that is created, readable by its owner only, when the first secret is
    /// sealed.
    pub fn file_or_create(path: impl Into<PathBuf>) -> Keyring {
        Keyring::of_file(path.into(), true)
    }

    fn of_file(path: PathBuf, create: bool) -> Keyring {
        let keyring = Keyring {
            source: KeySource::File { path, create },
            loaded: Mutex::default(),
        };
        // So that keys are in memory before a rotation removes them. A failure is reported at use.
        let _ = keyring.reload();
        keyring
    }

    /// Returns the path of the key file.
    ///
    /// # Errors
    /// [`SecretsError::NotConfigured`] if there is none.
    pub(super) fn path(&self) -> Result<&Path, SecretsError> {
        match &self.source {
            KeySource::File { path, .. } => Ok(path),
            KeySource::None | KeySource::Memory => Err(SecretsError::NotConfigured),
        }
    }

    /// Reads the file again if it has changed. Returns whether it has keys.
    fn reload(&self) -> Result<bool, SecretsError> {
        let path = match &self.source {
            KeySource::None => return Err(SecretsError::NotConfigured),
            KeySource::Memory => return Ok(true),
            KeySource::File { path, .. } => path,
        };
        let mut loaded = self.loaded.lock();
        let now = FileState::of(path).ok();
        if now.is_some() && loaded.file == now {
            return Ok(true);
        }
        match key_file::read(path)? {
            Some((keys, file)) => {
                loaded.replace(keys, file);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Reads the file, and creates it if it is missing and may be. `current` is the store's
    /// current key: if there is one, a new file would not have it.
    pub(super) fn load(&self, current: Option<KeyId>) -> Result<(), SecretsError> {
        if self.reload()? {
            return Ok(());
        }
        let path = self.path()?;
        let is_creatable = matches!(self.source, KeySource::File { create: true, .. });
        let why = match current {
            None if is_creatable => {
                key_file::create(path)?;
                self.reload()?;
                return Ok(());
            }
            None => "it does not exist; `kvasm secret new-key FILE` makes one".to_owned(),
            Some(current) => format!(
                "it does not exist, and the store's secrets are sealed with key {current}; restore \
                 the file, or make a new one with `kvasm secret new-key`, use it with `kvasm secret \
                 rotate-key`, and set the secrets again"
            ),
        };
        Err(SecretsError::KeyFile(KeyFileError {
            path: path.to_owned(),
            why,
        }))
    }

    /// Returns the keys of the file, the one that seals first.
    pub(super) fn keys(&self) -> Vec<SecretsKey> {
        self.loaded.lock().keys.clone()
    }

    /// Seals a secret with the store's current key, or with the first of the file if it has none
    /// or this host does not have it.
    ///
    /// # Errors
    /// [`SecretsError`] without a usable key.
    pub fn seal(
        &self,
        app: AppId,
        name: &SettingName,
        current: Option<KeyId>,
        secret: &[u8],
    ) -> Result<SealedSecret, SecretsError> {
        self.load(current)?;
        let keys = self.keys();
        let key = keys.iter().find(|key| Some(key.id()) == current);
        let key = key.or(keys.first()).ok_or(SecretsError::NotConfigured)?;
        key.seal(app, name, secret)
    }

    /// Opens a secret.
    ///
    /// # Errors
    /// [`SecretsError`] without the key that sealed it, and if its bytes were changed.
    pub fn open(
        &self,
        app: AppId,
        name: &SettingName,
        sealed: &SealedSecret,
    ) -> Result<OpenedSecret, SecretsError> {
        let key = self.loaded.lock().find(sealed.key);
        let key = match key {
            Some(key) => key,
            None => {
                self.load(Some(sealed.key))?;
                let found = self.loaded.lock().find(sealed.key);
                found.ok_or_else(|| SecretsError::UnknownKey {
                    name: name.clone(),
                    key: sealed.key,
                })?
            }
        };
        key.open(app, name, sealed)
    }
}
