//! Where the pages of plugins are: below a path of the server, which they share with one another, or
//! each at a host name of its own below a domain, which makes it an origin of its own in a browser.

use super::sandbox::Sandbox;
use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::uri::{Authority, PathAndQuery};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::Response;
use std::fmt;
use std::str::FromStr;

/// The maximum length of a domain, so that an app's name fits before it in a host name.
const DOMAIN_BYTES_MAX: usize = 253 - 64;
const LABEL_BYTES_MAX: usize = 63;
/// Names no app.
const NO_APP: &str = "/a/./";

/// Where plugins answer HTTP requests, and what browsers may do with their pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageOptions {
    /// The domain below which each app has its own host name, `{app}.{domain}`. Default none.
    pub domain: Option<Domain>,
    /// Whether `/a/{app}/` is served. Default true.
    pub paths: bool,
    /// What a browser lets pages below `/a/{app}/` do. Default [`Sandbox::Strict`].
    pub sandbox: Sandbox,
}

impl Default for PageOptions {
    fn default() -> PageOptions {
        PageOptions {
            domain: None,
            paths: true,
            sandbox: Sandbox::Strict,
        }
    }
}

/// A domain name such as `plugins.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(String);

impl FromStr for Domain {
    type Err = String;

    /// Reads a name of two or more labels of letters, digits and hyphens, in lower or upper case.
    fn from_str(text: &str) -> Result<Domain, String> {
        let bad = |why: &str| Err(format!("{text:?} {why}, such as plugins.example.com"));
        if text.len() > DOMAIN_BYTES_MAX {
            return bad("is longer than 189 bytes; expected a domain name");
        }
        if !text.split('.').all(is_label) {
            return bad("is not a domain name without a port");
        }
        if text.parse::<std::net::IpAddr>().is_ok() || !text.contains('.') {
            return bad("cannot have names below it in all browsers; expected a domain name");
        }
        Ok(Domain(text.to_ascii_lowercase()))
    }
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Domain {
    /// Returns the name before the domain in a host, if there is one: `shop` of
    /// `shop.plugins.example.com:443`, in lower case.
    fn name_of(&self, host: &str) -> Option<String> {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let name = host.strip_suffix(&self.0)?.strip_suffix('.')?;
        Some(name.to_owned())
    }
}

/// Marks a request to the host name of an app.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnOrigin;

/// Turns a request to the host name of an app into one to `/a/{app}/`, marked as [`OwnOrigin`]: no
/// other route is reachable there. Requests to other host names pass.
pub(super) async fn by_host(
    State(domain): State<Domain>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(name) = name_of(&domain, request.uri(), request.headers()) {
        *request.uri_mut() = below(&name, request.uri());
        request.extensions_mut().insert(OwnOrigin);
    }
    next.run(request).await
}

/// Returns the name before the domain in the host that a request names. More than one host, and one that is
/// malformed, which servers and proxies could understand differently, is the name of no app.
fn name_of(domain: &Domain, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let mut hosts = headers.get_all(HOST).iter();
    let named = hosts.next();
    if hosts.next().is_some() {
        return Some(String::new());
    }
    // The authority of the target takes precedence (RFC 9112, section 3.2.2).
    if let Some(authority) = uri.authority() {
        return domain.name_of(authority.host());
    }
    let named = named.filter(|named| !named.is_empty())?;
    match Authority::try_from(named.as_bytes()) {
        Ok(authority) => domain.name_of(authority.host()),
        Err(_) => Some(String::new()),
    }
}

fn below(name: &str, uri: &Uri) -> Uri {
    let rest = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    let target = match !name.is_empty() && name.chars().all(is_name) && rest.starts_with('/') {
        true => PathAndQuery::try_from(format!("/a/{name}{rest}")),
        false => Ok(PathAndQuery::from_static(NO_APP)),
    };
    let target = target.unwrap_or(PathAndQuery::from_static(NO_APP));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.clone());
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_is_a_name_of_several_labels() {
        for good in ["plugins.example.com", "a.b", "Apps.Example.ORG", "x-1.test"] {
            let domain: Domain = good.parse().unwrap();
            assert_eq!(domain.to_string(), good.to_ascii_lowercase());
        }
        let long = format!("{}.test", "a.".repeat(100));
        for bad in [
            "",
            "localhost",
            ".test",
            "test.",
            "a..b",
            "a.b:80",
            "192.0.2.1",
            "*.a.b",
            "a_b.test",
            "-a.test",
            "a-.test",
            "ä.test",
            "http://a.b",
            &long,
        ] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
    }

    #[test]
    fn host_of_an_app_becomes_its_path() {
        let domain: Domain = "apps.test".parse().unwrap();
        let target = |uri: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            let uri: Uri = uri.parse().unwrap();
            name_of(&domain, &uri, &headers).map(|name| below(&name, &uri).to_string())
        };
        for (host, path) in [
            ("shop.apps.test", Some("/a/shop/x?y=1")),
            ("SHOP.Apps.TEST:8080", Some("/a/shop/x?y=1")),
            ("shop.apps.test.", Some("/a/shop/x?y=1")),
            ("my_shop.apps.test", Some("/a/my_shop/x?y=1")),
            ("a.shop.apps.test", Some(NO_APP)),
            (".apps.test", Some(NO_APP)),
            ("%73hop.apps.test", Some(NO_APP)),
            ("apps.test", None),
            ("shopapps.test", None),
            ("shop.apps.test.evil.test", None),
            ("user@shop.apps.test", Some("/a/shop/x?y=1")),
            ("", None),
        ] {
            assert_eq!(target("/x?y=1", &[host]).as_deref(), path, "{host}");
        }
        assert_eq!(target("/x", &[]), None);
        let two = target("/x", &["apps.test", "shop.apps.test"]);
        assert_eq!(two.as_deref(), Some(NO_APP));
        let absolute = target("http://shop.apps.test/v1/apps", &["apps.test"]);
        assert_eq!(
            absolute.as_deref(),
            Some("http://shop.apps.test/a/shop/v1/apps")
        );
        let elsewhere = target("http://apps.test/v1/apps", &["shop.apps.test"]);
        assert_eq!(elsewhere, None);
        assert_eq!(target("*", &["shop.apps.test"]).as_deref(), Some(NO_APP));
        let long = format!("/{}", "x".repeat(65_000));
        assert!(target(&long, &["shop.apps.test"]).is_some());
    }
}
