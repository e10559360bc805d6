//! Requests to other servers, and for tests.

use super::Request;
use super::request::RequestHead;
use crate::json;
use serde::Serialize;
use std::net::IpAddr;
use std::time::Duration;

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
                head: RequestHead {
                    method: method.to_owned(),
                    path: format!("{slash}{path}"),
                    query: query.to_owned(),
                    headers: Vec::new(),
                    mount: String::new(),
                    scheme: String::new(),
                    authority: String::new(),
                    client: String::new(),
                },
                body: Vec::new(),
                params: Vec::new(),
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

    /// Sets the URL of the app, for tests of handlers: [`mount`](Request::mount), scheme and
    /// authority.
    pub fn mount(mut self, url: &str) -> RequestBuilder {
        let (server, path) = split_url(url);
        let head = &mut self.request.head;
        path.trim_end_matches('/').clone_into(&mut head.mount);
        if let Some((scheme, authority)) = server.as_deref().and_then(|s| s.split_once("://")) {
            scheme.clone_into(&mut head.scheme);
            authority.clone_into(&mut head.authority);
        }
        self
    }

    /// Sets the client's address, for tests of handlers.
    pub fn client_address(mut self, address: impl Into<IpAddr>) -> RequestBuilder {
        self.request.head.client = address.into().to_string();
        self
    }

    /// Sets the body to a value as JSON, and the content type.
    ///
    /// # Panics
    /// If serde cannot serialise the value.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> RequestBuilder {
        match json::encode(value) {
            Ok(json) => self.header("content-type", "application/json").body(json),
            Err(why) => panic!("the request cannot be written as JSON: {why}"),
        }
    }

    /// Sets a parameter of the route, so that a test can call the handler of a route without its
    /// router.
    pub fn param(mut self, name: &str, value: impl Into<String>) -> RequestBuilder {
        self.request.params.push((name.to_owned(), value.into()));
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
