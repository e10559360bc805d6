//! Cursors of lists.

use crate::Error;
use crate::http::BadRequest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// The end of a page. It is opaque, and valid only for the same collection, prefix, range and
/// direction.
///
/// It can be passed to clients and back as text or in JSON: it displays as base64url without padding,
/// and parses from it. `kvasm kv list` and the HTTP API print and accept the same text. The host rejects a cursor that was modified or belongs to another list
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

    fn text(&self) -> String {
        let mut text = String::new();
        for group in self.0.chunks(3) {
            let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            // A byte needs two digits, two bytes three.
            for place in 0..=group.len() {
                let digit = (bits >> (18 - 6 * place)) as usize & 63;
                let digit = DIGITS.get(digit).copied().unwrap_or_default();
                text.push(char::from(digit));
            }
        }
        text
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// The digits of base64url (RFC 4648), which URLs and JSON need not escape.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What a client receives for a text that is no cursor, or not one of the list.
pub(crate) const CURSOR_DETAIL: &str =
    "the cursor is not one of this list; start again without one";

/// The text is not a cursor: not base64url without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorError;

impl fmt::Display for CursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cursor is not the text of one")
    }
}

impl std::error::Error for CursorError {}

/// Text of cursors comes from clients, so it is an [`Error::BadRequest`].
impl From<CursorError> for Error {
    fn from(error: CursorError) -> Error {
        Error::BadRequest(BadRequest::new(error.to_string()).with_detail(CURSOR_DETAIL))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Cursor, CursorError> {
        let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
        for group in text.as_bytes().chunks(4) {
            let mut bits = 0;
            for at in 0..4 {
                let digit = group.get(at).map_or(Ok(0), |ascii| digit(*ascii));
                bits = bits << 6 | digit?;
            }
            let [_, decoded @ ..] = u32::to_be_bytes(bits);
            let (decoded, rest) = decoded.split_at(group.len() - 1);
            // A digit alone is less than a byte, and each cursor has one text.
            if decoded.is_empty() || rest.iter().any(|byte| *byte != 0) {
                return Err(CursorError);
            }
            bytes.extend_from_slice(decoded);
        }
        Ok(Cursor(bytes))
    }
}

fn digit(ascii: u8) -> Result<u32, CursorError> {
    let digit = match ascii {
        b'A'..=b'Z' => ascii - b'A',
        b'a'..=b'z' => ascii - b'a' + 26,
        b'0'..=b'9' => ascii - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return Err(CursorError),
    };
    Ok(digit.into())
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
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
        // The vectors of RFC 4648, without padding.
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg"),
            (b"fo", "Zm8"),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg"),
            (b"\xfb\xff\xbf", "-_-_"),
        ] {
            let cursor = Cursor::from_bytes(bytes);
            assert_eq!(cursor.to_string(), text);
            assert_eq!(text.parse(), Ok(cursor.clone()));
            let json = serde_json::to_string(&cursor).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Cursor>(&json).unwrap(), cursor);
        }
        let all: Vec<u8> = (0..=255).collect();
        let cursor = Cursor::from_bytes(all);
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in [
            "Z", "Zg==", "Zh", "Zm9", "Zm9vY", "Zm 9", "+/+/", "ää", "Zm9vYg==",
        ] {
            assert_eq!(bad.parse::<Cursor>(), Err(CursorError), "{bad}");
        }
    }
}
