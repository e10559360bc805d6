//! Why a secret cannot be sealed or opened.

use kvasm_core::{KeyId, SettingName};
use std::path::PathBuf;
use thiserror::Error;

/// Why a secret cannot be sealed or opened. Nothing was changed. No message contains a secret or a
/// key. A path is only in the sources.
#[derive(Debug, Error)]
pub enum SecretsError {
    /// The host has no key.
    #[error(
        "this host has no key for secrets; set secrets.key_file, or KVASM_SECRETS_KEY_FILE, to a \
         key file, which `kvasm secret new-key FILE` makes"
    )]
    NotConfigured,
    /// The host's key file cannot be used.
    #[error("this host's key file for secrets cannot be used; the reason is in the host's log")]
    KeyFile(#[source] KeyFileError),
    /// This host's key is not the one that the store's secrets are sealed with.
    #[error(
        "this host's secrets key is {given}, but the store's secrets are sealed with key \
         {current}; use the key file with that key, or make this key the current one with \
         `kvasm secret rotate-key`"
    )]
    OtherKey {
        /// The host's key.
        given: KeyId,
        /// The store's current key.
        current: KeyId,
    },
    /// The secret was sealed with a key that this host does not have.
    #[error(
        "secret {name} was sealed with another key ({key}), which is not in this host's key file; \
         add that key to the file, or set the secret again"
    )]
    UnknownKey {
        /// The secret.
        name: SettingName,
        /// The key that sealed it.
        key: KeyId,
    },
    /// The sealed bytes are not those that the key has sealed for this app and name.
    #[error("secret {name} cannot be opened: its sealed bytes were changed; set it again")]
    Damaged {
        /// The secret.
        name: SettingName,
    },
    /// The system's random number generator failed.
    #[error("the host's random number generator failed")]
    Random,
}

/// Why a key file cannot be used. The message contains its path, for the operator.
#[derive(Debug, Error)]
#[error("{}: {why}", path.display())]
pub struct KeyFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, or what failed.
    pub why: String,
}
