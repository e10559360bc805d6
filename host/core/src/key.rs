//! Collections and keys.

use super::{Invalid, Subject};
use std::fmt;

/// The maximum length of a collection name, in bytes. Fixed, because collection and key together
/// must fit an index entry of Postgres (2,704 bytes).
pub const COLLECTION_BYTES_MAX: usize = 128;
/// The maximum length of a key, in bytes. Fixed for the same reason.
pub const KEY_BYTES_MAX: usize = 1024;

/// Checks indexed text: UTF-8 without NUL, at most `limit` bytes.
pub(super) fn text(bytes: Vec<u8>, subject: Subject, limit: usize) -> Result<String, Invalid> {
    if bytes.len() > limit {
        return Err(Invalid::TooLarge {
            subject,
            len: bytes.len() as u64,
            limit: limit as u64,
        });
    }
    let text = String::from_utf8(bytes).map_err(|e| Invalid::NotUtf8 {
        subject,
        at: e.utf8_error().valid_up_to(),
    })?;
    if text.contains('\0') {
        return Err(Invalid::Nul(subject));
    }
    Ok(text)
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $subject:expr, $limit:expr) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<$name, Invalid> {
                $name::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl $name {
            /// Parses a name from bytes.
            ///
            /// # Errors
            /// [`Invalid`] if it is empty, exceeds the limit, is not UTF-8, or contains a NUL.
            pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<$name, Invalid> {
                let bytes = bytes.into();
                if bytes.is_empty() {
                    return Err(Invalid::Empty($subject));
                }
                text(bytes, $subject, $limit).map($name)
            }

            /// Wraps text read from a store, which was parsed when it was written.
            pub fn stored(text: String) -> $name {
                $name(text)
            }

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of a collection: 1 to 128 bytes of UTF-8 without NUL.
    Collection, Subject::Collection, COLLECTION_BYTES_MAX
}

name_type! {
    /// The key of an entry: 1 byte to 1 KiB of UTF-8 without NUL. Keys compare bytewise on every
    /// store.
    Key, Subject::Key, KEY_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oversized_key_error_names_size_and_limit() {
        assert!(Key::parse(vec![b'k'; 1024]).is_ok());
        let error = Key::parse(vec![b'k'; 1025]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the key is 1025 bytes; the limit is 1024 bytes"
        );
        assert!(Collection::parse(vec![b'c'; 128]).is_ok());
        assert!(Collection::parse(vec![b'c'; 129]).is_err());
    }

    #[test]
    fn empty_nul_and_invalid_utf8_are_distinct_errors() {
        assert_eq!(Key::parse(""), Err(Invalid::Empty(Subject::Key)));
        assert_eq!(Key::parse("a\0b"), Err(Invalid::Nul(Subject::Key)));
        assert_eq!(
            Collection::parse(vec![b'a', 0xff]),
            Err(Invalid::NotUtf8 {
                subject: Subject::Collection,
                at: 1
            })
        );
    }
}
