//! Validates paths and queries strictly: nothing is ignored or misinterpreted.

use super::document::{self, Parameters};
use super::params::refused;
use super::problem::Problem;
use axum::http::Uri;
use std::collections::BTreeSet;

/// Validates the path and the query of a request. Those of plugins' routes are passed on.
///
/// # Errors
/// A problem, if an escape is malformed or not UTF-8, if a query parameter is unknown, repeated or
/// missing, or if a parameter is not of its type.
pub(super) fn check(uri: &Uri, route: &str, method: &str) -> Result<(), Problem> {
    if uri.path().starts_with("/a/") {
        return Ok(());
    }
    decode(uri.path(), false).map_err(|why| refused(format!("the path {why}")))?;
    let known = document::parameters(route, method);
    if let Some(known) = known {
        path(uri.path(), route, known)?;
    }
    query(uri.query().unwrap_or_default(), known)
}

/// Validates the parameters in a path.
fn path(path: &str, route: &str, known: &Parameters) -> Result<(), Problem> {
    for (part, place) in path.split('/').zip(route.split('/')) {
        let Some(parameter) = known.get(place) else {
            continue;
        };
        let name = place.trim_matches(['{', '}']);
        let value = decode(part, false);
        let value = value.map_err(|why| refused(format!("the part {name:?} of the path {why}")))?;
        parameter.check(name, &value)?;
    }
    Ok(())
}

fn query(query: &str, known: Option<&Parameters>) -> Result<(), Problem> {
    let mut given = BTreeSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name, true);
        let name = name.map_err(|why| refused(format!("the name of a parameter {why}")))?;
        let value = decode(value, true);
        let value = value.map_err(|why| refused(format!("the parameter {name:?} {why}")))?;
        if let Some(known) = known {
            let parameter = known.get(&format!("?{name}"));
            let parameter = parameter.ok_or_else(|| refused(unknown(&name, known)))?;
            parameter.check(&name, &value)?;
        }
        if !given.insert(name.clone()) {
            return Err(refused(format!(
                "the parameter {name:?} is given more than once"
            )));
        }
    }
    let needed = known.into_iter().flatten();
    let needed = needed.filter(|(_, parameter)| parameter.required);
    let mut needed = needed.filter_map(|(place, _)| place.strip_prefix('?'));
    match needed.find(|name| !given.contains(*name)) {
        Some(name) => Err(refused(format!("missing query parameter {name:?}"))),
        None => Ok(()),
    }
}

fn unknown(name: &str, known: &Parameters) -> String {
    let known: Vec<&str> = known
        .keys()
        .filter_map(|place| place.strip_prefix('?'))
        .collect();
    match known.is_empty() {
        true => format!("unknown parameter {name:?}; this route takes none"),
        false => format!(
            "unknown parameter {name:?}; expected one of {}",
            known.join(", ")
        ),
    }
}

/// Decodes percent-encoded text.
pub fn decode(text: &str, plus_is_space: bool) -> Result<String, &'static str> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        decoded.push(match byte {
            b'%' => {
                let (digits, after) = after.split_first_chunk().ok_or(BROKEN)?;
                rest = after;
                escape(*digits).ok_or(BROKEN)?
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).map_err(|_| "is not valid UTF-8")
}

const BROKEN: &str = "has a % that is not followed by two hexadecimal digits";

fn escape(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? << 4 | low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_escapes_must_be_utf8() {
        for (text, path, query) in [
            ("", Some(""), Some("")),
            ("a+b%2B%20", Some("a+b+ "), Some("a b+ ")),
            ("%C3%A9", Some("é"), Some("é")),
            ("%ff", None, None),
            ("%C3", None, None),
            ("%", None, None),
            ("%4", None, None),
            ("%zz", None, None),
            ("%+1", None, None),
        ] {
            assert_eq!(decode(text, false).ok().as_deref(), path, "{text}");
            assert_eq!(decode(text, true).ok().as_deref(), query, "{text}");
        }
    }
}
