//! Secrets of the app.

use crate::{Error, sys};
use std::fmt;

/// A secret of the app. Debug output does not show it, and its memory is zeroed when it is dropped.
pub struct Secret(Vec<u8>);

impl Secret {
    /// Returns the secret's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the secret as text.
    ///
    /// # Errors
    /// [`Error::Decode`] if it is not UTF-8. The error does not contain it.
    pub fn as_str(&self) -> Result<&str, Error> {
        let text = std::str::from_utf8(&self.0);
        text.map_err(|_| Error::Decode("the secret is not UTF-8".to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // So that the zeros are not optimised away.
        std::hint::black_box(&self.0);
    }
}

/// Returns a secret of the app, which its administrators set (`kvasm secret set`); `None` if it is
/// not set. A call sees it as it was when it began. A principal needs `script:read`.
///
/// ```
/// use kvasm_guest::{secret, testing};
///
/// testing::set_secret("stripe-key", "sk_test");
/// let key = secret("stripe-key")?.ok_or("set the secret stripe-key")?;
/// assert_eq!(key.as_str()?, "sk_test");
/// assert_eq!(format!("{key:?}"), "Secret(..)");
/// assert!(secret("other")?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Internal`] if the host cannot decrypt it; [`Error::Invalid`] for a name that no secret
/// can have; [`Error::Denied`].
pub fn secret(name: &str) -> Result<Option<Secret>, Error> {
    match sys::secret_get(name) {
        Ok(bytes) => Ok(Some(Secret(bytes))),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
