//! Cursors of lists.

use crate::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt::{self, Write};
use std::str::FromStr;

/// The end of a page. It is opaque, and valid only for the same collection, prefix, range and
/// direction.
///
/// It can be passed to clients and back as text or in JSON: it displays as hexadecimal digits
/// and parses from them. The host rejects a cursor that was modified or belongs to another list
/// with [`Error::Invalid`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(Vec<u8>);

impl Cursor {
    /// Creates a cursor from its bytes.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Cursor {
        Cursor(bytes.into())
    }

    /// Returns the cursor's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is not a cursor: not an even number of hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorError;

impl fmt::Display for CursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cursor is not an even number of hexadecimal digits")
    }
}

impl std::error::Error for CursorError {}

/// Text of cursors comes from clients, so it is an [`Error::BadRequest`].
impl From<CursorError> for Error {
    fn from(error: CursorError) -> Error {
        Error::BadRequest(error.to_string())
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Cursor, CursorError> {
        let (pairs, odd) = text.as_bytes().as_chunks::<2>();
        if !odd.is_empty() {
            return Err(CursorError);
        }
        let byte = |&[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        bytes.map(Cursor).ok_or(CursorError)
    }
}

fn digit(ascii: u8) -> Option<u8> {
    u8::try_from(char::from(ascii).to_digit(16)?).ok()
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len() * 2);
        write!(text, "{self}").map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cursor, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_round_trips_as_text_and_json() {
        let cursor = Cursor::from_bytes([0, 0x0a, 0xff]);
        assert_eq!(cursor.to_string(), "000aff");
        assert_eq!("000AfF".parse(), Ok(cursor.clone()));
        let json = serde_json::to_string(&cursor).unwrap();
        assert_eq!(json, "\"000aff\"");
        assert_eq!(serde_json::from_str::<Cursor>(&json).unwrap(), cursor);
        for bad in ["0", "0g", "+1", "ää"] {
            assert_eq!(bad.parse::<Cursor>(), Err(CursorError), "{bad}");
        }
    }
}
