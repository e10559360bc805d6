//! Keys that are unique and sort by time.

use crate::{Error, now_ms, random_fill};
use std::fmt::Write as _;

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
    let mut bytes = [0; 16];
    random_fill(&mut bytes)?;
    Ok(uuid_v7(now_ms(), bytes))
}

/// Returns the text of a UUID with this time and these random bytes.
fn uuid_v7(ms: i64, mut bytes: [u8; 16]) -> String {
    // 48 bits, which end in the year 10889.
    let [_, _, time @ ..] = ms.to_be_bytes();
    let [head @ .., _, _, _, _, _, _, _, _, _, _] = &mut bytes;
    *head = time;
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
    *version = 0x70 | (*version & 0x0f);
    *variant = 0x80 | (*variant & 0x3f);
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The example of RFC 9562, appendix A.6.
    #[test]
    fn key_is_a_uuid_of_version_7() {
        let random = [
            0, 0, 0, 0, 0, 0, 0x0c, 0xc3, 0x18, 0xc4, 0xdc, 0x0c, 0x0c, 0x07, 0x39, 0x8f,
        ];
        let text = uuid_v7(0x017f_22e2_79b0, random);
        assert_eq!(text, "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
    }

    #[test]
    fn keys_are_unique() {
        let keys: BTreeSet<_> = (0..1_000).map(|_| unique_key().unwrap()).collect();
        assert_eq!(keys.len(), 1_000);
    }
}
