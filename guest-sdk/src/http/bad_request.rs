//! What is wrong with a request, for the log and for the client.

use std::fmt;

/// What is wrong with what a client sent: a message for the log, and perhaps a text for the client,
/// as the `detail` of the [problem](super::Problem) that answers it.
///
/// The SDK's own details consist of what the client has sent, of its place, and of what is expected
/// there in words of JSON. The names of types, and what the plugin's own implementations of
/// `Deserialize` or `FromStr` say, are only in the message.
///
/// ```
/// use kvasm_guest::Error;
/// use kvasm_guest::http::{BadRequest, Request};
///
/// let request = Request::post("/").body(r#"{"points":"many"}"#).build();
/// let scores = request.json::<std::collections::BTreeMap<String, u8>>();
/// let Err(Error::BadRequest(bad)) = scores else { panic!() };
/// assert_eq!(bad.detail(), Some("at points: expected an integer from 0 to 255"));
///
/// let own = Error::BadRequest(BadRequest::new("7 is sold out").with_detail("choose another"));
/// assert_eq!(own.message(), "7 is sold out");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRequest(Box<Texts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Texts {
    message: String,
    detail: Option<String>,
}

impl BadRequest {
    /// Returns one without a text for the client.
    pub fn new(message: impl Into<String>) -> BadRequest {
        BadRequest(Box::new(Texts {
            message: message.into(),
            detail: None,
        }))
    }

    /// Sets the text for the client.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> BadRequest {
        self.0.detail = Some(detail.into());
        self
    }

    /// Returns the message for the log.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the text for the client.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}
