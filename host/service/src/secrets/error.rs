//! Why a secret cannot be sealed or opened.

use kvasm_core::KeyId;
use thiserror::Error;

/// Why a secret cannot be sealed or opened. Nothing was changed. No message contains a secret, a
/// key or a path; the sources may contain a path.
#[derive(Debug, Error)]
pub enum SecretsError {
    /// This host's key is not the one that the store's secrets are sealed with.
    #[error(
        "this host's secrets key is {given}, but the store's secrets are sealed with key {current}; \
         use the key file with that key, or make this key the current one with `kvasm secret \
         rotate-key`"
    )]
    OtherKey {
        /// The host's key.
        given: KeyId,
        /// The store's current key.
        current: KeyId,
    },
}
