//! Origins and URLs of HTTP servers.
//!
//! Both are parsed as browsers do (by the `url` crate), so there is one spelling of each: names
//! in lower case and Punycode, and addresses in numbers, however they were written
//! (`http://0x7f.1` is `http://127.0.0.1`).

use super::{Invalid, Subject, text::truncate};
pub use kvasm_abi::outbound::URL_BYTES_MAX;
use kvasm_abi::outbound::check_host_name;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use url::{Host, Url};

/// The maximum size of an origin or of a pattern of origins as it is written, in bytes. The
/// canonical form has at most this size too.
pub const ORIGIN_BYTES_MAX: usize = 512;
/// How much of a malformed text an error shows, in bytes.
const SHOWN_BYTES_MAX: usize = 128;

/// The protocol of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Without encryption.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// Returns the scheme as in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// Returns the port of a URL without one.
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// The host of an origin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostName {
    /// A name, in lower case ASCII, without a dot at its end.
    Name(String),
    /// An address of IPv4.
    V4(Ipv4Addr),
    /// An address of IPv6.
    V6(Ipv6Addr),
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostName::Name(name) => f.write_str(name),
            HostName::V4(address) => address.fmt(f),
            HostName::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// The origin of an HTTP server: scheme, host and port.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct HttpOrigin {
    pub(crate) scheme: Scheme,
    pub(crate) host: HostName,
    pub(crate) port: u16,
}

impl HttpOrigin {
    /// Parses an origin, such as `https://api.example.com` or `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// [`Invalid`] if it is malformed or longer than [`ORIGIN_BYTES_MAX`], or has a user, a path,
    /// a query or a fragment.
    pub fn parse(text: &str) -> Result<HttpOrigin, Invalid> {
        check_size(text, Subject::Origin, ORIGIN_BYTES_MAX)?;
        bare(text).map_err(|why| malformed(text, why))
    }

    /// Returns the scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the host.
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// Returns the port, also if it is the scheme's own.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the value of the header `Host`: the host, and the port unless it is the scheme's
    /// own.
    pub fn authority(&self) -> String {
        match self.port == self.scheme.default_port() {
            true => self.host.to_string(),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    fn of(url: &Url) -> Result<HttpOrigin, &'static str> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err("the scheme must be http or https"),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user or password is not allowed in it");
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => {
                check_host_name(name)?;
                HostName::Name(name.to_owned())
            }
            Some(Host::Ipv4(address)) => HostName::V4(address),
            Some(Host::Ipv6(address)) => HostName::V6(address),
            None => return Err("it has no host"),
        };
        let port = url.port().unwrap_or(scheme.default_port());
        if port == 0 {
            return Err("port 0 does not exist");
        }
        Ok(HttpOrigin { scheme, host, port })
    }
}

impl fmt::Display for HttpOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// A URL of an HTTP server, in its canonical form and without a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    origin: HttpOrigin,
    target: String,
}

impl HttpUrl {
    /// Parses a URL. A fragment is removed, because it is never sent.
    ///
    /// # Errors
    /// [`Invalid`] if it is malformed, not absolute or longer than [`URL_BYTES_MAX`], if its
    /// scheme is not `http` or `https`, or if it has a user or password.
    pub fn parse(text: &str) -> Result<HttpUrl, Invalid> {
        check_size(text, Subject::Url, URL_BYTES_MAX)?;
        let url = |why| Invalid::Url {
            text: truncate(text, SHOWN_BYTES_MAX).to_owned(),
            why,
        };
        let parsed = absolute(text).map_err(url)?;
        let origin = HttpOrigin::of(&parsed).map_err(url)?;
        let target = match parsed.query() {
            Some(query) => format!("{}?{query}", parsed.path()),
            None => parsed.path().to_owned(),
        };
        // Percent-encoding makes it longer.
        check_size(&target, Subject::Url, URL_BYTES_MAX)?;
        Ok(HttpUrl { origin, target })
    }

    /// Returns the origin.
    pub fn origin(&self) -> &HttpOrigin {
        &self.origin
    }

    /// Returns the path and the query: ASCII, and beginning with a slash.
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.target)
    }
}

/// Conversions between a type and its canonical text.
macro_rules! text_type {
    ($name:ident) => {
        impl std::str::FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<$name, Invalid> {
                $name::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<$name, Invalid> {
                $name::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

text_type!(HttpOrigin);
pub(crate) use text_type;

/// Parses an origin with nothing after it.
pub(crate) fn bare(text: &str) -> Result<HttpOrigin, &'static str> {
    let url = absolute(text)?;
    let origin = HttpOrigin::of(&url)?;
    // The parser adds the slash. It is not allowed in the text, nor is a path that it removes.
    let authority = text.split_once("://").map_or("", |(_, rest)| rest);
    if authority.contains(['/', '\\', '?', '#']) {
        return Err("it must end after the host or the port: without a slash, path or query");
    }
    Ok(origin)
}

fn absolute(text: &str) -> Result<Url, &'static str> {
    // The parser would remove some of them.
    if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err("it contains white space or a control character");
    }
    // The parser accepts `https:example.com` and `https:/example.com`.
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    let known = scheme.is_some_and(|scheme| {
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    });
    if !known {
        return Err("it must begin with http:// or https://");
    }
    Url::parse(text).map_err(|error| match error {
        url::ParseError::EmptyHost => "it has no host",
        url::ParseError::InvalidPort => "the port must be a number from 1 to 65535",
        url::ParseError::InvalidIpv4Address | url::ParseError::InvalidIpv6Address => {
            "the host is not a valid address"
        }
        _ => "the host is not a valid name",
    })
}

pub(crate) fn check_size(text: &str, subject: Subject, limit: usize) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(Invalid::Empty(subject));
    }
    if text.len() > limit {
        let (len, limit) = (text.len() as u64, limit as u64);
        return Err(Invalid::TooLarge {
            subject,
            len,
            limit,
        });
    }
    Ok(())
}

pub(crate) fn malformed(text: &str, why: &'static str) -> Invalid {
    Invalid::Origin {
        text: truncate(text, SHOWN_BYTES_MAX).to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> HttpOrigin {
        HttpOrigin::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn each_origin_has_one_spelling() {
        for (written, canonical) in [
            ("https://api.example.com", "https://api.example.com"),
            ("HTTPS://API.Example.COM:443", "https://api.example.com"),
            ("http://example.com:80", "http://example.com"),
            ("http://example.com:443", "http://example.com:443"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://127.0.0.1", "http://127.0.0.1"),
            ("http://0x7f.1", "http://127.0.0.1"),
            ("http://2130706433", "http://127.0.0.1"),
            ("http://0177.0.0.01:81", "http://127.0.0.1:81"),
            ("http://127。0。0。1", "http://127.0.0.1"),
            ("http://[0:0::1]:9", "http://[::1]:9"),
            ("http://[::ffff:127.0.0.1]", "http://[::ffff:127.0.0.1]"),
            ("https://a_b.example", "https://a_b.example"),
        ] {
            assert_eq!(origin(written).to_string(), canonical, "{written}");
            assert_eq!(origin(canonical), origin(written));
        }
    }

    #[test]
    fn what_is_not_an_origin_is_rejected() {
        for text in [
            "",
            "example.com",
            "https:example.com",
            "https:/example.com",
            "//example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "unix:///run/x",
            "https://",
            "https://:80",
            "https://example.com/",
            "https://example.com/a/..",
            "https://example.com\\a",
            "https://example.com?",
            "https://example.com#a",
            "https://user@example.com",
            "https://user:password@example.com",
            "https://example.com:0",
            "https://example.com:65536",
            "https://example.com:x",
            "https://example.com.",
            "https://.example.com",
            "https://a..example.com",
            "https://exa mple.com",
            "https://example.com\n",
            " https://example.com",
            "https://exa\tmple.com",
            "https://exa%mple.com",
            "https://a$b.example.com",
            "https://1.2.3.4.5",
            "https://256.0.0.1",
            "https://[::1",
            "https://[::1%25eth0]",
            "https://*.example.com",
        ] {
            assert!(HttpOrigin::parse(text).is_err(), "{text}");
        }
        let long_label = format!("https://{}.example", "a".repeat(64));
        let long_name = format!("https://{}example", "a.".repeat(130));
        let long_text = format!("https://{}", "a".repeat(ORIGIN_BYTES_MAX));
        for text in [long_label, long_name, long_text] {
            let error = HttpOrigin::parse(&text).unwrap_err().to_string();
            assert!(error.len() < 300, "{error}");
        }
    }

    #[test]
    fn a_url_has_an_origin_and_a_target() {
        let url = |text: &str| HttpUrl::parse(text).unwrap();
        for (text, canonical) in [
            ("https://example.com", "https://example.com/"),
            (
                "https://EXAMPLE.com/a b?c= d".replace(' ', "%20").as_str(),
                "https://example.com/a%20b?c=%20d",
            ),
            ("http://example.com:80/a/../b#c", "http://example.com/b"),
            ("http://example.com?a=é", "http://example.com/?a=%C3%A9"),
            (
                "https://good.test\\@evil.test",
                "https://good.test/@evil.test",
            ),
        ] {
            assert_eq!(url(text).to_string(), canonical);
            assert!(url(text).target().starts_with('/') && url(text).target().is_ascii());
        }
        for text in [
            "",
            "/a",
            "https://user@example.com/",
            "https://good.test@evil.test/",
            "https://example.com/\r\nX: y",
            "https://example.com/ HTTP/1.1",
            "data:,a",
        ] {
            assert!(HttpUrl::parse(text).is_err(), "{text}");
        }
        let long = format!(
            "https://example.com/{}",
            "é".repeat(URL_BYTES_MAX / 2 - 100)
        );
        assert!(HttpUrl::parse(&long).is_err());
    }

    #[test]
    fn a_malformed_origin_is_named_by_its_error() {
        assert_eq!(
            HttpOrigin::parse("example.com").unwrap_err().to_string(),
            "\"example.com\" is not an origin: it must begin with http:// or https://; examples: \
             \"https://api.example.com\", \"https://*.example.com:8443\""
        );
        assert_eq!(
            HttpUrl::parse("/a").unwrap_err().to_string(),
            "\"/a\" is not a URL to fetch: it must begin with http:// or https://"
        );
    }
}
