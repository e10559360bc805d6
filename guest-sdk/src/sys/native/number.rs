//! Integers in JSON, for increments, with the same rules as the real stores.

use crate::Error;

/// The maximum number of digits of an `i64`.
const DIGITS_MAX: usize = 19;

pub(super) fn not_an_integer() -> Error {
    Error::Type("cannot increment: the value is not a JSON integer; nothing was written".to_owned())
}

pub(super) fn overflow() -> Error {
    Error::Invalid("cannot increment: the sum exceeds 64 bits; nothing was written".to_owned())
}

/// Returns the integer that valid JSON text represents. Written without an exponent it must
/// have no decimal point: `15`, `1e2` and `1.5e1` are integers, `1.0` is not.
pub(super) fn integer(json: &[u8]) -> Result<i64, Error> {
    parse(json).unwrap_or_else(|| Err(not_an_integer()))
}

/// Returns `None` if the text is not an integer.
fn parse(json: &[u8]) -> Option<Result<i64, Error>> {
    let text = std::str::from_utf8(json).ok()?.trim_ascii();
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if !unsigned.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // The number of zeros after the digits when written without an exponent.
    let exponent: isize = exponent.parse().ok()?;
    let zeros = exponent.checked_sub_unsigned(fraction.len())?;
    let zeros = usize::try_from(zeros).ok()?;
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(Ok(0));
    }
    if digits.len().saturating_add(zeros) > DIGITS_MAX {
        return Some(Err(overflow()));
    }
    let magnitude: i128 = format!("{digits}{:0<zeros$}", "").parse().ok()?;
    let value = if negative { -magnitude } else { magnitude };
    Some(i64::try_from(value).map_err(|_| overflow()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_in_exponent_notation_are_accepted() {
        for (json, expected) in [
            ("0", 0),
            ("-0", 0),
            (" 7\n", 7),
            ("1e2", 100),
            ("1.5e1", 15),
            ("-12.50E+2", -1250),
            ("0e400", 0),
            ("0.000e3", 0),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(json.as_bytes()), Ok(expected), "{json}");
        }
        for json in [
            "1.0", "0.5", "10e-1", "1.25e1", "0.0", "\"1\"", "null", "[1]", "{}", "true",
        ] {
            let error = integer(json.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Type(_)), "{json}");
        }
        for json in [
            "9223372036854775808",
            "-9223372036854775809",
            "1e19",
            "1e400",
            "99999999999999999999999999",
        ] {
            let error = integer(json.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{json}");
        }
    }
}
