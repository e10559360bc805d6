//! Cursors: the position after a page, signed so that no other list accepts it.

use super::{Collection, Invalid, Key, KeyRange, Subject};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::ops::Bound;

/// The secret with which an app's cursors are signed.
#[derive(Clone, PartialEq, Eq)]
pub struct CursorKey([u8; CursorKey::BYTES]);

impl CursorKey {
    /// Its length in bytes.
    pub const BYTES: usize = 32;

    /// Creates a key from 32 random bytes.
    pub fn new(bytes: [u8; CursorKey::BYTES]) -> CursorKey {
        CursorKey(bytes)
    }

    /// Returns the bytes, for the app's row.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CursorKey(..)")
    }
}

/// The position after a page: opaque bytes, bound to the app, the collection, the range and the
/// direction of the list that returned them.
///
/// The format is a format byte, 16 bytes of HMAC-SHA-256, and the last key of the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(Vec<u8>);

const FORMAT: u8 = 1;
const TAG_BYTES: usize = 16;

const _: () = assert!(Cursor::BYTES_MAX == 1 + TAG_BYTES + super::KEY_BYTES_MAX);

impl Cursor {
    /// The maximum length of a cursor, in bytes.
    pub const BYTES_MAX: usize = kvasm_abi::CURSOR_BYTES_MAX;

    /// Wraps bytes from outside. [`Cursor::open`] checks whether they are valid.
    ///
    /// # Errors
    /// [`Invalid::TooLarge`] over [`Cursor::BYTES_MAX`].
    pub fn parse(bytes: Vec<u8>) -> Result<Cursor, Invalid> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(Invalid::TooLarge {
                subject: Subject::Cursor,
                len: bytes.len() as u64,
                limit: Self::BYTES_MAX as u64,
            });
        }
        Ok(Cursor(bytes))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Creates the cursor after `key`, for the list over `range`.
    pub fn seal(
        secret: &CursorKey,
        collection: &Collection,
        range: &KeyRange,
        reverse: bool,
        key: &Key,
    ) -> Cursor {
        let tag = mac(secret, collection, range, reverse, key.as_str().as_bytes())
            .finalize()
            .into_bytes();
        let mut bytes = Vec::with_capacity(1 + TAG_BYTES + key.as_str().len());
        bytes.push(FORMAT);
        bytes.extend(tag.iter().take(TAG_BYTES));
        bytes.extend_from_slice(key.as_str().as_bytes());
        Cursor(bytes)
    }

    /// Returns the last key of the previous page.
    ///
    /// # Errors
    /// [`Invalid::ForeignCursor`] if it was sealed for another list, or modified.
    pub fn open(
        &self,
        secret: &CursorKey,
        collection: &Collection,
        range: &KeyRange,
        reverse: bool,
    ) -> Result<Key, Invalid> {
        let Some((&FORMAT, rest)) = self.0.split_first() else {
            return Err(Invalid::ForeignCursor);
        };
        let (tag, key) = rest
            .split_at_checked(TAG_BYTES)
            .ok_or(Invalid::ForeignCursor)?;
        mac(secret, collection, range, reverse, key)
            .verify_truncated_left(tag)
            .map_err(|_| Invalid::ForeignCursor)?;
        Key::parse(key).map_err(|_| Invalid::ForeignCursor)
    }
}

fn mac(
    secret: &CursorKey,
    collection: &Collection,
    range: &KeyRange,
    reverse: bool,
    key: &[u8],
) -> Hmac<Sha256> {
    #[allow(clippy::expect_used)] // HMAC takes keys of every length.
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("a key of 32 bytes");
    // Each part is preceded by its kind and length, so that two different lists never hash the same
    // bytes.
    let mut part = |kind: u8, bytes: &[u8]| {
        mac.update(&[kind]);
        mac.update(&(bytes.len() as u64).to_le_bytes());
        mac.update(bytes);
    };
    part(b'c', collection.as_str().as_bytes());
    for bound in [&range.lower, &range.upper] {
        match bound {
            Bound::Unbounded => part(b'u', &[]),
            Bound::Included(text) => part(b'i', text.as_bytes()),
            Bound::Excluded(text) => part(b'e', text.as_bytes()),
        }
    }
    part(b'r', &[u8::from(reverse)]);
    part(b'k', key);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_is_accepted_only_by_its_own_list() {
        let secret = CursorKey::new([7; 32]);
        let notes = Collection::parse("notes").unwrap();
        let other = Collection::parse("other").unwrap();
        let narrow = KeyRange::parse(Some(b"a".to_vec()), None, None).unwrap();
        let key = Key::parse("a1").unwrap();
        let other_secret = CursorKey::new([8; 32]);
        let cursor = Cursor::seal(&secret, &notes, &KeyRange::ALL, false, &key);

        let open =
            |secret, collection, range, reverse| cursor.open(secret, collection, range, reverse);
        assert_eq!(open(&secret, &notes, &KeyRange::ALL, false), Ok(key));
        let foreign = Err(Invalid::ForeignCursor);
        assert_eq!(open(&other_secret, &notes, &KeyRange::ALL, false), foreign);
        assert_eq!(open(&secret, &other, &KeyRange::ALL, false), foreign);
        assert_eq!(open(&secret, &notes, &narrow, false), foreign);
        assert_eq!(open(&secret, &notes, &KeyRange::ALL, true), foreign);
    }

    #[test]
    fn modified_cursor_is_rejected() {
        let secret = CursorKey::new([7; 32]);
        let notes = Collection::parse("notes").unwrap();
        let key = Key::parse("a1").unwrap();
        let cursor = Cursor::seal(&secret, &notes, &KeyRange::ALL, false, &key);
        for at in 0..cursor.0.len() {
            let mut edited = cursor.clone();
            edited.0[at] ^= 1;
            assert!(edited.open(&secret, &notes, &KeyRange::ALL, false).is_err());
            let cut = Cursor(cursor.0[..at].to_vec());
            assert!(cut.open(&secret, &notes, &KeyRange::ALL, false).is_err());
        }
        assert!(Cursor::parse(vec![0; Cursor::BYTES_MAX + 1]).is_err());
    }
}
