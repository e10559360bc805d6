//! Keys that are unique and sort by time.

use crate::Error;
use crate::typed::Uuid;

/// Returns a new key: a UUID of version 7 (RFC 9562) as text, of 36 bytes. Keys sort by the
/// millisecond in which they were made; those of the same millisecond sort at random.
///
/// # Errors
/// [`Error::Internal`] if the host has no randomness.
///
/// ```
/// use kvasm_guest::{kv, testing};
/// use std::time::Duration;
///
/// let first = kv::unique_key()?;
/// testing::advance(Duration::from_millis(1));
/// assert!(first < kv::unique_key()?);
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
pub fn unique_key() -> Result<String, Error> {
    Uuid::now_v7().map(|uuid| uuid.text())
}
