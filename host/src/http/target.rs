//! Paths and queries: nothing in them is ignored, and nothing is taken for something else.

use super::document::query_names;
use super::params::refused;
use super::problem::Problem;
use axum::http::Uri;
use std::collections::BTreeSet;

/// Checks the path and the query of a request. A plugin's own are the plugin's.
///
/// # Errors
/// A problem, if an escape is broken or does not stand for UTF-8, or the query has a
/// parameter that the route does not know, or has it twice.
pub(super) fn check(uri: &Uri, route: &str, method: &str) -> Result<(), Problem> {
    if uri.path().starts_with("/a/") {
        return Ok(());
    }
    decode(uri.path(), false).map_err(|why| refused(format!("the path {why}")))?;
    let query = uri.query().unwrap_or_default();
    let mut given = BTreeSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name, true);
        let name = name.map_err(|why| refused(format!("the name of a parameter {why}")))?;
        decode(value, true).map_err(|why| refused(format!("the parameter {name:?} {why}")))?;
        if let Some(known) = query_names(route, method)
            && !known.contains(&name)
        {
            return Err(refused(unknown(&name, known)));
        }
        if !given.insert(name.clone()) {
            return Err(refused(format!(
                "the parameter {name:?} is given more than once"
            )));
        }
    }
    Ok(())
}

fn unknown(name: &str, known: &BTreeSet<String>) -> String {
    if known.is_empty() {
        return format!("unknown parameter {name:?}; this route takes none");
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    format!(
        "unknown parameter {name:?}; this route takes {}",
        known.join(", ")
    )
}

/// The text that percent-encoding stands for.
fn decode(text: &str, plus_is_space: bool) -> Result<String, &'static str> {
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
    String::from_utf8(decoded).map_err(|_| "is not UTF-8")
}

const BROKEN: &str = "has a % that two hexadecimal digits do not follow";

fn escape(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? << 4 | low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_stand_for_utf8_or_are_refused() {
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
