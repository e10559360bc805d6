//! The rules of URLs of outbound requests that need no table of names. A host has more,
//! for names that are not ASCII and for addresses.

use crate::Error;
use kvasm_abi::names::{self, TextError};
use kvasm_abi::outbound::{URL_BYTES_MAX, check_host_name};

/// How much of a malformed URL an error shows, in bytes.
const SHOWN_BYTES_MAX: usize = 128;

/// Returns the origin of a URL: scheme, host and port, without the scheme's own port.
///
/// # Errors
/// [`Error::Invalid`] if the URL is malformed, [`Error::TooLarge`] if it is too long.
pub(super) fn url_origin(url: &str) -> Result<String, Error> {
    let too_large = |error: TextError| Error::TooLarge(error.about("URL").to_string());
    names::size(url.len() as u64, URL_BYTES_MAX).map_err(too_large)?;
    check(url).map_err(|why| {
        let shown = url.get(..url.floor_char_boundary(SHOWN_BYTES_MAX));
        let shown = shown.unwrap_or_default();
        Error::Invalid(format!("{shown:?} is not a URL to fetch: {why}"))
    })?;
    Ok(canonical_origin(url))
}

/// Returns the origin of a valid URL or pattern.
pub(super) fn canonical_origin(url: &str) -> String {
    let url = url.to_ascii_lowercase();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", &url));
    let (host, port) = split_port(authority(rest));
    let own = if scheme == "https" { "443" } else { "80" };
    match port.map(|port| port.trim_start_matches('0')) {
        Some(port) if !port.is_empty() && port != own => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    }
}

/// Returns the authority. Further slashes before it are ignored, as browsers do.
fn authority(rest: &str) -> &str {
    let rest = rest.trim_start_matches(['/', '\\']);
    rest.split(['/', '\\', '?', '#']).next().unwrap_or_default()
}

/// Splits host and port. The address of IPv6 is in brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Resolves `.` and `..` in a URL's path, also percent-encoded ones, as the host does before it sends
/// a request (WHATWG URL, "path state").
pub(super) fn without_dots(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let begin = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(begin);
    let (path, after) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let mut segments: Vec<&str> = Vec::new();
    let mut given = path.split('/').skip(1).peekable();
    while let Some(segment) = given.next() {
        let is_last = given.peek().is_none();
        match &*segment.to_ascii_lowercase().replace("%2e", ".") {
            "." if is_last => segments.push(""),
            "." => {}
            ".." => {
                segments.pop();
                segments.extend(is_last.then_some(""));
            }
            _ => segments.push(segment),
        }
    }
    let path: String = segments.iter().map(|part| format!("/{part}")).collect();
    format!("{scheme}://{authority}{path}{after}")
}

fn check(url: &str) -> Result<(), &'static str> {
    if url.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err("it contains white space or a control character");
    }
    let known = |scheme: &str| {
        ["http", "https"]
            .iter()
            .any(|k| k.eq_ignore_ascii_case(scheme))
    };
    let rest = url.split_once("://").filter(|(scheme, _)| known(scheme));
    let Some((_, rest)) = rest else {
        return Err("it must begin with http:// or https://");
    };
    let (user, place) = match authority(rest).rsplit_once('@') {
        Some((user, place)) => (user, place),
        None => ("", authority(rest)),
    };
    let (host, port) = split_port(place);
    let port = port.filter(|port| !port.is_empty());
    let is_number =
        |port: &str| port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if host.is_empty() {
        return Err("it has no host");
    }
    if !port.is_none_or(is_number) {
        return Err("the port must be a number from 1 to 65535");
    }
    if !user.is_empty() {
        return Err("a user or password is not allowed in it");
    }
    check_name(host)?;
    match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(0) => Err("port 0 does not exist"),
        _ => Ok(()),
    }
}

/// Checks a name. Names that are not ASCII, and addresses in brackets, are left to the host.
fn check_name(name: &str) -> Result<(), &'static str> {
    match !name.is_ascii() || name.starts_with('[') || name.contains('%') {
        true => Ok(()),
        false => check_host_name(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths are those that a host sends.
    #[test]
    fn dots_in_a_path_are_resolved() {
        for (url, sent) in [
            ("http://a.test/./b/../c", "http://a.test/c"),
            ("http://a.test/a/..", "http://a.test/"),
            (
                "http://a.test/a/.?q=/../#/..",
                "http://a.test/a/?q=/../#/..",
            ),
            ("http://a.test/%2e%2E/b/%2e", "http://a.test/b/"),
            ("http://a.test/..//a...b", "http://a.test//a...b"),
            ("http://a.test?/..", "http://a.test?/.."),
            ("http://a.test", "http://a.test"),
        ] {
            assert_eq!(without_dots(url), sent, "{url}");
        }
    }
}
