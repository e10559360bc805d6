//! Why a call to the host failed.

use crate::http::BadRequest;
use kvasm_abi::Status;
use std::fmt;

/// Why a call to the host failed: one variant for each status of the ABI, with the host's
/// message, and two for values that do not fit the Rust type.
///
/// An absent entry is not an error: reads return `Ok(None)`.
///
/// ```
/// use kvasm_guest::{Error, kv};
///
/// let error = kv::collection("").get::<u32>("key").unwrap_err();
/// assert!(matches!(error, Error::Invalid(_)));
/// assert_eq!(error.to_string(), "the collection is empty; it needs at least 1 byte");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The entry does not exist. Reads return `None` instead; the variant is for completeness.
    NotFound(String),
    /// A precondition failed: the entry does not have the expected version.
    Conflict(String),
    /// The caller of this invocation lacks the capability; or a use that the plugin does not declare
    /// or its app does not grant ([`needs!`](crate::needs)).
    Denied(String),
    /// An invalid argument: an empty collection or key, a NUL, malformed JSON, a foreign
    /// cursor; or an increment beyond the range of an `i64`.
    Invalid(String),
    /// A key, value, option, batch or result is over a size limit.
    TooLarge(String),
    /// The app's quota of entries or bytes is used up.
    Quota(String),
    /// Too many calls; retry later.
    RateLimited(String),
    /// A JSON read of an entry that holds bytes, or an increment of a value that is not an
    /// integer.
    Type(String),
    /// The store is unavailable; the call may be retried.
    Unavailable(String),
    /// A host error. The host has logged the cause under the request id.
    Internal(String),
    /// The host does not support an option that this SDK sent.
    Unsupported(String),
    /// Another server cannot be reached, or gave no complete response. It may have acted on the
    /// request: repeat it only if that is safe.
    Remote(String),
    /// The value cannot be serialised as JSON.
    Encode(String),
    /// The JSON of an entry, a key or the JSON of another server does not fit the requested type.
    Decode(String),
    /// What an HTTP client sent does not fit: the JSON of the body, an escape in the path or the
    /// query, a parameter, or the text of a cursor. A handler that returns it answers with 400, and
    /// with its [`detail`](BadRequest::detail).
    BadRequest(BadRequest),
}

impl Error {
    /// Returns the error of a status and its message.
    #[cfg_attr(not(target_arch = "wasm32"), allow(dead_code))] // Only used on wasm32.
    pub(crate) fn from_status(status: Status, message: String) -> Error {
        match status {
            Status::NotFound => Error::NotFound(message),
            Status::Conflict => Error::Conflict(message),
            Status::Denied => Error::Denied(message),
            Status::Invalid => Error::Invalid(message),
            Status::TooLarge => Error::TooLarge(message),
            Status::Quota => Error::Quota(message),
            Status::RateLimited => Error::RateLimited(message),
            Status::Type => Error::Type(message),
            Status::Unavailable => Error::Unavailable(message),
            Status::Internal => Error::Internal(message),
            Status::Unsupported => Error::Unsupported(message),
            Status::Remote => Error::Remote(message),
        }
    }

    /// Returns the error for bytes of the host that violate the ABI.
    pub(crate) fn malformed(what: &str) -> Error {
        Error::Internal(format!("the host's answer to {what} is malformed"))
    }

    /// Returns the host's message.
    pub fn message(&self) -> &str {
        match self {
            Error::NotFound(message)
            | Error::Conflict(message)
            | Error::Denied(message)
            | Error::Invalid(message)
            | Error::TooLarge(message)
            | Error::Quota(message)
            | Error::RateLimited(message)
            | Error::Type(message)
            | Error::Unavailable(message)
            | Error::Internal(message)
            | Error::Unsupported(message)
            | Error::Remote(message)
            | Error::Encode(message)
            | Error::Decode(message) => message,
            Error::BadRequest(bad) => bad.message(),
        }
    }

    /// Returns whether the same call may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::RateLimited(_) | Error::Unavailable(_))
    }
}

/// Returns the message of a status: the host's, or a default if it has sent none.
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code))] // Only used on wasm32.
pub(crate) fn message_of(status: Status, message: String) -> String {
    match message.is_empty() {
        true => status.name().to_owned(),
        false => message,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_without_a_message_has_a_default_text() {
        for status in Status::ALL {
            let error = Error::from_status(status, message_of(status, String::new()));
            assert_eq!(error.to_string(), status.name());
            let retryable = matches!(status, Status::RateLimited | Status::Unavailable);
            assert_eq!(error.is_retryable(), retryable);
        }
    }
}
