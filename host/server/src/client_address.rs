//! Determines the client of a request that may come through proxies: its address, and the scheme and
//! authority that it has used.

use axum::http::header::{FORWARDED, HOST};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The peer address of a request's connection, in the request's extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remote(pub(super) IpAddr);

/// An address, or all addresses with the same prefix: `192.0.2.1` or `2001:db8::/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// Whether the network contains an address. An IPv4 address in IPv6 form (`::ffff:192.0.2.1`)
    /// counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let all = network.to_bits() ^ address.to_bits();
                all.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let all = network.to_bits() ^ address.to_bits();
                all.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let bad = || {
            format!("{text:?} is not an address or a network such as 192.0.2.1 or 2001:db8::/32")
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        if address.to_canonical() != address {
            let canonical = address.to_canonical();
            return Err(format!("{text:?} is an IPv4 address: write {canonical}"));
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| bad())?,
            None => most,
        };
        if bits > most {
            return Err(format!(
                "{text:?} has a prefix of {bits} bits; the maximum is {most}"
            ));
        }
        let kept = |all: u128, width: u32| match bits {
            0 => 0,
            bits => all >> (width - bits) << (width - bits),
        };
        let first = match address {
            IpAddr::V4(v4) => {
                let kept = kept(v4.to_bits().into(), 32);
                IpAddr::V4(u32::try_from(kept).map_err(|_| bad())?.into())
            }
            IpAddr::V6(v6) => IpAddr::V6(kept(v6.to_bits(), 128).into()),
        };
        if first != address {
            return Err(format!(
                "{text:?} has bits set after the first {bits}: write {first}/{bits}"
            ));
        }
        Ok(Network { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.bits) {
            (address @ IpAddr::V4(_), 32) | (address @ IpAddr::V6(_), 128) => {
                write!(f, "{address}")
            }
            (address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

/// Returns the address of the client. It is the peer address, unless that is a trusted proxy's.
/// Then it is the last address in `X-Forwarded-For`, or in `Forwarded` if that header is absent,
/// that is not a trusted proxy's. If an element is invalid, the proxy after it counts as the
/// client.
pub fn address(remote: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = remote.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let (name, node): (_, fn(&str) -> Option<&str>) = match headers.contains_key(X_FORWARDED_FOR) {
        true => (X_FORWARDED_FOR, |node| Some(node)),
        false => (FORWARDED, forwarded_for),
    };
    for hop in hops(headers, name, node) {
        let Some(hop) = hop else { break };
        client = hop;
        if !is_trusted(hop) {
            break;
        }
    }
    client
}

/// How a client has reached the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientView {
    /// Its address, if the connection has one.
    pub(super) address: Option<IpAddr>,
    /// `http` or `https`. The server itself has no TLS.
    pub(super) scheme: &'static str,
    /// The host and perhaps the port that it has named, if they are valid.
    pub(super) authority: Option<String>,
}

impl ClientView {
    /// Returns the view of a request. What a trusted proxy adds to `X-Forwarded-Proto` and
    /// `X-Forwarded-Host`, or to `Forwarded` if there is neither, replaces the server's own view.
    pub(super) fn of(parts: &Parts, trusted: &[Network]) -> ClientView {
        let headers = &parts.headers;
        let remote = parts.extensions.get().map(|Remote(remote)| *remote);
        let named = match is_trusted(remote, trusted) {
            true => forwarded(headers, X_FORWARDED_HOST, "host"),
            false => None,
        };
        let named = named.or_else(|| {
            let of_uri = parts.uri.authority().map(Authority::as_str);
            of_uri.or_else(|| headers.get(HOST)?.to_str().ok())
        });
        ClientView {
            address: remote.map(|remote| address(remote, headers, trusted)),
            scheme: scheme(remote, headers, trusted),
            authority: named.and_then(authority),
        }
    }
}

/// Returns the scheme by which a client has reached the server: `https` if a trusted proxy says so,
/// as for [`ClientView::of`], or else `http`.
pub(super) fn scheme(
    remote: Option<IpAddr>,
    headers: &HeaderMap,
    trusted: &[Network],
) -> &'static str {
    let scheme = match is_trusted(remote, trusted) {
        true => forwarded(headers, X_FORWARDED_PROTO, "proto"),
        false => None,
    };
    match scheme {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
        _ => "http",
    }
}

fn is_trusted(remote: Option<IpAddr>, trusted: &[Network]) -> bool {
    remote.is_some_and(|remote| trusted.iter().any(|network| network.contains(remote)))
}

/// Returns what the nearest proxy has added: the last element of a header, or the parameter of the
/// last element of `Forwarded`.
fn forwarded<'h>(headers: &'h HeaderMap, name: HeaderName, parameter: &str) -> Option<&'h str> {
    let has_own = [X_FORWARDED_PROTO, X_FORWARDED_HOST]
        .iter()
        .any(|name| headers.contains_key(name));
    let name = if has_own { name } else { FORWARDED };
    let line = headers.get_all(&name).iter().next_back()?.to_str().ok()?;
    let last = line.rsplit(',').next()?.trim();
    match has_own {
        true => Some(last),
        false => forwarded_parameter(last, parameter),
    }
}

/// Returns a valid authority without a user.
fn authority(text: &str) -> Option<String> {
    let valid = Authority::try_from(text).ok()?;
    let is_bare = !valid.host().is_empty() && !text.contains('@');
    is_bare.then(|| text.to_ascii_lowercase())
}

/// The addresses in all headers of this name, last one first; `None` for an invalid element.
///
/// A comma within quotes also separates: the left part comes from the client, which could otherwise
/// open quotes that hide what the proxy added.
fn hops(
    headers: &HeaderMap,
    name: HeaderName,
    node: fn(&str) -> Option<&str>,
) -> impl Iterator<Item = Option<IpAddr>> {
    let values = headers.get_all(name).iter().rev();
    let parts = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    parts.map(move |part| node(part).and_then(|node| parse(node.trim())))
}

/// The `for` parameter of a `Forwarded` element.
fn forwarded_for(element: &str) -> Option<&str> {
    forwarded_parameter(element, "for")
}

/// A parameter of a `Forwarded` element, unless it occurs twice.
fn forwarded_parameter<'e>(element: &'e str, wanted: &str) -> Option<&'e str> {
    let mut nodes = element.split(';').filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case(wanted).then_some(value)
    });
    let node = nodes.next()?;
    if nodes.next().is_some() {
        return None;
    }
    match node.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(node),
    }
}

/// An address, with or without a port.
fn parse(node: &str) -> Option<IpAddr> {
    let bare = node.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let address = match bare.unwrap_or(node).parse() {
        Ok(address) => address,
        Err(_) => node.parse::<SocketAddr>().ok()?.ip(),
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &[&str]) -> Vec<Network> {
        text.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn networks_parse_format_and_match() {
        for text in [
            "192.0.2.1",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "2001:db8::/32",
            "::/0",
            "::1",
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "2001:db8::1/32",
            "::ffff:10.0.0.1",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "localhost",
            "::/129",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        let is_in = |network: &str, address: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(is_in("10.0.0.0/8", "10.255.0.1") && !is_in("10.0.0.0/8", "11.0.0.0"));
        assert!(is_in("10.0.0.1", "::ffff:10.0.0.1") && !is_in("10.0.0.1", "10.0.0.2"));
        assert!(is_in("0.0.0.0/0", "192.0.2.1") && !is_in("0.0.0.0/0", "::1"));
        assert!(is_in("2001:db8::/32", "2001:db8:1::") && !is_in("::1", "::2"));
        assert!(is_in("::/0", "2001:db8::"));
    }

    /// The client address of a request with these headers that `10.0.0.1` forwards.
    fn client(headers: &[(&'static str, &'static str)]) -> String {
        let trusted = networks(&["10.0.0.0/8", "2001:db8:ffff::/48"]);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        address("10.0.0.1".parse().unwrap(), &map, &trusted).to_string()
    }

    #[test]
    fn client_is_the_last_untrusted_forwarded_address() {
        let xff = |value| client(&[("x-forwarded-for", value)]);
        assert_eq!(client(&[]), "10.0.0.1");
        assert_eq!(xff("192.0.2.1"), "192.0.2.1");
        // Anything that the client forged is on the left.
        assert_eq!(xff("203.0.113.9, 192.0.2.1"), "192.0.2.1");
        assert_eq!(xff("203.0.113.9,192.0.2.1 , 10.2.3.4"), "192.0.2.1");
        assert_eq!(xff("192.0.2.1:4711"), "192.0.2.1");
        assert_eq!(xff("[2001:db8::1]:80, 2001:db8:ffff::1"), "2001:db8::1");
        assert_eq!(xff("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(xff("10.9.9.9, 10.2.3.4"), "10.9.9.9");
        // An invalid element ends the chain.
        assert_eq!(xff("192.0.2.1, unknown, 10.2.3.4"), "10.2.3.4");
        assert_eq!(xff(""), "10.0.0.1");
        let two = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        assert_eq!(client(&two), "192.0.2.1");
    }

    #[test]
    fn forwarded_header_is_used_only_without_x_forwarded_for() {
        let forwarded = |value| client(&[("forwarded", value)]);
        assert_eq!(
            forwarded("for=192.0.2.1;proto=https;by=10.0.0.1"),
            "192.0.2.1"
        );
        assert_eq!(
            forwarded("For=\"[2001:db8::1]:80\", for=10.2.3.4"),
            "2001:db8::1"
        );
        // Unclosed quotes of the client do not hide what the proxy added.
        assert_eq!(forwarded("for=\"203.0.113.9, for=192.0.2.1"), "192.0.2.1");
        assert_eq!(forwarded("for=_hidden"), "10.0.0.1");
        assert_eq!(forwarded("for=203.0.113.9;for=192.0.2.1"), "10.0.0.1");
        let both = [
            ("forwarded", "for=203.0.113.9"),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        assert_eq!(client(&both), "192.0.2.1");
    }

    /// The scheme and authority of a request with these headers to `own.test` that an address sends.
    fn origin(remote: &str, headers: &[(&'static str, &str)]) -> String {
        let mut request = axum::http::Request::get("/a/shop/").header(HOST, "Own.test:80");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let remote = Remote(remote.parse().unwrap());
        let (parts, ()) = request.extension(remote).body(()).unwrap().into_parts();
        let view = ClientView::of(&parts, &networks(&["10.0.0.0/8"]));
        format!("{}://{}", view.scheme, view.authority.unwrap_or_default())
    }

    #[test]
    fn scheme_and_host_are_those_of_the_nearest_trusted_proxy() {
        let proxied = |headers: &[(&'static str, &str)]| origin("10.0.0.1", headers);
        let own = "http://own.test:80";
        assert_eq!(proxied(&[]), own);
        assert_eq!(
            proxied(&[("x-forwarded-proto", "https")]),
            "https://own.test:80"
        );
        // What the client forged is on the left.
        let both = [
            ("x-forwarded-proto", "https, http"),
            ("x-forwarded-host", "evil.test"),
            ("x-forwarded-host", "evil.test, shop.test:8443"),
        ];
        assert_eq!(proxied(&both), "http://shop.test:8443");
        assert_eq!(origin("192.0.2.1", &both), own);
        let forwarded = [("forwarded", "proto=http, host=\"shop.test:1\";Proto=HTTPS")];
        assert_eq!(proxied(&forwarded), "https://shop.test:1");
        let ignored = [forwarded[0], ("x-forwarded-proto", "http")];
        assert_eq!(proxied(&ignored), own);
        for bad in ["a b", "user@shop.test", "", "shop.test/x", ":80"] {
            assert_eq!(proxied(&[("x-forwarded-host", bad)]), "http://", "{bad}");
        }
    }

    #[test]
    fn forwarding_headers_of_untrusted_peers_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "203.0.113.9".parse().unwrap());
        let remote = "192.0.2.1".parse().unwrap();
        assert_eq!(
            address(remote, &headers, &networks(&["10.0.0.0/8"])),
            remote
        );
        assert_eq!(address(remote, &headers, &[]), remote);
    }
}
