//! What the administration address refuses from browsers: requests that reach it by the name of
//! another site, changes that a page of another site requests, and responses for its pages.

use super::SharedServer;
use super::client_address::ClientView;
use super::problem::{Kind, Problem};
use axum::http::header::{HOST, HeaderName, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method};
use std::net::{Ipv4Addr, Ipv6Addr};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const CORP: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// An address that the server listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Public,
    /// The administration address, and whether it is a loopback address.
    Admin {
        local: bool,
    },
}

/// Refuses what a page of another site has sent to the administration address.
pub(super) fn check(shared: &SharedServer, parts: &Parts) -> Result<(), Problem> {
    let Door::Admin { local } = shared.door else {
        return Ok(());
    };
    if local && !is_named_locally(parts) {
        let detail = "this address is reached only as localhost or by its IP address";
        return Err(Problem::new(Kind::Misdirected, detail));
    }
    let changes = ![Method::GET, Method::HEAD, Method::OPTIONS].contains(&parts.method);
    let own = || ClientView::of(parts, &shared.options.trusted_proxies).authority;
    if changes && !is_own_origin(&parts.headers, own().as_deref()) {
        let detail = "the administration address takes no changes from pages of other sites";
        return Err(Problem::new(Kind::ForeignOrigin, detail));
    }
    Ok(())
}

/// Makes browsers keep a response of the administration address from pages of other origins, which can
/// request it as a script or an image without CORS, and from being taken for another type.
pub(super) fn protect(shared: &SharedServer, headers: &mut HeaderMap) {
    if matches!(shared.door, Door::Admin { .. }) {
        headers.insert(CORP, HeaderValue::from_static("same-origin"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
}

/// Whether the request names a loopback address, or no host at all, which no browser does.
///
/// A browser that has resolved a hostile name to 127.0.0.1 still sends that name.
fn is_named_locally(parts: &Parts) -> bool {
    let of_uri = parts.uri.authority().map(Authority::as_str);
    let hosts = parts.headers.get_all(HOST).iter();
    let mut names = hosts.map(|host| host.to_str().ok()).chain(of_uri.map(Some));
    names.all(|name| name.is_some_and(is_local_name))
}

fn is_local_name(name: &str) -> bool {
    if name.is_empty() {
        return true;
    }
    let Ok(authority) = Authority::try_from(name) else {
        return false;
    };
    let host = authority.host();
    let bare = host.strip_suffix('.').unwrap_or(host);
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse().is_ok_and(|v4: Ipv4Addr| v4.is_loopback())
        || v6.is_some_and(|v6| v6.parse().is_ok_and(|v6: Ipv6Addr| v6.is_loopback()))
}

/// Whether the request comes from a page of this address, or from no page. `own` is the host and
/// port that the client has named.
fn is_own_origin(headers: &HeaderMap, own: Option<&str>) -> bool {
    // Pages cannot set this header. Without TLS, browsers send it only to trusted addresses.
    let sites = || headers.get_all(SEC_FETCH_SITE).iter();
    let is_foreign_site = sites().any(|site| site != "same-origin" && site != "none");
    let mut origins = headers.get_all(ORIGIN).iter();
    !is_foreign_site
        && origins.all(|origin| {
            let origin = origin.to_str().unwrap_or_default();
            let (scheme, named) = origin.split_once("://").unwrap_or_default();
            let port = match scheme {
                "http" => ":80",
                "https" => ":443",
                _ => return false,
            };
            let own = own.map(|own| own.strip_suffix(port).unwrap_or(own));
            own == Some(named.strip_suffix(port).unwrap_or(named))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_local() {
        for name in [
            "",
            "localhost",
            "LOCALHOST:7181",
            "localhost.",
            "127.0.0.1:7181",
            "127.9.9.9",
            "[::1]:7181",
        ] {
            assert!(is_local_name(name), "{name}");
        }
        for name in [
            "evil.test",
            "localhost.evil.test:7181",
            "evil-localhost",
            "a.localhost",
            "127.0.0.1.evil.test",
            "127.1",
            "2130706433",
            "0.0.0.0",
            "[::]",
            "::1",
            "192.0.2.1",
            "localhost..",
            "evil.test@localhost",
        ] {
            let is_local = is_local_name(name);
            // A user is refused as a syntax error before this.
            assert!(!is_local || name.contains('@'), "{name}");
        }
    }

    #[test]
    fn origins_of_other_sites_are_foreign() {
        let is_own = |headers: &[(&'static str, &str)], own: &str| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().unwrap());
            }
            is_own_origin(&map, Some(own))
        };
        let origin = |origin: &str, own: &str| is_own(&[("origin", origin)], own);
        let local = "localhost:7181";
        assert!(is_own(&[], local));
        assert!(origin("http://localhost:7181", local));
        assert!(origin("https://admin.test", "admin.test"));
        assert!(origin("https://admin.test", "admin.test:443"));
        assert!(is_own(&[("sec-fetch-site", "same-origin")], local));
        for foreign in [
            "null",
            "",
            "http://localhost",
            "http://localhost:7180",
            "http://evil.test:7181",
            "http://localhost:7181.evil.test",
            "ftp://localhost:7181",
            "localhost:7181",
        ] {
            assert!(!origin(foreign, local), "{foreign}");
        }
        assert!(!origin("http://admin.test", "admin.test:443"));
        let own = ("origin", "http://localhost:7181");
        for other in [("origin", "null"), ("sec-fetch-site", "same-site")] {
            assert!(!is_own(&[own, other], local), "{other:?}");
        }
        assert!(!is_own_origin(
            &HeaderMap::from_iter([(ORIGIN, "http://localhost:7181".parse().unwrap())]),
            None
        ));
    }
}
