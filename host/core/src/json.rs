//! JSON values: text that every store can represent.

use super::{Invalid, Subject};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The maximum length of a number in a JSON value, in bytes, and the maximum exponent.
///
/// Postgres keeps numbers as decimals and writes them out in full: without this limit, `1e131071`
/// would come back as 131,072 bytes.
const NUMBER_BYTES_MAX: usize = 1000;
const EXPONENT_MAX: u64 = 400;
/// The largest number. Postgres writes it out in 309 digits, and parsers that round as they read
/// take such a number for infinite when it is closer to the end of the range of an `f64`.
const NUMBER_MAX: f64 = 1e308;

/// Valid JSON text that SQLite and Postgres represent alike: no `\u0000`, no lone surrogate,
/// numbers within the range of an `f64`, at most 127 levels deep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonText(String);

impl JsonText {
    /// Parses JSON text of at most `limit` bytes. A number with an exponent counts with the length
    /// that it has when written out in full.
    ///
    /// # Errors
    /// [`Invalid`] if it exceeds the limit or is not such JSON.
    pub fn parse(bytes: Vec<u8>, limit: usize) -> Result<JsonText, Invalid> {
        too_large(bytes.len() as u64, limit)?;
        let text = String::from_utf8(bytes).map_err(|e| Invalid::NotUtf8 {
            subject: Subject::Value,
            at: e.utf8_error().valid_up_to(),
        })?;
        serde_json::from_str::<Storable>(&text).map_err(|e| Invalid::Json(e.to_string()))?;
        let expansion = numbers(text.as_bytes())?;
        too_large((text.len() as u64).saturating_add(expansion), limit)?;
        Ok(JsonText(text))
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
        integer(self.0.trim())
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

fn integer(number: &str) -> Integer {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", number),
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

fn too_large(len: u64, limit: usize) -> Result<(), Invalid> {
    if len > limit as u64 {
        return Err(Invalid::TooLarge {
            subject: Subject::Value,
            len,
            limit: limit as u64,
        });
    }
    Ok(())
}

/// Iterates over the numbers of valid JSON text, and returns the number of bytes that their
/// exponents add when written out.
fn numbers(json: &[u8]) -> Result<u64, Invalid> {
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

fn exponent(number: &[u8]) -> Result<u64, Invalid> {
    if number.len() > NUMBER_BYTES_MAX {
        return Err(Invalid::Json(format!(
            "a number has {} digits; the limit is {NUMBER_BYTES_MAX}",
            number.len()
        )));
    }
    let Some(at) = number.iter().position(|b| matches!(b, b'e' | b'E')) else {
        return Ok(0);
    };
    let digits = number
        .get(at..)
        .unwrap_or_default()
        .iter()
        .filter(|b| b.is_ascii_digit());
    let exponent = digits.fold(0u64, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    if exponent > EXPONENT_MAX {
        return Err(Invalid::Json(format!(
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

    #[test]
    fn json_integers_are_recognised() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("7", 7),
            ("-7", -7),
            ("1e2", 100),
            ("1.5e1", 15),
            ("-2E+3", -2000),
            ("0e400", 0),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(text), Integer::Value(value), "{text}");
        }
        for text in [
            "1.0", "1.5", "1.50e1", "10e-1", "true", "null", "\"1\"", "[1]", "{}",
        ] {
            assert_eq!(integer(text), Integer::Not, "{text}");
        }
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "1e19",
            "1e300",
        ] {
            assert_eq!(integer(text), Integer::TooLarge, "{text}");
        }
    }

    fn parse(text: &str) -> Result<JsonText, Invalid> {
        JsonText::parse(text.as_bytes().to_vec(), 1000)
    }

    #[test]
    fn valid_json_is_kept_verbatim() {
        for text in [
            "null",
            " {\"a\": [1, -2.5e3, true, \"\\u00e9\\\"x\"]} ",
            "\"true e9\"",
            "1e308",
            "[[[[]]]]",
        ] {
            assert_eq!(parse(text).unwrap().as_str(), text);
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
                matches!(parse(bad), Err(Invalid::Json(_))),
                "{bad:?} was accepted"
            );
        }
        assert!(matches!(parse(&"[".repeat(129)), Err(Invalid::Json(_))));
        assert!(matches!(
            JsonText::parse(vec![b'"', 0xff, b'"'], 10),
            Err(Invalid::NotUtf8 { at: 1, .. })
        ));
        let long = format!("0.{}1", "0".repeat(1200));
        assert!(matches!(
            JsonText::parse(long.into_bytes(), 4000),
            Err(Invalid::Json(_))
        ));
    }

    #[test]
    fn number_length_counts_without_exponent() {
        let ten = ["1e100"; 10].join(",");
        let text = format!("[{ten}]");
        assert!(matches!(
            JsonText::parse(text.clone().into_bytes(), 1000),
            Err(Invalid::TooLarge { limit: 1000, .. })
        ));
        assert!(JsonText::parse(text.into_bytes(), 2000).is_ok());
    }
}
