//! What an HTTP handler is asked.

use super::percent::{self, Plus};
use crate::Error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// An HTTP request.
///
/// The host makes it. In tests, [`Request::get`] and its like do:
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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The method, such as `GET`. Methods are case-sensitive.
    pub fn method(&self) -> &str {
        &self.head.method
    }

    /// The path within the app. It begins with `/`, and is percent-encoded as
    /// the client sent it.
    pub fn path(&self) -> &str {
        &self.head.path
    }

    /// The path's parts between slashes, percent-decoded: `a b` and `c` of
    /// `/a%20b/c`, one empty part of `/`.
    ///
    /// # Errors
    /// [`Error::Decode`] if the escapes of a part do not stand for UTF-8, as `%ff` does
    /// not. Turn it into a response of 400; [`path`](Request::path) has it as it was sent.
    pub fn path_segments(&self) -> Result<Vec<String>, Error> {
        let path = self.path();
        let segments = path.strip_prefix('/').unwrap_or(path).split('/');
        let decoded = segments.map(|segment| {
            let decoded = percent::decode(segment, Plus::Plus);
            decoded.ok_or_else(|| not_utf8("a part of the path", segment))
        });
        decoded.collect()
    }

    /// What follows the `?`, as the client sent it; empty if nothing does.
    pub fn query(&self) -> &str {
        &self.head.query
    }

    /// The parameters of the query in order, name and value, percent-decoded and
    /// with `+` as a space. One without `=` has an empty value.
    ///
    /// # Errors
    /// [`Error::Decode`] if the escapes of a name or a value do not stand for UTF-8, as
    /// `%ff` does not. Turn it into a response of 400; [`query`](Request::query) has it as
    /// it was sent.
    pub fn query_params(&self) -> Result<Vec<(String, String)>, Error> {
        let decoded = self.pairs().map(|(name, value)| {
            let found = percent::decode(name, Plus::Space);
            let found = found.ok_or_else(|| not_utf8("the name of a parameter", name))?;
            Ok((found, param_value(name, value)?))
        });
        decoded.collect()
    }

    /// The first parameter of this name, as [`Request::query_params`] has it; `None` if
    /// there is none.
    ///
    /// # Errors
    /// [`Error::Decode`] if the escapes of its value do not stand for UTF-8. Others are not
    /// looked at.
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

    /// The headers in order: names in lower case, a name as often as it came.
    /// The host leaves out a header whose value is not UTF-8.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.head.headers.iter();
        headers.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of the first header of this name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The body's bytes.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Reads the body as JSON, whatever its content type.
    ///
    /// # Errors
    /// [`Error::Decode`] if the body is not the JSON of a `T`. An `Err` out of a
    /// handler is answered with status 500, so turn it into a response of 400.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|e| Error::Decode(format!("the body is not the JSON asked for: {e}")))
    }

    /// Reads a frame of the host.
    pub(super) fn decode(mut frame: Vec<u8>) -> Result<Request, String> {
        let (head, body) = kvasm_abi::http::split(&frame)
            .map_err(|_| "the input is not an HTTP request: it ends within its head")?;
        let head = serde_json::from_slice(head)
            .map_err(|e| format!("the input is not an HTTP request: {e}"))?;
        // The body stays in its buffer, as memory for a second one may be short.
        let body_start = frame.len() - body.len();
        frame.drain(..body_start);
        Ok(Request { head, body: frame })
    }
}

fn param_value(name: &str, value: &str) -> Result<String, Error> {
    let decoded = percent::decode(value, Plus::Space);
    decoded.ok_or_else(|| not_utf8(&format!("the parameter {name:?}"), value))
}

/// The message repeats no more than the start of what was sent.
fn not_utf8(what: &str, sent: &str) -> Error {
    const SHOWN_MAX: usize = 100;
    let shown: String = sent.chars().take(SHOWN_MAX).collect();
    Error::Decode(format!(
        "{what} is {shown:?}, whose escapes do not stand for UTF-8"
    ))
}

/// Requests for tests.
impl Request {
    /// Begins a `GET`. The target is a path and, behind a `?`, a query.
    pub fn get(target: &str) -> RequestBuilder {
        Request::builder("GET", target)
    }

    /// Begins a `POST`.
    pub fn post(target: &str) -> RequestBuilder {
        Request::builder("POST", target)
    }

    /// Begins a `PUT`.
    pub fn put(target: &str) -> RequestBuilder {
        Request::builder("PUT", target)
    }

    /// Begins a `DELETE`.
    pub fn delete(target: &str) -> RequestBuilder {
        Request::builder("DELETE", target)
    }

    /// Begins a request of any method. A target that does not begin with `/`
    /// gets one in front, as every path of the host has it.
    pub fn builder(method: &str, target: &str) -> RequestBuilder {
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
            },
        }
    }
}

/// A [`Request`] in the making.
#[derive(Debug, Clone)]
#[must_use = "`build` makes the request"]
pub struct RequestBuilder {
    request: Request,
}

impl RequestBuilder {
    /// Adds a header. Its name goes into lower case.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> RequestBuilder {
        let header = (name.to_ascii_lowercase(), value.into());
        self.request.head.headers.push(header);
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> RequestBuilder {
        self.request.body = body.into();
        self
    }

    /// The request.
    pub fn build(self) -> Request {
        self.request
    }
}

/// The frame as the host would write it.
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
    fn a_frame_of_the_host_is_read() {
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
    fn what_is_no_frame_says_so() {
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
    fn a_query_is_taken_apart() {
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
    fn a_path_is_taken_apart() {
        let segments = |target: &str| -> Vec<String> {
            let request = Request::get(target).build();
            request.path_segments().unwrap()
        };
        assert_eq!(segments("/"), [""]);
        assert_eq!(segments("/a%2Fb/c+d/?x=/y"), ["a/b", "c+d", ""]);
        assert_eq!(segments("a"), ["a"]);
    }

    #[test]
    fn escapes_that_are_not_utf8_are_an_error_and_nothing_else() {
        let request = Request::get("/a/%ff?x=%C3&%ff=1&y=2").build();
        let segments = request.path_segments().unwrap_err();
        assert_eq!(
            segments.to_string(),
            "a part of the path is \"%ff\", whose escapes do not stand for UTF-8"
        );
        let param = request.query_param("x").unwrap_err();
        assert!(matches!(&param, Error::Decode(why) if why.contains("\"x\" is \"%C3\"")));
        assert!(matches!(request.query_params(), Err(Error::Decode(_))));
        // Another's mistake is not this one's.
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
    fn a_body_that_is_not_the_json_asked_for_is_an_error() {
        let request = Request::post("/").body("[1, 2]").build();
        assert_eq!(request.json(), Ok(vec![1, 2]));
        let error = request.json::<String>().unwrap_err();
        assert!(matches!(error, Error::Decode(_)));
        assert!(error.to_string().contains("expected a string"), "{error}");
    }
}
