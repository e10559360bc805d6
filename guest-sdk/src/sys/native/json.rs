//! The host's JSON validation: what both SQLite and Postgres can store. It follows
//! `host/core/src/json.rs`, so that both reject the same values.

use crate::Error;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The maximum length of a number in bytes, and the maximum exponent.
const NUMBER_BYTES_MAX: usize = 1000;
const EXPONENT_MAX: u64 = 400;
/// The largest number. Postgres writes it with 309 digits, and readers that round incrementally
/// take such numbers for infinite when they are closer to the end of the range of an `f64`.
const NUMBER_MAX: f64 = 1e308;

/// Validates JSON text, and returns the number of bytes that its exponents add when its numbers
/// are written without them.
pub(super) fn check(json: &[u8]) -> Result<u64, Error> {
    serde_json::from_slice::<Storable>(json).map_err(|e| invalid(&e.to_string()))?;
    numbers(json)
}

fn invalid(why: &str) -> Error {
    Error::Invalid(format!("the value is not valid JSON: {why}"))
}

/// Checks the numbers of valid JSON text.
fn numbers(mut rest: &[u8]) -> Result<u64, Error> {
    let mut expansion: u64 = 0;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match byte {
            b'"' => after_string(tail),
            b'-' | b'0'..=b'9' => {
                let in_number = |b: &u8| b.is_ascii_digit() || b"+-.eE".contains(b);
                let end = rest.iter().position(|b| !in_number(b));
                let (number, after) = rest.split_at(end.unwrap_or(rest.len()));
                expansion = expansion.saturating_add(exponent(number)?);
                after
            }
            _ => tail,
        };
    }
    Ok(expansion)
}

/// Returns the text after a string whose opening quote was already read.
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

fn exponent(number: &[u8]) -> Result<u64, Error> {
    if number.len() > NUMBER_BYTES_MAX {
        return Err(invalid(&format!(
            "a number has {} digits; the limit is {NUMBER_BYTES_MAX}",
            number.len()
        )));
    }
    let digits = number.iter().skip_while(|b| !b.eq_ignore_ascii_case(&b'e'));
    let exponent = digits
        .filter(|b| b.is_ascii_digit())
        .fold(0u64, |sum, digit| {
            sum.saturating_mul(10)
                .saturating_add(u64::from(digit - b'0'))
        });
    if exponent > EXPONENT_MAX {
        return Err(invalid(&format!(
            "a number has the exponent {exponent}; the limit is {EXPONENT_MAX}"
        )));
    }
    Ok(exponent)
}

/// Visits a whole document, including strings, and keeps nothing.
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
    fn unstorable_json_is_rejected() {
        for good in [
            "null",
            " {\"a\": [1, -2.5e3, \"\\u00e9\\\"x\"]} ",
            "\"true e9\"",
            "1e308",
        ] {
            assert!(check(good.as_bytes()).is_ok(), "{good}");
        }
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
            "1e-401",
            "NaN",
            "01",
            "\"\n\"",
        ] {
            assert!(
                matches!(check(bad.as_bytes()), Err(Error::Invalid(_))),
                "{bad:?} was taken"
            );
        }
        assert!(check(&[b'"', 0xff, b'"']).is_err());
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(check(nested(127).as_bytes()).is_ok());
        assert!(check(nested(128).as_bytes()).is_err());
        assert_eq!(check(b"[1e100, \"1e100\", 2e3]"), Ok(103));
    }
}
