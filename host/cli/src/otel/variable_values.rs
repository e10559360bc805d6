//! The values of the variables of OpenTelemetry, by their types.

use kvasm::model::display_truncated;
use std::time::Duration;

/// Says that a variable has a value that the exporter cannot do.
pub(super) fn unsupported(name: &str, expected: &str) -> String {
    format!("{name} is not supported; expected {expected}")
}

/// Reads a number from 1 to a maximum. It is no secret, so the error may have it.
pub(super) fn number(
    variable: impl Fn(&str) -> Option<String>,
    name: &str,
    default: u64,
    max: u64,
) -> Result<u64, String> {
    let Some(text) = variable(name) else {
        return Ok(default);
    };
    match text.parse() {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => Err(format!(
            "{name} must be a number from 1 to {max}, not {}",
            display_truncated(&text, 40)
        )),
    }
}

/// Reads a time of at most a day.
pub(super) fn millis(
    variable: impl Fn(&str) -> Option<String>,
    name: &str,
    default: u64,
) -> Result<Duration, String> {
    const DAY: u64 = 24 * 60 * 60 * 1_000;
    number(variable, name, default, DAY).map(Duration::from_millis)
}

/// Requires that a variable is unset or has this value, in any case.
pub(super) fn only(
    variable: impl Fn(&str) -> Option<String>,
    name: &str,
    expected: &str,
) -> Result<(), String> {
    match variable(name) {
        Some(text) if !text.eq_ignore_ascii_case(expected) => Err(unsupported(name, expected)),
        _ => Ok(()),
    }
}

/// Parses a list of pairs, whose values may be percent-encoded.
pub(super) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then(|| Some((name.to_owned(), decoded(value.trim())?)))?
    };
    parts.map(pair).collect()
}

/// Decodes percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, more)) = rest.split_first() {
        rest = more;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, more) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = more;
    }
    String::from_utf8(bytes).ok()
}
