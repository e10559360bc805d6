//! Sealing of secrets: the key file, the keys of a host, and their rotation. Rationale:
//! `docs/decisions/0030-settings-and-secrets.md`.

mod key;
mod key_file;
mod keyring;
mod rotation;
mod secrets_error;
#[cfg(test)]
mod tests;

pub use key::OpenedSecret;
pub use keyring::Keyring;
pub use rotation::{NewKey, Rotated, create_key_file, rotate_secrets_key};
pub use secrets_error::{KeyFileError, SecretsError};
