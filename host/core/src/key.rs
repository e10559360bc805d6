//! Collections and keys.

use super::{Invalid, Subject};
use kvasm_abi::names::{self, TextError};
use std::fmt;

pub use kvasm_abi::names::{COLLECTION_BYTES_MAX, KEY_BYTES_MAX};

/// Checks the prefix or a bound of a list.
pub(super) fn bound(bytes: Vec<u8>, subject: Subject) -> Result<String, Invalid> {
    checked(bytes, subject, names::bound)
}

fn checked(
    bytes: Vec<u8>,
    subject: Subject,
    check: fn(&[u8]) -> Result<&str, TextError>,
) -> Result<String, Invalid> {
    let invalid = |error| Invalid::text(subject, error);
    check(&bytes).map_err(invalid)?;
    // This checks UTF-8 again, in order to keep the allocation.
    String::from_utf8(bytes).map_err(|e| invalid(e.utf8_error().into()))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $subject:expr, $check:expr) => {
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
                checked(bytes.into(), $subject, $check).map($name)
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
    Collection, Subject::Collection, names::collection
}

name_type! {
    /// The key of an entry: 1 byte to 1 KiB of UTF-8 without NUL. Keys compare bytewise on every
    /// store.
    Key, Subject::Key, names::key
}

name_type! {
    /// The name of a timer: 1 to 256 bytes of UTF-8 without NUL.
    TimerName, Subject::Timer, names::timer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules themselves are tested in `kvasm-abi`.
    #[test]
    fn errors_say_which_name_breaks_which_limit() {
        let message = |error: Invalid| error.to_string();
        assert_eq!(
            Collection::parse(vec![b'c'; 129]).map_err(message),
            Err("the collection is 129 bytes; the limit is 128 bytes".to_owned())
        );
        assert_eq!(
            Key::parse(vec![b'k'; 1025]).map_err(message),
            Err("the key is 1025 bytes; the limit is 1024 bytes".to_owned())
        );
        assert_eq!(
            bound(vec![b'p'; 1025], Subject::Prefix).map_err(message),
            Err("the prefix is 1025 bytes; the limit is 1024 bytes".to_owned())
        );
        assert_eq!(Key::parse(""), Err(Invalid::Empty(Subject::Key)));
        assert_eq!(Key::parse("a\0b"), Err(Invalid::Nul(Subject::Key)));
        let (subject, at) = (Subject::Collection, 1);
        assert_eq!(
            Collection::parse(vec![b'a', 0xff]),
            Err(Invalid::NotUtf8 { subject, at })
        );
        assert_eq!(bound(Vec::new(), Subject::Bound), Ok(String::new()));
    }
}
