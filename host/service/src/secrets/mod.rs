//! Sealing of secrets: the key file, the keys of a host, and their rotation. Rationale:
//! `docs/decisions/0030-settings-and-secrets.md`.

mod error;
mod key;
mod key_file;
mod keyring;
mod rotation;
#[cfg(test)]
mod tests;

pub use error::{KeyFileError, SecretsError};
pub use key::OpenedSecret;
pub use keyring::Keyring;
pub use rotation::{NewKey, Rotated, create_key_file, rotate_secrets_key};
