//! The frame of an HTTP handler's input and output, and of outbound requests and their
//! responses: `head_len: u32`, little-endian,
//! then the head, which is JSON, then the body's bytes up to the end.
//!
//! The head of a request, which the host writes:
//!
//! ```json
//! {"method":"GET","path":"/rest/of/path","query":"a=1","headers":[["accept","*/*"]]}
//! ```
//!
//! - `path` begins with `/`, and is percent-encoded as the client sent it.
//! - `query` has no `?`; it is empty if there was none.
//! - `headers` has lower-case names in the order received; a name can occur more than once. A
//!   header whose value is not UTF-8 is omitted.
//! - Further members say where the app is, and who the client is: `mount`, `scheme`, `authority` and
//!   `client`. Each may be absent.
//!
//! The head of a response, which the plugin writes:
//!
//! ```json
//! {"status":200,"headers":[["content-type","text/plain"]]}
//! ```
//!
//! - `status` is one of [`STATUSES`]; one of [`STATUSES_WITHOUT_BODY`] has no body.
//! - `headers` may be absent if there are none; their number and size are limited
//!   ([`check_response_headers`]).
//!
//! The head of an outbound request, which the plugin writes:
//!
//! ```json
//! {"method":"POST","url":"https://api.example.com/a?b=1","headers":[["accept","*/*"]],"timeout_ms":5000}
//! ```
//!
//! - `url` is absolute.
//! - `headers` may be absent if there are none, and `timeout_ms` if the host's is enough. Other
//!   members are an error.
//!
//! Its response, which the host writes, has the head of a response, with any status from 200 to
//! 999.

use crate::Malformed;
use core::fmt;
use core::ops::RangeInclusive;

/// The size of the length before a frame's head, in bytes.
pub const PREFIX_BYTES: usize = 4;

/// The valid statuses of a response.
pub const STATUSES: RangeInclusive<u16> = 200..=599;

/// The valid statuses whose responses have no body (RFC 9110). The host ignores the one of the
/// plugin.
pub const STATUSES_WITHOUT_BODY: [u16; 3] = [204, 205, 304];

/// The maximum number of headers of a handler's response.
pub const RESPONSE_HEADERS_MAX: usize = 100;
/// The maximum size of the names and values of these headers together, in bytes.
pub const RESPONSE_HEADER_BYTES_MAX: usize = 64 * 1024;

/// A handler's response with too many headers, or too large ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyHeaders {
    /// The number of headers.
    pub count: usize,
    /// The size of their names and values together, in bytes.
    pub bytes: usize,
}

impl fmt::Display for TooManyHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooManyHeaders { count, bytes } = self;
        write!(
            f,
            "a response has at most {RESPONSE_HEADERS_MAX} headers, of {RESPONSE_HEADER_BYTES_MAX} \
             bytes together; this one has {count}, of {bytes} bytes"
        )
    }
}

/// Checks the number and the size of the headers of a handler's response.
///
/// # Errors
/// [`TooManyHeaders`] above [`RESPONSE_HEADERS_MAX`] or [`RESPONSE_HEADER_BYTES_MAX`].
pub fn check_response_headers<S: AsRef<str>>(headers: &[(S, S)]) -> Result<(), TooManyHeaders> {
    let count = headers.len();
    let sizes = headers.iter();
    let sizes = sizes.map(|(name, value)| name.as_ref().len() + value.as_ref().len());
    let bytes = sizes.sum();
    match count > RESPONSE_HEADERS_MAX || bytes > RESPONSE_HEADER_BYTES_MAX {
        true => Err(TooManyHeaders { count, bytes }),
        false => Ok(()),
    }
}

/// Returns the length prefix of a head of this many bytes, or `None` if the length does not
/// fit.
pub fn prefix(head_len: usize) -> Option<[u8; PREFIX_BYTES]> {
    u32::try_from(head_len).ok().map(u32::to_le_bytes)
}

/// Splits a frame into its head and its body.
///
/// # Errors
/// [`Malformed`] if the frame ends before its head does.
pub fn split(frame: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (head_len, rest) = frame.split_first_chunk().ok_or(Malformed)?;
    let head_len = usize::try_from(u32::from_le_bytes(*head_len)).map_err(|_| Malformed)?;
    rest.split_at_checked(head_len).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_frame_is_split_at_the_end_of_its_head() {
        assert_eq!(split(b"\x02\0\0\0{}body"), Ok((&b"{}"[..], &b"body"[..])));
        assert_eq!(split(b"\x02\0\0\0{}"), Ok((&b"{}"[..], &b""[..])));
        assert_eq!(split(b"\0\0\0\0body"), Ok((&b""[..], &b"body"[..])));
        assert_eq!(prefix(258), Some([2, 1, 0, 0]));
        assert_eq!(prefix(usize::MAX), None);
    }

    #[test]
    fn http_frame_with_wrong_head_length_is_malformed() {
        for frame in [
            &b""[..],
            b"\0\0\0",
            b"\x03\0\0\0{}",
            b"\xff\xff\xff\xff{}",
            b"\x01\0\0\0",
        ] {
            assert_eq!(split(frame), Err(Malformed), "{frame:?}");
        }
    }
}
