//! The response of an HTTP handler, or of another server.

use crate::{Error, json};
use kvasm_abi::http::{STATUSES, STATUSES_WITHOUT_BODY, check_response_headers};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An HTTP response.
///
/// Build it with the methods; the fields are for reading. Tests can also compare whole
/// responses.
///
/// ```
/// use kvasm_guest::http::Response;
///
/// let moved = Response::new(302).header("Location", "/new");
/// assert_eq!(moved.headers, [("location".to_owned(), "/new".to_owned())]);
///
/// let missing = Response::text("no such cart").status(404);
/// assert_eq!((missing.status, missing.body.as_slice()), (404, &b"no such cart"[..]));
///
/// assert_eq!(Response::json(&[1, 2])?.body, b"[1,2]");
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a response does nothing until the handler returns it"]
#[non_exhaustive]
pub struct Response {
    /// The status, 200 to 599. Any other fails the call.
    pub status: u16,
    /// Names and values. A name that is not an HTTP token, or a value with a control character
    /// other than tab, fails the call, and so do more than 100 headers, or more than 64 KiB of them.
    pub headers: Vec<(String, String)>,
    /// The body. It is not sent with status 204, 205 or 304, which have none.
    pub body: Vec<u8>,
}

#[derive(Serialize)]
struct Head<'a> {
    status: u16,
    headers: &'a [(String, String)],
}

impl Response {
    /// Returns a response without headers and body. The status is 200 to 599.
    pub fn new(status: u16) -> Response {
        Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Returns a response of status 204, which has no body.
    pub fn no_content() -> Response {
        Response::new(204)
    }

    /// Returns a response of status 304 with an `etag`, which has no body: the client has the
    /// current representation.
    pub fn not_modified(etag: impl Into<String>) -> Response {
        Response::new(304).header("etag", etag)
    }

    /// Returns a text, with status 200 and the content type `text/plain; charset=utf-8`.
    pub fn text(text: impl Into<String>) -> Response {
        Response::new(200)
            .header("content-type", "text/plain; charset=utf-8")
            .body(text.into())
    }

    /// Returns a value as JSON, with status 200 and the content type `application/json`.
    ///
    /// # Errors
    /// [`Error::Encode`] if serde cannot serialise the value, or it has a NaN or an infinity.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Response, Error> {
        let json = json::encode(value).map_err(|why| {
            Error::Encode(format!("the response cannot be written as JSON: {why}"))
        })?;
        Ok(Response::new(200)
            .header("content-type", "application/json")
            .body(json))
    }

    /// Sets the status, 200 to 599.
    pub fn status(mut self, status: u16) -> Response {
        self.status = status;
        self
    }

    /// Adds a header. The name is converted to lower case. A name can occur more than once,
    /// except `content-type`, of which the last one replaces the others.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Response {
        let name = name.to_ascii_lowercase();
        // `text` and `json` have set one, and a response with two is ambiguous.
        if name == "content-type" {
            self.headers.retain(|(known, _)| *known != name);
        }
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the body. The content type is unchanged. With status 204, 205 or 304 it is not sent.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Response {
        self.body = body.into();
        self
    }

    /// Returns the value of the first header of this name, ignoring case.
    pub fn header_value(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Iterates over the values of the headers of this name in order, ignoring case.
    pub fn header_values(&self, name: &str) -> impl Iterator<Item = &str> {
        let headers = self.headers.iter();
        let found = headers.filter(move |(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the body as text, with U+FFFD for what is not UTF-8.
    pub fn body_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// Decodes the body as JSON, whatever its content type.
    ///
    /// # Errors
    /// [`Error::Decode`] if the body is not the JSON of a `T`.
    pub fn decode_json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        json::decode(&self.body)
            .map_err(|why| Error::Decode(format!("the body is not the JSON asked for: {why}")))
    }

    /// Encodes the frame for the host. The error messages are more specific than the host's,
    /// which only says that the response is malformed.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        if !STATUSES.contains(&self.status) {
            let (first, last) = (STATUSES.start(), STATUSES.end());
            let status = self.status;
            return Err(format!(
                "a response's status is {first} to {last}, not {status}"
            ));
        }
        for (name, value) in &self.headers {
            check_header(name, value)?;
        }
        check_response_headers(&self.headers).map_err(|error| error.to_string())?;
        let head = Head {
            status: self.status,
            headers: &self.headers,
        };
        let body: &[u8] = match STATUSES_WITHOUT_BODY.contains(&self.status) {
            true => &[],
            false => &self.body,
        };
        super::handler::frame(&head, body)
    }
}

fn check_header(name: &str, value: &str) -> Result<(), String> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err(format!("{name:?} cannot be the name of a header"));
    }
    let is_refused = |c: char| c.is_ascii_control() && c != '\t';
    if let Some(found) = value.chars().find(|c| is_refused(*c)) {
        return Err(format!(
            "the value of the header {name:?} cannot contain {found:?}"
        ));
    }
    Ok(())
}

impl Response {
    /// Decodes the frame of a response.
    pub(crate) fn decode(mut frame: Vec<u8>) -> Result<Response, String> {
        #[derive(serde::Deserialize)]
        struct Head {
            status: u16,
            headers: Vec<(String, String)>,
        }
        let malformed = |why: &dyn std::fmt::Display| format!("the output is no response: {why}");
        let (head, body) =
            kvasm_abi::http::split(&frame).map_err(|_| malformed(&"it ends within its head"))?;
        let head: Head = serde_json::from_slice(head).map_err(|e| malformed(&e))?;
        // The body stays in its buffer, as memory for a second one may be short.
        let body_start = frame.len() - body.len();
        frame.drain(..body_start);
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: frame,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_is_encoded_as_a_frame() {
        let response = Response::text("hi").status(201).header("X-A", "1");
        let head = r#"{"status":201,"headers":[["content-type","text/plain; charset=utf-8"],["x-a","1"]]}"#;
        let frame = response.encode().unwrap();
        let (found, body) = kvasm_abi::http::split(&frame).unwrap();
        assert_eq!(std::str::from_utf8(found), Ok(head));
        assert_eq!(body, b"hi");
        assert_eq!(Response::decode(frame), Ok(response));
    }

    #[test]
    fn statuses_without_a_body_have_none() {
        let kept = |response: Response| Response::decode(response.encode().unwrap()).unwrap();
        for status in [204, 205, 304] {
            let sent = kept(Response::text("hi").status(status));
            assert_eq!((sent.status, sent.body), (status, Vec::new()));
        }
        assert_eq!(kept(Response::text("hi").status(206)).body_text(), "hi");
        assert_eq!(Response::no_content().status, 204);
        let unchanged = Response::not_modified("\"7\"")
            .header("x", "1")
            .header("X", "2");
        assert_eq!(unchanged.header_value("ETag"), Some("\"7\""));
        assert_eq!(unchanged.header_values("X").collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn last_content_type_wins_and_other_headers_repeat() {
        let response = Response::text("<p>")
            .header("set-cookie", "a=1")
            .header("Set-Cookie", "b=2")
            .header("Content-Type", "text/html");
        let expected = [
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("content-type", "text/html"),
        ];
        assert_eq!(
            response.headers,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn invalid_status_or_header_is_rejected() {
        for (response, why) in [
            (Response::new(199), "is 200 to 599, not 199"),
            (Response::new(600), "is 200 to 599, not 600"),
            (Response::new(200).header("", "x"), "\"\" cannot be"),
            (Response::new(200).header("a b", "x"), "\"a b\" cannot be"),
            (Response::new(200).header("a:", "x"), "cannot be the name"),
            (Response::new(200).header("é", "x"), "cannot be the name"),
            (
                Response::new(200).header("a", "x\r\nb: y"),
                "cannot contain '\\r'",
            ),
            (
                Response::new(200).header("a", "\u{7f}"),
                "cannot contain '\\u{7f}'",
            ),
        ] {
            let message = response.encode().unwrap_err();
            assert!(message.contains(why), "{message}");
        }
        let many = |count: usize| {
            let none = Response::new(200);
            (0..count).fold(none, |response, _| response.header("a", "1"))
        };
        let large = |bytes: usize| Response::new(200).header("a", "x".repeat(bytes - 1));
        for (allowed, refused, found) in [
            (many(100), many(101), "has 101, of 202 bytes"),
            (large(65536), large(65537), "has 1, of 65537 bytes"),
        ] {
            assert!(allowed.encode().is_ok());
            let message = refused.encode().unwrap_err();
            assert!(message.contains(found), "{message}");
        }
        let fine = Response::new(599).header("a", "é\t;=\"x\"");
        assert!(fine.encode().is_ok());
    }

    #[test]
    fn unserialisable_value_is_an_error() {
        let map = std::collections::BTreeMap::from([((1, 2), 3)]);
        let error = Response::json(&map).unwrap_err();
        assert!(matches!(error, Error::Encode(_)), "{error}");
    }
}
