//! The rules of outbound requests. The host refuses what breaks them, and so does the SDK's
//! in-process host.

use core::fmt;

/// The maximum size of a method, in bytes.
pub const METHOD_BYTES_MAX: usize = 32;

/// The maximum size of a URL, in bytes.
pub const URL_BYTES_MAX: usize = 8_192;
/// The maximum size of a host's name in DNS, in bytes.
pub const HOST_NAME_BYTES_MAX: usize = 253;
/// The maximum size of a part of a host's name, in bytes.
const LABEL_BYTES_MAX: usize = 63;

/// How much of a wrong name an error shows, in bytes.
const SHOWN_BYTES_MAX: usize = 64;

/// Headers that are the host's: of the connection, of the framing, and the target. `expect` would
/// make the server wait, and `trailer` announces what is not sent.
pub const HOST_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// `CONNECT` makes a tunnel, and `TRACE` and `TRACK` return what proxies added.
const FORBIDDEN_METHODS: [&str; 3] = ["CONNECT", "TRACE", "TRACK"];

/// What is wrong with the head of an outbound request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboundHeadError<'a> {
    /// The method is not a token (RFC 9110, section 5.6.2) of at most [`METHOD_BYTES_MAX`] bytes.
    Method(&'a str),
    /// The method is `CONNECT`, `TRACE` or `TRACK`.
    ForbiddenMethod(&'a str),
    /// The name of a header is not a token.
    HeaderName(&'a str),
    /// The header of this name is the host's.
    HostHeader(&'a str),
    /// The value of the header of this name has a control character other than a tab.
    HeaderValue(&'a str),
}

impl fmt::Display for OutboundHeadError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use OutboundHeadError::{ForbiddenMethod, HeaderName, HeaderValue, HostHeader, Method};
        match self {
            Method(text) => write!(
                f,
                "the method \"{}\" is malformed; it must be 1 to {METHOD_BYTES_MAX} letters, such \
                 as GET",
                Shown(text)
            ),
            ForbiddenMethod(text) => write!(f, "the method {} is not allowed", Shown(text)),
            HeaderName(name) => write!(
                f,
                "the header name \"{}\" is malformed; it must consist of letters, digits and \
                 hyphens",
                Shown(name)
            ),
            HostHeader(name) => write!(
                f,
                "the header {} cannot be set: the host sets it, or it is about the connection",
                Shown(name)
            ),
            HeaderValue(name) => write!(
                f,
                "the value of the header {} contains a line break, a NUL or another control \
                 character",
                Shown(name)
            ),
        }
    }
}

impl core::error::Error for OutboundHeadError<'_> {}

/// The start of a text, with its control characters escaped.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.floor_char_boundary(SHOWN_BYTES_MAX);
        let start = self.0.get(..end).unwrap_or_default();
        let rest = if end < self.0.len() { "..." } else { "" };
        write!(f, "{}{rest}", start.escape_debug())
    }
}

/// Checks a method. It may have small letters: methods are case-sensitive, and a server decides
/// what `get` means.
///
/// # Errors
/// [`OutboundHeadError`] if it is malformed or forbidden.
pub fn check_method(method: &str) -> Result<(), OutboundHeadError<'_>> {
    if method.len() > METHOD_BYTES_MAX || !is_token(method) {
        return Err(OutboundHeadError::Method(method));
    }
    let mut forbidden = FORBIDDEN_METHODS.into_iter();
    match forbidden.any(|name| name.eq_ignore_ascii_case(method)) {
        true => Err(OutboundHeadError::ForbiddenMethod(method)),
        false => Ok(()),
    }
}

/// Checks a header. Its name may have small and capital letters.
///
/// # Errors
/// [`OutboundHeadError`] if the name or the value is malformed, or the header is the host's.
pub fn check_header<'a>(name: &'a str, value: &str) -> Result<(), OutboundHeadError<'a>> {
    if !is_token(name) {
        return Err(OutboundHeadError::HeaderName(name));
    }
    if is_host_header(name) {
        return Err(OutboundHeadError::HostHeader(name));
    }
    let is_value_byte = |byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    match value.bytes().all(is_value_byte) {
        true => Ok(()),
        false => Err(OutboundHeadError::HeaderValue(name)),
    }
}

/// Returns whether the host, and not the plugin, sets a header of requests.
pub fn is_host_header(name: &str) -> bool {
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    let proxy = name.as_bytes().get(.."proxy-".len());
    HOST_HEADERS.into_iter().any(is) || proxy.is_some_and(|p| p.eq_ignore_ascii_case(b"proxy-"))
}

/// Checks the name of a host, in ASCII.
///
/// # Errors
/// What is wrong with it, as the end of a sentence about a URL.
pub fn check_host_name(name: &str) -> Result<(), &'static str> {
    if name.len() > HOST_NAME_BYTES_MAX {
        return Err("its host is longer than 253 bytes");
    }
    let of_name = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    for label in name.split('.') {
        if label.is_empty() {
            return Err("the host has an empty label, or a dot at its end");
        }
        if label.len() > LABEL_BYTES_MAX {
            return Err("a label of the host is longer than 63 bytes");
        }
        if !label.bytes().all(of_name) {
            return Err(
                "the host may have letters, digits, hyphens and underscores, and a star only as \
                 its whole first label",
            );
        }
    }
    Ok(())
}

fn is_token(text: &str) -> bool {
    let of_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !text.is_empty() && text.bytes().all(of_token)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn errors_show_the_start_of_a_name_without_control_characters() {
        let long = "é\u{202e}\n".repeat(50);
        for error in [
            OutboundHeadError::Method(&long),
            OutboundHeadError::HeaderName(&long),
        ] {
            let text = error.to_string();
            assert!(
                text.contains("é\\u{202e}\\n") && text.contains("...\""),
                "{text}"
            );
            assert!(
                text.len() < 400 && !text.contains(['\n', '\u{202e}']),
                "{text}"
            );
        }
        assert_eq!(
            check_header("Proxy-X", "").unwrap_err().to_string(),
            "the header Proxy-X cannot be set: the host sets it, or it is about the connection"
        );
    }
}
