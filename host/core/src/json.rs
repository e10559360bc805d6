//! JSON values: text that every store can represent.

use super::{Invalid, Subject};
use kvasm_abi::json::{self, JsonError};

pub use kvasm_abi::json::Integer;

/// Valid JSON text that SQLite and Postgres represent alike: no `\u0000`, no lone surrogate,
/// numbers within the range of an `f64`, at most 127 levels deep. [`kvasm_abi::json`] has the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonText(String);

impl JsonText {
    /// Parses JSON text of at most `limit` bytes. A number with an exponent counts with the length
    /// that it has when written out in full.
    ///
    /// # Errors
    /// [`Invalid`] if it exceeds the limit or is not such JSON.
    pub fn parse(bytes: Vec<u8>, limit: usize) -> Result<JsonText, Invalid> {
        match json::storable(bytes, limit) {
            Ok(text) => Ok(JsonText(text)),
            Err(JsonError::Text(error)) => Err(Invalid::text(Subject::Value, error)),
            Err(JsonError::Malformed(why)) => Err(Invalid::Json(why)),
        }
    }

    /// Wraps text read from a store, which was checked when it was written.
    pub fn stored(text: String) -> JsonText {
        JsonText(text)
    }

    /// Creates the text of an integer.
    pub fn integer(value: i64) -> JsonText {
        JsonText(value.to_string())
    }

    /// Returns the integer, if it is one: a number that has no fraction digits when written out
    /// without an exponent. `1e2` and `1.5e1` are integers and `1.0` is not, on every store.
    pub fn as_integer(&self) -> Integer {
        Integer::parse(&self.0)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules themselves are tested in `kvasm-abi`.
    #[test]
    fn errors_are_about_the_value() {
        let parse = |text: &[u8]| JsonText::parse(text.to_vec(), 4);
        assert_eq!(
            parse(b" 12 ").map(|text| text.as_integer()),
            Ok(Integer::Value(12))
        );
        assert!(matches!(parse(b"nul1"), Err(Invalid::Json(_))));
        let subject = Subject::Value;
        assert_eq!(parse(b"\"\xff\""), Err(Invalid::NotUtf8 { subject, at: 1 }));
        let too_large = |len| Invalid::TooLarge {
            subject,
            len,
            limit: 4,
        };
        assert_eq!(parse(b"12345"), Err(too_large(5)));
        assert_eq!(parse(b"1e99"), Err(too_large(103)));
    }
}
