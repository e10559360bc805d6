//! Configuration values of the app, which its administrators set (`kvasm config set`).
//!
//! A call sees the values as they were when it began. A principal needs `script:read`.
//!
//! ```
//! use kvasm_guest::{config, testing};
//!
//! testing::set_config("currency", "EUR");
//! testing::set_config("retries", "3");
//! assert_eq!(config::get::<String>("currency")?.as_deref(), Some("EUR"));
//! assert_eq!(config::get::<u32>("retries")?.unwrap_or(5), 3);
//! assert_eq!(config::get::<bool>("verbose")?, None);
//! # Ok::<(), kvasm_guest::Error>(())
//! ```

use crate::{Error, sys};
use std::fmt::Display;
use std::str::FromStr;

/// Returns a configuration value, parsed; `None` if it is not set.
///
/// # Errors
/// [`Error::Decode`] if it cannot be parsed; [`Error::Invalid`] for a name that no value can have;
/// [`Error::Denied`].
pub fn get<T: FromStr<Err: Display>>(name: &str) -> Result<Option<T>, Error> {
    let bytes = match sys::config_get(name) {
        Ok(bytes) => bytes,
        Err(Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8(bytes).map_err(|_| Error::malformed("config_get"))?;
    let parsed = text.parse().map_err(|error| {
        Error::Decode(format!(
            "the configuration value {name} cannot be parsed: {error}"
        ))
    })?;
    Ok(Some(parsed))
}
