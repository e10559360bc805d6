//! The JSON that every store can represent, and integers in JSON.

use crate::names::{self, TextError};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::error::Error;
use core::fmt;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// The maximum length of a number in a JSON value, in bytes, and the maximum exponent.
///
/// Postgres keeps numbers as decimals and writes them out in full: without this limit, `1e131071`
/// would come back as 131,072 bytes.
const NUMBER_BYTES_MAX: usize = 1000;
const EXPONENT_MAX: u64 = 400;
/// The largest number. Postgres writes it out in 309 digits, and parsers that round as they read
/// take such a number for infinite when it is closer to the end of the range of an `f64`.
const NUMBER_MAX: f64 = 1e308;

/// Checks a JSON value of at most `limit` bytes, and returns it unchanged as text. A number with an
/// exponent counts with the length that it has when written out in full.
///
/// SQLite and Postgres represent such a value alike: it has no `\u0000`, no lone surrogate, numbers
/// within the range of an `f64`, and at most 127 levels.
///
/// # Errors
/// The first rule that it breaks.
pub fn storable(bytes: Vec<u8>, limit: usize) -> Result<String, JsonError> {
    names::size(bytes.len() as u64, limit)?;
    let text = String::from_utf8(bytes).map_err(|e| TextError::from(e.utf8_error()))?;
    serde_json::from_str::<Storable>(&text).map_err(|e| JsonError::Malformed(e.to_string()))?;
    let expansion = expansion(text.as_bytes())?;
    names::size((text.len() as u64).saturating_add(expansion), limit)?;
    Ok(text)
}

/// Why bytes are not a JSON value that every store can represent. Its message is about "the value".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonError {
    /// It exceeds its limit, or is not UTF-8.
    Text(TextError),
    /// It is not JSON, or no store can represent it, for this reason.
    Malformed(String),
}

impl From<TextError> for JsonError {
    fn from(error: TextError) -> JsonError {
        JsonError::Text(error)
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::Text(error) => error.about("value").fmt(f),
            JsonError::Malformed(why) => write!(f, "the value is not valid JSON: {why}"),
        }
    }
}

impl Error for JsonError {}

/// A JSON value read as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integer {
    /// An integer.
    Value(i64),
    /// An integer that exceeds 64 bits.
    TooLarge,
    /// Not an integer.
    Not,
}

impl Integer {
    /// Reads a valid JSON value. It is an integer if it is a number that has no fraction digits when
    /// written out without an exponent: `1e2` and `1.5e1` are integers and `1.0` is not, on every
    /// store.
    pub fn parse(json: &str) -> Integer {
        let json = json.trim();
        let (sign, digits) = match json.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", json),
        };
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return Integer::Not;
        }
        let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent = exponent.strip_prefix('+').unwrap_or(exponent);
        let zeros = exponent.parse::<i64>().unwrap_or(i64::MIN);
        let Ok(zeros) = usize::try_from(zeros.saturating_sub(fraction.len() as i64)) else {
            return Integer::Not;
        };
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Integer::Value(0);
        }
        if digits.len().saturating_add(zeros) > 19 {
            return Integer::TooLarge;
        }
        let written = format!("{sign}{digits}{}", "0".repeat(zeros));
        written.parse().map_or(Integer::TooLarge, Integer::Value)
    }
}

/// Checks the numbers of valid JSON text, and returns the number of bytes that their exponents add
/// when written out.
fn expansion(json: &[u8]) -> Result<u64, JsonError> {
    let mut expansion: u64 = 0;
    let mut rest = json;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match byte {
            b'"' => after_string(tail),
            b'-' | b'0'..=b'9' => {
                let is_number =
                    |b: &u8| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let end = rest
                    .iter()
                    .position(|b| !is_number(b))
                    .unwrap_or(rest.len());
                let (number, after) = rest.split_at(end);
                expansion = expansion.saturating_add(exponent(number)?);
                after
            }
            _ => tail,
        };
    }
    Ok(expansion)
}

/// Returns the rest after a string whose opening quote has been consumed.
fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'"' => break,
            b'\\' => rest = rest.get(1..).unwrap_or_default(),
            _ => {}
        }
    }
    rest
}

fn exponent(number: &[u8]) -> Result<u64, JsonError> {
    if number.len() > NUMBER_BYTES_MAX {
        return Err(JsonError::Malformed(format!(
            "a number has {} digits; the limit is {NUMBER_BYTES_MAX}",
            number.len()
        )));
    }
    let digits = number.iter().skip_while(|b| !b.eq_ignore_ascii_case(&b'e'));
    let digits = digits.filter(|b| b.is_ascii_digit());
    let exponent = digits.fold(0u64, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    if exponent > EXPONENT_MAX {
        return Err(JsonError::Malformed(format!(
            "a number has the exponent {exponent}; the limit is {EXPONENT_MAX}"
        )));
    }
    Ok(exponent)
}

/// Visits a whole document, including its strings, and keeps nothing.
struct Storable;

impl<'de> Deserialize<'de> for Storable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Storable, D::Error> {
        deserializer.deserialize_any(Storable)
    }
}

impl<'de> Visitor<'de> for Storable {
    type Value = Storable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Storable, E> {
        Ok(Storable)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Storable, E> {
        Ok(Storable)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Storable, E> {
        Ok(Storable)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Storable, E> {
        if number.abs() > NUMBER_MAX {
            return Err(E::custom(
                "a number is out of range: the limits are 1e308 and -1e308",
            ));
        }
        Ok(Storable)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Storable, E> {
        Ok(Storable)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Storable, E> {
        if text.contains('\0') {
            return Err(E::custom(
                "a string contains \\u0000, which cannot be stored in text",
            ));
        }
        Ok(Storable)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Storable, A::Error> {
        while seq.next_element::<Storable>()?.is_some() {}
        Ok(Storable)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Storable, A::Error> {
        while map.next_entry::<Storable, Storable>()?.is_some() {}
        Ok(Storable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn json_integers_are_recognised() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("7", 7),
            ("-7", -7),
            (" 7\n", 7),
            ("1e2", 100),
            ("1.5e1", 15),
            ("-2E+3", -2000),
            ("-12.50E+2", -1250),
            ("0e400", 0),
            ("0.000e3", 0),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(Integer::parse(text), Integer::Value(value), "{text}");
        }
        for text in [
            "1.0", "0.0", "0.5", "1.5", "1.50e1", "1.25e1", "10e-1", "true", "null", "\"1\"",
            "[1]", "{}",
        ] {
            assert_eq!(Integer::parse(text), Integer::Not, "{text}");
        }
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999999",
            "1e19",
            "1e300",
            "1e400",
        ] {
            assert_eq!(Integer::parse(text), Integer::TooLarge, "{text}");
        }
    }

    fn check(text: &str) -> Result<String, JsonError> {
        storable(text.as_bytes().to_vec(), 1000)
    }

    #[test]
    fn valid_json_is_kept_verbatim() {
        for text in [
            "null",
            " {\"a\": [1, -2.5e3, true, \"\\u00e9\\\"x\"]} ",
            "\"true e9\"",
            "1e308",
            "-1e308",
            "1e-400",
            "[[[[]]]]",
        ] {
            assert_eq!(check(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn unstorable_json_is_rejected() {
        for bad in [
            "",
            "{",
            "nul",
            "1 2",
            "\"\\u0000\"",
            "{\"a\\u0000\":1}",
            "\"\\ud800\"",
            "1e999",
            "0e999",
            "1.7976931348623157e308",
            "1e-401",
            "NaN",
            "01",
            "\"\n\"",
        ] {
            assert!(
                matches!(check(bad), Err(JsonError::Malformed(_))),
                "{bad:?} was accepted"
            );
        }
        let not_utf8 = storable(vec![b'"', 0xff, b'"'], 10);
        assert_eq!(not_utf8, Err(TextError::NotUtf8 { at: 1 }.into()));
    }

    #[test]
    fn json_is_at_most_127_levels_deep() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(check(&nested(127)).is_ok());
        assert!(matches!(check(&nested(128)), Err(JsonError::Malformed(_))));
        assert!(matches!(
            check(&"[".repeat(129)),
            Err(JsonError::Malformed(_))
        ));
    }

    #[test]
    fn long_numbers_and_exponents_are_rejected_with_their_limits() {
        let of = |len: usize| storable(format!("0.{}1", "0".repeat(len - 3)).into_bytes(), 4000);
        assert!(of(NUMBER_BYTES_MAX).is_ok());
        for (found, message) in [
            (
                of(1001),
                "the value is not valid JSON: a number has 1001 digits; the limit is 1000",
            ),
            (
                check("1e-401"),
                "the value is not valid JSON: a number has the exponent 401; the limit is 400",
            ),
        ] {
            assert_eq!(found.map_err(|e| e.to_string()), Err(message.to_string()));
        }
    }

    #[test]
    fn number_length_counts_without_exponent() {
        assert_eq!(expansion(b"[1e100, \"1e100\", \"\\\"1e9\", 2E+3]"), Ok(103));
        let ten = ["1e100"; 10].join(",");
        let text = format!("[{ten}]");
        let error = TextError::TooLarge {
            len: 1061,
            limit: 1000,
        };
        assert_eq!(check(&text), Err(error.into()));
        assert!(storable(text.clone().into_bytes(), 1061).is_ok());
        assert!(storable(text.into_bytes(), 1060).is_err());
    }

    #[test]
    fn oversized_value_error_names_size_and_limit() {
        let error = storable(vec![0xff; 11], 10).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the value is 11 bytes; the limit is 10 bytes"
        );
    }
}
