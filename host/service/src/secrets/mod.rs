//! Sealing of secrets.

mod error;

pub use error::SecretsError;
