//! The request that an HTTP handler receives, or that a plugin sends.

use super::BadRequest;
use super::percent::{self, Plus};
use crate::{Error, json};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::str::FromStr;
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
    pub(super) head: RequestHead,
    pub(super) body: Vec<u8>,
    /// Those of the route, by name.
    pub(super) params: Vec<(String, String)>,
    /// Scheme and authority, if it is for another server.
    pub(super) server: Option<String>,
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RequestHead {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: Vec<(String, String)>,
    /// Where the app is, and who the client is. They are empty in a request to another server, and
    /// from an older host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) mount: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) scheme: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) authority: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) client: String,
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

    /// Returns the path of the app on its server, without a slash at the end: `/a/shop`. The
    /// client's path is this followed by [`path`](Request::path). Empty if it is not known.
    pub fn mount(&self) -> &str {
        &self.head.mount
    }

    /// Returns `http` or `https`, as the client has used it: the host gets it from its operator's
    /// proxies. `http` if it is not known.
    pub fn scheme(&self) -> &str {
        match self.head.scheme.as_str() {
            "" => "http",
            scheme => scheme,
        }
    }

    /// Returns the host and perhaps the port that the client has named, as in `shop.example:8443`.
    /// A client can name any: do not decide on access by it. `None` if it is not known.
    pub fn authority(&self) -> Option<&str> {
        Some(self.head.authority.as_str()).filter(|authority| !authority.is_empty())
    }

    /// Returns the client's address, which the host gets from the connection, or from its
    /// operator's proxies. `None` if it is not known.
    pub fn client_address(&self) -> Option<IpAddr> {
        self.head.client.parse().ok()
    }

    /// Returns the absolute URL of a path within the app, which begins with `/` and is
    /// percent-encoded; `None` if the [`authority`](Request::authority) is not known.
    ///
    /// ```
    /// use kvasm_guest::http::Request;
    ///
    /// let request = Request::post("/users").mount("https://shop.example/a/users").build();
    /// let url = request.absolute_url("/users/7?full");
    /// assert_eq!(url.as_deref(), Some("https://shop.example/a/users/users/7?full"));
    /// ```
    pub fn absolute_url(&self, path: &str) -> Option<String> {
        let (scheme, authority, mount) = (self.scheme(), self.authority()?, self.mount());
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(format!("{scheme}://{authority}{mount}{slash}{path}"))
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
    /// [`Error::BadRequest`] if the escapes of a segment are not valid UTF-8, as with `%ff`. [`path`](Request::path) is the path as it was sent.
    pub fn path_segments(&self) -> Result<Vec<String>, Error> {
        let path = self.path();
        let segments = path.strip_prefix('/').unwrap_or(path).split('/');
        let decoded = segments.map(|segment| {
            let decoded = percent::decode(segment, Plus::Plus);
            decoded.ok_or_else(|| not_utf8("a part of the path", segment))
        });
        decoded.collect()
    }

    /// Returns a parameter of the route, percent-decoded: `7` for `id` if the
    /// [`Router`](super::Router) has the route `/users/{id}` and the path is `/users/7`.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if it cannot be parsed as a `T`; [`Error::Internal`] if the route has
    /// no parameter of this name.
    ///
    /// ```
    /// use kvasm_guest::Error;
    /// use kvasm_guest::http::Request;
    ///
    /// let request = Request::get("/users/7").param("id", "7").build();
    /// assert_eq!(request.param("id"), Ok(7));
    /// let error = Request::get("/").param("id", "x").build().param::<u32>("id");
    /// assert!(matches!(error, Err(Error::BadRequest(_))));
    /// ```
    pub fn param<T: FromStr>(&self, name: &str) -> Result<T, Error> {
        let mut params = self.params.iter();
        match params.find(|(found, _)| found == name) {
            Some((_, value)) => parse(name, value),
            None => Err(Error::Internal(format!(
                "the route has no parameter {name:?}"
            ))),
        }
    }

    pub(super) fn set_params(&mut self, params: Vec<(String, String)>) {
        self.params = params;
    }

    /// Returns the query without the `?`, as the client sent it; empty if there is none.
    pub fn query(&self) -> &str {
        &self.head.query
    }

    /// Returns the parameters of the query in order, as name and value, percent-decoded and
    /// with `+` as a space. A parameter without `=` has an empty value.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if the escapes of a name or a value are not valid UTF-8, as with
    /// `%ff`. [`query`](Request::query) is the query as it was sent.
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
    /// [`Error::BadRequest`] if the escapes of its value are not valid UTF-8. Other parameters are
    /// not checked.
    pub fn query_param(&self, name: &str) -> Result<Option<String>, Error> {
        let mut pairs = self.pairs();
        let is_it =
            |found: &str| percent::decode(found, Plus::Space).is_some_and(|found| found == name);
        let pair = pairs.find(|(found, _)| is_it(found));
        pair.map(|(name, value)| param_value(name, value))
            .transpose()
    }

    /// Like [`Request::query_param`], and parses the value.
    ///
    /// # Errors
    /// Also [`Error::BadRequest`] if it cannot be parsed as a `T`.
    ///
    /// ```
    /// use kvasm_guest::http::Request;
    ///
    /// let request = Request::get("/?limit=20").build();
    /// assert_eq!(request.query_value("limit")?.unwrap_or(50), 20);
    /// assert_eq!(request.query_value::<bool>("all")?, None);
    /// assert!(request.query_value::<bool>("limit").is_err());
    /// # Ok::<(), kvasm_guest::Error>(())
    /// ```
    pub fn query_value<T: FromStr>(&self, name: &str) -> Result<Option<T>, Error> {
        let value = self.query_param(name)?;
        let parsed = value.map(|value| parse(name, &value));
        parsed.transpose()
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
    /// [`Error::BadRequest`] if the body is not the JSON of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        json::decode_of_client(&self.body).map_err(|(why, shown)| {
            let message = format!("the body is not the JSON asked for: {why}");
            Error::BadRequest(BadRequest::new(message).with_detail(shown))
        })
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
            params: Vec::new(),
            server: None,
            timeout: None,
        })
    }
}

/// Parses the text of a parameter of the client.
fn parse<T: FromStr>(name: &str, text: &str) -> Result<T, Error> {
    let refuse = |_| not_parsed(name, text, std::any::type_name::<T>());
    text.parse().map_err(refuse)
}

#[cold]
fn not_parsed(name: &str, text: &str, kind: &str) -> Error {
    let shown = start(text);
    let detail = match json::wanted(kind) {
        Some(wanted) => format!("the parameter {name:?} is {shown:?}; expected {wanted}"),
        // Only the plugin knows the type.
        None => format!("the parameter {name:?} is {shown:?}, which is not accepted"),
    };
    let message = format!("the parameter {name:?} is {shown:?}, which is not a valid {kind}");
    Error::BadRequest(BadRequest::new(message).with_detail(detail))
}

/// Returns the start of a text of the client, for messages.
fn start(text: &str) -> String {
    const SHOWN_MAX: usize = 100;
    text.chars().take(SHOWN_MAX).collect()
}

fn param_value(name: &str, value: &str) -> Result<String, Error> {
    let decoded = percent::decode(value, Plus::Space);
    decoded.ok_or_else(|| not_utf8(&format!("the parameter {name:?}"), value))
}

/// Returns the error, whose message quotes only the start of the text.
fn not_utf8(what: &str, sent: &str) -> Error {
    let shown = start(sent);
    let message = format!("{what} is {shown:?}, whose escapes do not stand for UTF-8");
    Error::BadRequest(BadRequest::new(message.clone()).with_detail(message))
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
    fn host_says_where_the_app_is() {
        let head = r#"{"method":"GET","path":"/x","query":"","headers":[],"mount":"/a/shop",
            "scheme":"https","authority":"a.test:8443","client":"2001:db8::1"}"#;
        let request = Request::decode(framed(head, "")).unwrap();
        let url = request.absolute_url("y");
        assert_eq!(url.as_deref(), Some("https://a.test:8443/a/shop/y"));
        let address = request.client_address().map(|address| address.to_string());
        assert_eq!(address.as_deref(), Some("2001:db8::1"));
        let built = Request::get("/x").mount("https://a.test:8443/a/shop/");
        let built = built.client_address([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        assert_eq!(built.build(), request);
        // A host without these members.
        let older = Request::get("/").build();
        assert_eq!((older.mount(), older.scheme()), ("", "http"));
        assert_eq!((older.authority(), older.client_address()), (None, None));
        assert_eq!(older.absolute_url("/y"), None);
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
        assert!(
            matches!(&param, Error::BadRequest(why) if why.message().contains("\"x\" is \"%C3\""))
        );
        assert!(matches!(request.query_params(), Err(Error::BadRequest(_))));
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
        assert!(matches!(error, Error::BadRequest(_)));
        assert!(error.to_string().contains("expected a string"), "{error}");
    }
}
