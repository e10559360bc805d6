//! Patterns of origins: what a plugin asks to call, and what an app is granted.

use super::origin::{bare, check_size, malformed, text_type};
use super::{HostName, HttpOrigin, Invalid, ORIGIN_BYTES_MAX, Subject};
use kvasm_abi::outbound::HOST_NAME_BYTES_MAX;
use std::fmt;

/// One origin, or all subdomains of a name: `https://*.example.com`.
///
/// The star stands for one or more labels, and never for none: the pattern does not match
/// `https://example.com`. At least two labels must follow it, so `https://*.com` is not a
/// pattern. There is no list of public suffixes: `https://*.co.uk` is one.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct OriginPattern {
    /// Whether it matches the subdomains of the origin's host, in place of the host.
    subdomains: bool,
    origin: HttpOrigin,
}

impl OriginPattern {
    /// Parses a pattern: an origin, whose host may begin with `*.`.
    ///
    /// # Errors
    /// [`Invalid`] as [`HttpOrigin::parse`], or if there is another star, an address after the
    /// star, or fewer than two labels after it.
    pub fn parse(text: &str) -> Result<OriginPattern, Invalid> {
        check_size(text, Subject::Origin, ORIGIN_BYTES_MAX)?;
        OriginPattern::checked(text).map_err(|why| malformed(text, why))
    }

    fn checked(text: &str) -> Result<OriginPattern, &'static str> {
        let Some((scheme, parent)) = text.split_once("://*.") else {
            let origin = bare(text)?;
            return Ok(OriginPattern {
                subdomains: false,
                origin,
            });
        };
        let origin = bare(&format!("{scheme}://{parent}"))?;
        match &origin.host {
            HostName::Name(name) if !name.contains('.') => {
                Err("at least two labels must follow the star, as in https://*.example.com")
            }
            // A label must fit in front of it.
            HostName::Name(name) if name.len() + "a.".len() > HOST_NAME_BYTES_MAX => {
                Err("its host is longer than 253 bytes")
            }
            HostName::Name(_) => Ok(OriginPattern {
                subdomains: true,
                origin,
            }),
            HostName::V4(_) | HostName::V6(_) => Err("an address has no subdomains"),
        }
    }

    /// Returns whether the origin is this one, or that of a subdomain of it.
    pub fn matches(&self, origin: &HttpOrigin) -> bool {
        if !self.subdomains {
            return self.origin == *origin;
        }
        let (HostName::Name(parent), HostName::Name(name)) = (&self.origin.host, &origin.host)
        else {
            return false;
        };
        let label = name.strip_suffix(parent.as_str());
        let label = label.and_then(|rest| rest.strip_suffix('.'));
        label.is_some_and(|label| !label.is_empty())
            && self.origin.scheme == origin.scheme
            && self.origin.port == origin.port
    }

    /// Returns whether each origin that the other pattern matches is matched by this one too.
    pub fn covers(&self, other: &OriginPattern) -> bool {
        match other.subdomains {
            false => self.matches(&other.origin),
            true => self == other || (self.subdomains && self.matches(&other.origin)),
        }
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.subdomains { "*." } else { "" };
        let (scheme, authority) = (self.origin.scheme.as_str(), self.origin.authority());
        write!(f, "{scheme}://{star}{authority}")
    }
}

text_type!(OriginPattern);

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> HttpOrigin {
        HttpOrigin::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn pattern(text: &str) -> OriginPattern {
        OriginPattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_pattern_is_shown_in_its_canonical_form() {
        for (written, canonical) in [
            ("HTTPS://API.Example.COM:443", "https://api.example.com"),
            ("http://0x7f.1", "http://127.0.0.1"),
            ("HTTP://*.Example.com:80", "http://*.example.com"),
            (
                "https://*.bücher.example",
                "https://*.xn--bcher-kva.example",
            ),
        ] {
            assert_eq!(pattern(written).to_string(), canonical);
            assert_eq!(pattern(written), pattern(canonical));
        }
    }

    #[test]
    fn a_pattern_with_a_star_matches_subdomains_alone() {
        let all = pattern("https://*.Example.com");
        assert_eq!(all.to_string(), "https://*.example.com");
        for text in ["https://a.example.com", "https://a.b.example.com:443"] {
            assert!(all.matches(&origin(text)), "{text}");
        }
        for text in [
            "https://example.com",
            "https://xexample.com",
            "https://a.example.com.evil.test",
            "https://example.com.evil.test",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://1.2.3.4",
        ] {
            assert!(!all.matches(&origin(text)), "{text}");
        }
        let on_port = pattern("http://*.example.com:8080");
        assert!(on_port.matches(&origin("http://a.example.com:8080")));
        assert!(!on_port.matches(&origin("http://a.example.com")));
        assert_eq!(on_port.to_string(), "http://*.example.com:8080");
    }

    #[test]
    fn a_pattern_without_a_star_matches_one_origin() {
        let one = pattern("https://example.com");
        assert!(one.matches(&origin("https://example.com:443")));
        for text in [
            "http://example.com",
            "https://a.example.com",
            "https://example.com:8443",
        ] {
            assert!(!one.matches(&origin(text)), "{text}");
        }
        let loopback = pattern("http://127.0.0.1:9");
        assert!(loopback.matches(&origin("http://0x7f000001:9")));
        assert!(!loopback.matches(&origin("http://[::ffff:127.0.0.1]:9")));
    }

    #[test]
    fn patterns_that_are_too_wide_are_rejected() {
        for text in [
            "https://*",
            "https://*.",
            "https://*.com",
            "https://*.localhost",
            "https://*.*.example.com",
            "https://a.*.example.com",
            "https://a*.example.com",
            "https://**.example.com",
            "*://example.com",
            "https://*.1.2.3.4",
            "https://*.[::1]",
            "https://user@*.example.com",
            "https://*.user@example.com",
            "https://*.example.com/",
            "https://*.example.com:*",
        ] {
            assert!(OriginPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_matches() {
        let covers = |a: &str, b: &str| pattern(a).covers(&pattern(b));
        let all = "https://*.example.com";
        assert!(covers(all, all));
        assert!(covers(all, "https://a.example.com"));
        assert!(covers(all, "https://*.a.example.com"));
        assert!(!covers(all, "https://example.com"));
        assert!(!covers("https://*.a.example.com", all));
        assert!(!covers("https://a.example.com", "https://*.a.example.com"));
        assert!(!covers(all, "http://*.a.example.com"));
    }
}
