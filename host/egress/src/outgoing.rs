//! Requests as they are sent: checked, and with the headers that are the host's.

use super::config::EgressConfig;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Uri, Version};
use kvasm_abi::outbound::{self, is_host_header};
use kvasm_core::HttpUrl;
use kvasm_service::{OutboundError, OutboundRequest};

/// Returns whether a header of a response is about the connection, and not for the plugin.
pub(crate) fn is_connection_header(name: &str) -> bool {
    is_host_header(name) && name != "content-length"
}

/// A checked request.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    url: HttpUrl,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Outgoing {
    /// Checks a request.
    pub(crate) fn new(
        request: OutboundRequest,
        config: &EgressConfig,
    ) -> Result<Outgoing, OutboundError> {
        check_size("body", request.body.len(), config.request_bytes)?;
        let sizes = request.headers.iter().map(|(n, v)| n.len() + v.len());
        check_size("list of headers", sizes.sum(), config.header_bytes)?;
        if request.headers.len() > config.headers {
            return Err(invalid(format!(
                "the request has {} headers; the limit is {}",
                request.headers.len(),
                config.headers
            )));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let (name, value) = header(name, value)?;
            headers.append(name, value);
        }
        Ok(Outgoing {
            method: method(&request.method)?,
            url: request.url,
            headers,
            body: request.body,
        })
    }

    /// Returns whether the server does the same if it gets the request twice (RFC 9110, section
    /// 9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    /// Returns the request in the form of a protocol. In HTTP/1.1 the authority is a header, in
    /// HTTP/2 it is part of the URI.
    pub(crate) fn to_request(
        &self,
        version: Version,
    ) -> Result<Request<Full<Bytes>>, OutboundError> {
        let internal = || invalid("the URL cannot be sent".to_owned());
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        let authority = self.url.origin().authority();
        let uri = match version {
            Version::HTTP_2 => self.url.to_string(),
            _ => {
                let host = HeaderValue::from_str(&authority).map_err(|_| internal())?;
                request.headers_mut().insert(HOST, host);
                self.url.target().to_owned()
            }
        };
        *request.uri_mut() = uri.parse::<Uri>().map_err(|_| internal())?;
        *request.version_mut() = version;
        Ok(request)
    }
}

/// A request's method, URI and headers.
#[cfg(feature = "fuzzing")]
pub type RequestHead = (Method, Uri, HeaderMap);

/// Checks a request, and returns its head as it is sent over HTTP/1.1 and over HTTP/2.
#[cfg(feature = "fuzzing")]
pub fn fuzz_outgoing(request: OutboundRequest) -> Result<[RequestHead; 2], OutboundError> {
    let outgoing = Outgoing::new(request, &EgressConfig::default())?;
    let head = |version| {
        let request = outgoing.to_request(version)?.into_parts().0;
        Ok::<_, OutboundError>((request.method, request.uri, request.headers))
    };
    Ok([head(Version::HTTP_11)?, head(Version::HTTP_2)?])
}

fn invalid(why: String) -> OutboundError {
    OutboundError::Invalid(why)
}

fn check_size(what: &'static str, len: usize, limit: usize) -> Result<(), OutboundError> {
    match len > limit {
        true => Err(OutboundError::RequestTooLarge { what, len, limit }),
        false => Ok(()),
    }
}

fn method(text: &str) -> Result<Method, OutboundError> {
    outbound::check_method(text).map_err(|why| invalid(why.to_string()))?;
    // Not reached: a token is a method.
    Method::from_bytes(text.as_bytes()).map_err(|why| invalid(why.to_string()))
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), OutboundError> {
    outbound::check_header(name, value).map_err(|why| invalid(why.to_string()))?;
    // Not reached: the crate has the same rules.
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| invalid(e.to_string()))?;
    let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|e| invalid(e.to_string()))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> OutboundRequest {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        OutboundRequest {
            method: method.to_owned(),
            url: HttpUrl::parse("https://api.example.com:8443/a?b").unwrap(),
            headers: headers.iter().map(owned).collect(),
            body: Bytes::from_static(b"body"),
            timeout: None,
        }
    }

    fn outgoing(method: &str, headers: &[(&str, &str)]) -> Result<Outgoing, OutboundError> {
        Outgoing::new(request(method, headers), &EgressConfig::default())
    }

    #[test]
    fn valid_request_has_the_authority_of_its_url() {
        let valid = outgoing("POST", &[("X-A", "1"), ("x-a", "é\t2"), ("cookie", "a=b")]).unwrap();
        let first = valid.to_request(Version::HTTP_11).unwrap();
        assert_eq!(first.headers()["host"], "api.example.com:8443");
        assert_eq!(first.uri(), "/a?b");
        assert_eq!(first.headers().get_all("x-a").iter().count(), 2);
        let second = valid.to_request(Version::HTTP_2).unwrap();
        assert_eq!(second.uri(), "https://api.example.com:8443/a?b");
        assert!(!second.headers().contains_key("host"));
    }

    #[test]
    fn headers_of_the_connection_are_rejected() {
        let proxy = ["proxy-authorization", "Proxy-Connection"];
        for name in outbound::HOST_HEADERS.into_iter().chain(proxy) {
            for name in [name.to_owned(), name.to_uppercase()] {
                let error = outgoing("GET", &[(&name, "x")]).unwrap_err();
                assert!(matches!(error, OutboundError::Invalid(_)), "{error}");
            }
        }
    }

    #[test]
    fn malformed_headers_are_rejected() {
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("a:", "x"),
            (":authority", "evil.test"),
            ("a\r\nb", "x"),
            ("é", "x"),
            ("transfer-encoding ", "chunked"),
            (" host", "evil.test"),
            ("a", "x\r\nHost: evil.test"),
            ("a", "x\n"),
            ("a", "\r"),
            ("a", "x\0"),
            ("a", "\u{7f}"),
            ("a", "\u{1b}[0m"),
        ] {
            let error = outgoing("GET", &[(name, value)]).unwrap_err();
            assert!(
                matches!(error, OutboundError::Invalid(_)),
                "{name:?}: {error}"
            );
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn malformed_and_forbidden_methods_are_rejected() {
        for method in [
            "",
            "GET ",
            "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\nGET",
            "GE\0T",
            "G\u{e9}T",
            "CONNECT",
            "connect",
            "TRACE",
            "Trace",
            "TRACK",
            "AVERYLONGMETHODTHATISNOTAMETHODATALL",
        ] {
            assert!(outgoing(method, &[]).is_err(), "{method:?}");
        }
        for method in ["GET", "HEAD", "PATCH", "PURGE", "M-SEARCH"] {
            assert!(outgoing(method, &[]).is_ok(), "{method}");
        }
    }

    #[test]
    fn sizes_are_limited() {
        let config = EgressConfig {
            request_bytes: 3,
            ..EgressConfig::default()
        };
        let error = Outgoing::new(request("PUT", &[]), &config).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the request's body has 4 bytes; the limit is 3 bytes"
        );
        let large = "x".repeat(64 * 1024);
        assert!(outgoing("GET", &[("a", &large)]).is_err());
        assert!(outgoing("GET", &[("a", ""); 129]).is_err());
        assert!(outgoing("GET", &[("a", ""); 128]).is_ok());
    }
}
