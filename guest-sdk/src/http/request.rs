//! The request that an HTTP handler receives, or that a plugin sends.

use super::percent::{self, Plus};
use crate::Error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An HTTP request.
///
/// The host creates those of handlers. For [`fetch`](super::fetch()), and in tests, use
/// [`Request::get`] and the other builders:
///
/// ```
/// use kvasm_guest::http::Request;
///
/// let request = Request::post("/carts/7?gift=yes&note=for+Ada")
///     .header("Content-Type", "application/json")
///     .body(r#"{"item":"paper","count":2}"#)
///     .build();
/// assert_eq!(request.method(), "POST");
/// assert_eq!(request.path(), "/carts/7");
/// assert_eq!(request.query_param("note")?.as_deref(), Some("for Ada"));
/// assert_eq!(request.header("content-type"), Some("application/json"));
///
/// #[derive(serde::Deserialize)]
/// struct Line {
///     item: String,
///     count: u32,
/// }
/// let line: Line = request.json()?;
/// assert_eq!((line.item.as_str(), line.count), ("paper", 2));
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    head: Head,
    body: Vec<u8>,
    /// Scheme and authority, if it is for another server.
    server: Option<String>,
    timeout: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Returns the method, such as `GET`. Methods are case-sensitive.
    pub fn method(&self) -> &str {
        &self.head.method
    }

    /// Returns the URL of a request to another server, or `None` for a request to the app.
    pub fn url(&self) -> Option<String> {
        let server = self.server.as_ref()?;
        let mark = if self.query().is_empty() { "" } else { "?" };
        Some(format!("{server}{}{mark}{}", self.path(), self.query()))
    }

    /// Returns the path within the app. It begins with `/`, and is percent-encoded as the
    /// client sent it.
    pub fn path(&self) -> &str {
        &self.head.path
    }

    /// Returns the path's segments, percent-decoded: `a b` and `c` for `/a%20b/c`, one empty
    /// segment for `/`.
    ///
    /// # Errors
    /// [`Error::Decode`] if the escapes of a segment are not valid UTF-8, as with `%ff`. Return
    /// a response of 400 in this case; [`path`](Request::path) is the path as it was sent.
    pub fn path_segments(&self) -> Result<Vec<String>, Error> {
        let path = self.path();
        let segments = path.strip_prefix('/').unwrap_or(path).split('/');
        let decoded = segments.map(|segment| {
            let decoded = percent::decode(segment, Plus::Plus);
            decoded.ok_or_else(|| not_utf8("a part of the path", segment))
        });
        decoded.collect()
    }

    /// Returns the query without the `?`, as the client sent it; empty if there is none.
    pub fn query(&self) -> &str {
        &self.head.query
    }

    /// Returns the parameters of the query in order, as name and value, percent-decoded and
    /// with `+` as a space. A parameter without `=` has an empty value.
    ///
    /// # Errors
    /// [`Error::Decode`] if the escapes of a name or a value are not valid UTF-8, as with
    /// `%ff`. Return a response of 400 in this case; [`query`](Request::query) is the query as
    /// it was sent.
    pub fn query_params(&self) -> Result<Vec<(String, String)>, Error> {
        let decoded = self.pairs().map(|(name, value)| {
            let found = percent::decode(name, Plus::Space);
            let found = found.ok_or_else(|| not_utf8("the name of a parameter", name))?;
            Ok((found, param_value(name, value)?))
        });
        decoded.collect()
    }

    /// Returns the first parameter of this name, decoded as by [`Request::query_params`];
    /// `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Decode`] if the escapes of its value are not valid UTF-8. Other parameters are
    /// not checked.
    pub fn query_param(&self, name: &str) -> Result<Option<String>, Error> {
        let mut pairs = self.pairs();
        let is_it =
            |found: &str| percent::decode(found, Plus::Space).is_some_and(|found| found == name);
        let pair = pairs.find(|(found, _)| is_it(found));
        pair.map(|(name, value)| param_value(name, value))
            .transpose()
    }

    /// The parameters as they were sent.
    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.query().split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// Iterates over the headers in order. Names are in lower case and can repeat. The host
    /// omits headers whose value is not UTF-8.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.head.headers.iter();
        headers.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn header_list(&self) -> &[(String, String)] {
        &self.head.headers
    }

    pub(super) fn timeout_ms(&self) -> Option<u64> {
        let ms = self.timeout?.as_millis();
        Some(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// Returns the value of the first header of this name, ignoring case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Returns the body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Decodes the body as JSON, whatever its content type.
    ///
    /// # Errors
    /// [`Error::Decode`] if the body is not the JSON of a `T`. An `Err` returned by a handler
    /// results in status 500, so convert it to a response of 400.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|e| Error::Decode(format!("the body is not the JSON asked for: {e}")))
    }

    /// Decodes a frame of the host.
    pub(super) fn decode(mut frame: Vec<u8>) -> Result<Request, String> {
        let (head, body) = kvasm_abi::http::split(&frame)
            .map_err(|_| "the input is not an HTTP request: it ends within its head")?;
        let head = serde_json::from_slice(head)
            .map_err(|e| format!("the input is not an HTTP request: {e}"))?;
        // The body stays in its buffer, as memory for a second one may be short.
        let body_start = frame.len() - body.len();
        frame.drain(..body_start);
        Ok(Request {
            head,
            body: frame,
            server: None,
            timeout: None,
        })
    }
}

fn param_value(name: &str, value: &str) -> Result<String, Error> {
    let decoded = percent::decode(value, Plus::Space);
    decoded.ok_or_else(|| not_utf8(&format!("the parameter {name:?}"), value))
}

/// Returns the error, whose message quotes only the start of the text.
fn not_utf8(what: &str, sent: &str) -> Error {
    const SHOWN_MAX: usize = 100;
    let shown: String = sent.chars().take(SHOWN_MAX).collect();
    Error::Decode(format!(
        "{what} is {shown:?}, whose escapes do not stand for UTF-8"
    ))
}

/// Requests to other servers, and for tests.
impl Request {
    /// Builds a `GET`. The target is a URL, or a path and, after a `?`, a query.
    pub fn get(target: &str) -> RequestBuilder {
        Request::builder("GET", target)
    }

    /// Builds a `POST`.
    pub fn post(target: &str) -> RequestBuilder {
        Request::builder("POST", target)
    }

    /// Builds a `PUT`.
    pub fn put(target: &str) -> RequestBuilder {
        Request::builder("PUT", target)
    }

    /// Builds a `DELETE`.
    pub fn delete(target: &str) -> RequestBuilder {
        Request::builder("DELETE", target)
    }

    /// Builds a request of any method. A target that begins with `http://` or `https://` is the
    /// URL of another server. Any other one that does not begin with `/` gets one prepended, as
    /// every path of the host begins with it.
    pub fn builder(method: &str, target: &str) -> RequestBuilder {
        let (server, target) = split_url(target);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let slash = if path.starts_with('/') { "" } else { "/" };
        RequestBuilder {
            request: Request {
                head: Head {
                    method: method.to_owned(),
                    path: format!("{slash}{path}"),
                    query: query.to_owned(),
                    headers: Vec::new(),
                },
                body: Vec::new(),
                server,
                timeout: None,
            },
        }
    }
}

/// Splits a URL after its authority, and removes its fragment. Whether it is valid is the host's
/// decision.
fn split_url(target: &str) -> (Option<String>, &str) {
    let is_scheme =
        |scheme: &str| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let Some((scheme, rest)) = target.split_once("://").filter(|(s, _)| is_scheme(s)) else {
        return (None, target);
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    (Some(format!("{scheme}://{authority}")), rest)
}

/// A builder of a [`Request`].
#[derive(Debug, Clone)]
#[must_use = "`build` makes the request"]
pub struct RequestBuilder {
    request: Request,
}

impl RequestBuilder {
    /// Adds a header. The name is converted to lower case.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> RequestBuilder {
        let header = (name.to_ascii_lowercase(), value.into());
        self.request.head.headers.push(header);
        self
    }

    /// Sets how long [`fetch`](super::fetch()) waits for the whole response. By default, and at
    /// most, as long as the host allows.
    pub fn timeout(mut self, timeout: Duration) -> RequestBuilder {
        self.request.timeout = Some(timeout);
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> RequestBuilder {
        self.request.body = body.into();
        self
    }

    /// Returns the request.
    pub fn build(self) -> Request {
        self.request
    }
}

/// Encodes the frame as the host does.
#[cfg(not(target_arch = "wasm32"))]
impl Request {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        super::handler::frame(&self.head, &self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(head: &str, body: &str) -> Vec<u8> {
        let prefix = kvasm_abi::http::prefix(head.len()).unwrap();
        [&prefix, head.as_bytes(), body.as_bytes()].concat()
    }

    #[test]
    fn host_frame_is_decoded() {
        let head = r#"{"method":"POST","path":"/a%20b","query":"","headers":[["x","1"],["x","2"]],"more":{}}"#;
        let request = Request::decode(framed(head, "body")).unwrap();
        assert_eq!((request.method(), request.path()), ("POST", "/a%20b"));
        assert_eq!(request.body(), b"body");
        assert_eq!(
            request.headers().collect::<Vec<_>>(),
            [("x", "1"), ("x", "2")]
        );
        assert_eq!(request.header("X"), Some("1"));
        assert_eq!(request.header("y"), None);
        let again = Request::decode(request.encode().unwrap());
        assert_eq!(again, Ok(request));
    }

    #[test]
    fn invalid_request_frame_is_an_error() {
        for (frame, why) in [
            (Vec::new(), "ends within its head"),
            (b"\x09\0\0\0{}".to_vec(), "ends within its head"),
            (framed("{}", ""), "missing field `method`"),
            (framed("", "{}"), "EOF"),
        ] {
            let message = Request::decode(frame).unwrap_err();
            assert!(
                message.starts_with("the input is not an HTTP request"),
                "{message}"
            );
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn query_is_parsed_into_pairs() {
        let request = Request::get("/?a=1&a=2&&flag&%C3%A9=x%26y&eq=b=c&=d").build();
        let params = request.query_params().unwrap();
        let expected = [
            ("a", "1"),
            ("a", "2"),
            ("flag", ""),
            ("é", "x&y"),
            ("eq", "b=c"),
            ("", "d"),
        ];
        assert_eq!(
            params,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(request.query_param("a"), Ok(Some("1".to_owned())));
        assert_eq!(request.query_param("b"), Ok(None));
        assert_eq!(Request::get("/").build().query_params(), Ok(Vec::new()));
    }

    #[test]
    fn path_is_split_into_decoded_segments() {
        let segments = |target: &str| -> Vec<String> {
            let request = Request::get(target).build();
            request.path_segments().unwrap()
        };
        assert_eq!(segments("/"), [""]);
        assert_eq!(segments("/a%2Fb/c+d/?x=/y"), ["a/b", "c+d", ""]);
        assert_eq!(segments("a"), ["a"]);
    }

    #[test]
    fn invalid_utf8_in_escapes_is_an_error() {
        let request = Request::get("/a/%ff?x=%C3&%ff=1&y=2").build();
        let segments = request.path_segments().unwrap_err();
        assert_eq!(
            segments.to_string(),
            "a part of the path is \"%ff\", whose escapes do not stand for UTF-8"
        );
        let param = request.query_param("x").unwrap_err();
        assert!(matches!(&param, Error::Decode(why) if why.contains("\"x\" is \"%C3\"")));
        assert!(matches!(request.query_params(), Err(Error::Decode(_))));
        // An error in another parameter does not matter.
        assert_eq!(request.query_param("y"), Ok(Some("2".to_owned())));
        assert_eq!(request.query_param("\u{fffd}"), Ok(None));
        let named = Request::get("/?%ff=1").build().query_params().unwrap_err();
        assert!(named.to_string().starts_with("the name of a parameter is"));
        assert_eq!(
            (request.path(), request.query()),
            ("/a/%ff", "x=%C3&%ff=1&y=2")
        );
    }

    #[test]
    fn undecodable_json_body_is_an_error() {
        let request = Request::post("/").body("[1, 2]").build();
        assert_eq!(request.json(), Ok(vec![1, 2]));
        let error = request.json::<String>().unwrap_err();
        assert!(matches!(error, Error::Decode(_)));
        assert!(error.to_string().contains("expected a string"), "{error}");
    }
}
