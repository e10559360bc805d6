//! The rules of collections, keys, and the prefixes and bounds of lists.
//!
//! ```
//! use kvasm_abi::names::{self, TextError};
//!
//! assert_eq!(names::key(b"2026-01-30"), Ok("2026-01-30"));
//! let error = names::key(&[b'k'; 1025]).unwrap_err();
//! assert_eq!(error, TextError::TooLarge { len: 1025, limit: 1024 });
//! let message = error.about("key").to_string();
//! assert_eq!(message, "the key is 1025 bytes; the limit is 1024 bytes");
//! ```

use core::fmt::{self, Display};
use core::str::{self, Utf8Error};

/// The maximum length of a collection name, in bytes. Fixed, because collection and key together
/// must fit an index entry of Postgres (2,704 bytes).
pub const COLLECTION_BYTES_MAX: usize = 128;
/// The maximum length of a key, and of a prefix or bound of a list, in bytes. Fixed for the same
/// reason.
pub const KEY_BYTES_MAX: usize = 1024;

/// The maximum length of the name of a timer, in bytes.
pub const TIMER_BYTES_MAX: usize = 256;

/// The maximum length of the name of a configuration value or a secret, in bytes.
pub const SETTING_BYTES_MAX: usize = 64;
/// The characters of the name of a configuration value or a secret, for messages.
pub const SETTING_CHARACTERS: &str = "a-z, A-Z, 0-9, '_', '-' and '.'";

/// Checks the name of a collection: 1 to [`COLLECTION_BYTES_MAX`] bytes of UTF-8 without NUL.
///
/// # Errors
/// The first rule that it breaks.
pub fn collection(bytes: &[u8]) -> Result<&str, TextError> {
    name(bytes, COLLECTION_BYTES_MAX)
}

/// Checks a key: 1 to [`KEY_BYTES_MAX`] bytes of UTF-8 without NUL.
///
/// # Errors
/// The first rule that it breaks.
pub fn key(bytes: &[u8]) -> Result<&str, TextError> {
    name(bytes, KEY_BYTES_MAX)
}

/// Checks the name of a timer: 1 to [`TIMER_BYTES_MAX`] bytes of UTF-8 without NUL.
///
/// # Errors
/// The first rule that it breaks.
pub fn timer(bytes: &[u8]) -> Result<&str, TextError> {
    name(bytes, TIMER_BYTES_MAX)
}

/// Checks a prefix or a bound of a list: at most [`KEY_BYTES_MAX`] bytes of UTF-8 without NUL.
/// It may be empty.
///
/// # Errors
/// The first rule that it breaks.
pub fn bound(bytes: &[u8]) -> Result<&str, TextError> {
    text(bytes, KEY_BYTES_MAX)
}

/// Checks the name of a configuration value or a secret: 1 to [`SETTING_BYTES_MAX`] of
/// [`SETTING_CHARACTERS`].
///
/// # Errors
/// The first rule that it breaks.
pub fn setting(bytes: &[u8]) -> Result<&str, SettingNameError> {
    let name = name(bytes, SETTING_BYTES_MAX).map_err(SettingNameError::Text)?;
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "_-.".contains(*c);
    match name.chars().find(|c| !allowed(c)) {
        Some(found) => Err(SettingNameError::Character(found)),
        None => Ok(name),
    }
}

/// Why bytes are not the name of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingNameError {
    /// They are not valid text.
    Text(TextError),
    /// They contain a character that is not allowed.
    Character(char),
}

fn name(bytes: &[u8], limit: usize) -> Result<&str, TextError> {
    match bytes {
        [] => Err(TextError::Empty),
        _ => text(bytes, limit),
    }
}

/// Checks text: at most `limit` bytes of UTF-8 without NUL. It may be empty.
///
/// # Errors
/// The first rule that it breaks.
pub fn text(bytes: &[u8], limit: usize) -> Result<&str, TextError> {
    size(bytes.len() as u64, limit)?;
    let text = str::from_utf8(bytes)?;
    match text.contains('\0') {
        true => Err(TextError::Nul),
        false => Ok(text),
    }
}

/// Checks a length in bytes.
///
/// # Errors
/// [`TextError::TooLarge`] over `limit`.
pub fn size(len: u64, limit: usize) -> Result<(), TextError> {
    let limit = limit as u64;
    match len > limit {
        true => Err(TextError::TooLarge { len, limit }),
        false => Ok(()),
    }
}

/// Why bytes are not valid text, such as a name. Its message needs a subject: [`TextError::about`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextError {
    /// It is empty.
    Empty,
    /// It exceeds its limit.
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// The maximum, in bytes.
        limit: u64,
    },
    /// It is not UTF-8.
    NotUtf8 {
        /// The offset of the first invalid byte.
        at: usize,
    },
    /// It contains U+0000, which Postgres cannot store.
    Nul,
}

impl TextError {
    /// Returns the message about a subject, such as "key".
    pub fn about<S: Display>(self, subject: S) -> TextMessage<S> {
        TextMessage {
            subject,
            error: self,
        }
    }
}

impl From<Utf8Error> for TextError {
    fn from(error: Utf8Error) -> TextError {
        TextError::NotUtf8 {
            at: error.valid_up_to(),
        }
    }
}

/// The message of a [`TextError`] about a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextMessage<S> {
    subject: S,
    error: TextError,
}

impl<S: Display> Display for TextMessage<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        match self.error {
            TextError::Empty => write!(f, "the {subject} is empty; it needs at least 1 byte"),
            TextError::TooLarge { len, limit } => write!(
                f,
                "the {subject} is {len} bytes; the limit is {limit} bytes"
            ),
            TextError::NotUtf8 { at } => {
                write!(f, "the {subject} is not valid UTF-8 at byte {at}")
            }
            TextError::Nul => write!(
                f,
                "the {subject} contains a NUL character, which cannot be stored in text"
            ),
        }
    }
}

/// Returns the least text above every text that starts with `prefix`, if there is one, as its head and
/// its last character. UTF-8 sorts by code point, so the last character that has a successor is
/// replaced by it, and the rest is cut off.
pub fn after_prefix(prefix: &str) -> Option<(&str, char)> {
    let mut chars = prefix.chars();
    loop {
        let next = match chars.next_back()? {
            char::MAX => continue,
            '\u{d7ff}' => '\u{e000}',
            other => char::from_u32(u32::from(other) + 1)?,
        };
        return Some((chars.as_str(), next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&[u8]) -> Result<&str, TextError>;

    #[test]
    fn names_are_accepted_up_to_their_limits() {
        let long = [b'n'; KEY_BYTES_MAX + 1];
        let of = |len: usize| &long[..len];
        for (check, limit) in [
            (collection as Check, COLLECTION_BYTES_MAX),
            (key, KEY_BYTES_MAX),
            (timer, TIMER_BYTES_MAX),
            (bound, KEY_BYTES_MAX),
        ] {
            assert!(check(of(1)).is_ok());
            assert_eq!(check(of(limit)).map(str::len), Ok(limit));
            let error = TextError::TooLarge {
                len: limit as u64 + 1,
                limit: limit as u64,
            };
            assert_eq!(check(of(limit + 1)), Err(error));
        }
        assert_eq!(key("é€\u{10ffff}".as_bytes()), Ok("é€\u{10ffff}"));
    }

    #[test]
    fn empty_nul_and_invalid_utf8_are_distinct_errors() {
        for check in [collection, key, timer] {
            assert_eq!(check(b""), Err(TextError::Empty));
        }
        assert_eq!(bound(b""), Ok(""));
        for check in [collection as Check, key, timer, bound] {
            assert_eq!(check(b"a\0b"), Err(TextError::Nul));
            assert_eq!(check(b"a\xff"), Err(TextError::NotUtf8 { at: 1 }));
        }
    }

    #[test]
    fn size_is_checked_before_content() {
        let error = TextError::TooLarge {
            len: 1025,
            limit: 1024,
        };
        assert_eq!(key(&[0xff; 1025]), Err(error));
        assert_eq!(key(&[0; 1025]), Err(error));
    }
}
