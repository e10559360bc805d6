//! Filters the headers between clients and plugins. Below `/a/` all plugins share one origin in a
//! browser, so a plugin's response must not affect anything outside its own path. At a host name of
//! its own it must not affect other host names.

use super::auth;
use super::cost::{KVASM_COST, SERVER_TIMING};
use super::idempotency::IDEMPOTENCY_REPLAYED;
use super::request_ids::{REQUEST_ID, TRACEPARENT, TRACESTATE};
use super::sandbox::Sandbox;
use axum::http::header::{
    ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, STRICT_TRANSPORT_SECURITY, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use kvasm_abi::http::check_response_headers;
use kvasm_core::AppName;

/// The trace of a response, in a draft of the W3C. The host sends none.
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Whether a header belongs to one connection, or to the host.
fn is_hop_or_host_header(name: &HeaderName) -> bool {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_AUTHENTICATION_INFO: HeaderName =
        HeaderName::from_static("proxy-authentication-info");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    [
        CONNECTION,
        CONTENT_LENGTH,
        IDEMPOTENCY_REPLAYED,
        KEEP_ALIVE,
        KVASM_COST,
        PROXY_AUTHENTICATE,
        PROXY_AUTHENTICATION_INFO,
        PROXY_AUTHORIZATION,
        PROXY_CONNECTION,
        REQUEST_ID,
        TE,
        TRACEPARENT,
        TRACERESPONSE,
        TRACESTATE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
    .contains(name)
}

/// Whether a response header affects the whole origin, and nothing else. Among them are questions for
/// a password: a browser sends what it has for an origin and a realm to any path that asks for it.
fn affects_origin(name: &HeaderName) -> bool {
    let name = name.as_str();
    let names = [
        "accept-ch",
        "accept-ch-lifetime",
        "authentication-control",
        "authentication-info",
        "cache-group-invalidation",
        "cache-groups",
        "critical-ch",
        "expect-ct",
        "idp-signin-status",
        "nel",
        "observe-browsing-topics",
        "optional-www-authenticate",
        "origin-agent-cluster",
        "report-to",
        "service-worker-allowed",
        "set-login",
        "use-as-dictionary",
        "www-authenticate",
    ];
    // Sessions bound to a device, by both of their names, and what advertisers store for an origin.
    let families = [
        "attribution-reporting-",
        "sec-session-",
        "secure-session-",
        "shared-storage-",
    ];
    names.contains(&name) || families.iter().any(|family| name.starts_with(family))
}

/// Whether a response header affects other host names, or a proxy before the server. A browser that
/// clears the cookies of a host name clears them for the whole registrable domain.
fn affects_other_hosts(name: &HeaderName) -> bool {
    let name = name.as_str();
    let names = [
        ALT_SVC.as_str(),
        AUTHORIZATION.as_str(),
        STRICT_TRANSPORT_SECURITY.as_str(),
        "clear-site-data",
        "public-key-pins",
        "public-key-pins-report-only",
        "set-cookie2",
        "x-lighttpd-send-file",
        "x-sendfile",
    ];
    names.contains(&name) || name.starts_with("x-accel-")
}

/// The origin of a plugin's page in a browser.
#[derive(Debug, Clone)]
pub(super) enum PageOrigin {
    /// A host name of its own.
    Own,
    /// That of the server, below the path of this app.
    Shared { app: AppName, sandbox: Sandbox },
}

/// The headers of a request that a plugin receives, without the host's token. `trace` is the
/// `traceparent` and the `tracestate` of the host, which replace those of the client.
pub(super) fn of_request<'h>(
    headers: &'h HeaderMap,
    trace: Option<(&'h str, Option<&'h str>)>,
) -> Vec<(&'h str, &'h str)> {
    let is_hidden = |name: &HeaderName, value: &HeaderValue| {
        is_hop_or_host_header(name) || (*name == AUTHORIZATION && auth::is_for_host(value))
    };
    let shown = headers
        .iter()
        .filter(|(name, value)| !is_hidden(name, value));
    let text = shown.filter_map(|(name, value)| {
        let value = std::str::from_utf8(value.as_bytes()).ok()?;
        Some((name.as_str(), value))
    });
    let (parent, state) = trace.unzip();
    let parent = parent.map(|parent| ("traceparent", parent));
    let state = state.flatten().map(|state| ("tracestate", state));
    text.chain(parent).chain(state).collect()
}

/// The headers of a plugin's response that are sent to the client, or why they are invalid.
pub(super) fn of_response(
    given: &[(String, String)],
    origin: &PageOrigin,
) -> Result<HeaderMap, String> {
    check_response_headers(given).map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let name = HeaderName::try_from(name).map_err(|_| "invalid header name")?;
        let invalid = |_| format!("invalid value of the header {name}");
        let mut header = HeaderValue::try_from(value).map_err(invalid)?;
        // The figures of the host must not be mistaken for those of a plugin, or vice versa.
        let is_of_host = is_hop_or_host_header(&name) || name == SERVER_TIMING;
        let is_shared = matches!(origin, PageOrigin::Shared { .. });
        if is_of_host || affects_other_hosts(&name) || (is_shared && affects_origin(&name)) {
            continue;
        }
        if name == SET_COOKIE {
            let Some(cookie) = own_cookie(value, origin) else {
                continue;
            };
            header = HeaderValue::try_from(cookie).map_err(invalid)?;
        }
        headers.append(name, header);
    }
    if let PageOrigin::Shared { sandbox, .. } = origin
        && let Some(policy) = sandbox.policy()
    {
        // In addition to those of the plugin: a browser applies all policies of a response.
        headers.append(CONTENT_SECURITY_POLICY, policy);
    }
    Ok(headers)
}

/// Restricts a cookie to the host name, and on a shared one to the paths of the app: its path is kept
/// if it is one of them. `None` if the cookie must apply to the whole of a shared host.
fn own_cookie(cookie: &str, origin: &PageOrigin) -> Option<String> {
    const OF_THE_HOST: &str = "__host-";
    let app = match origin {
        PageOrigin::Own => return Some(without_domain(cookie)),
        PageOrigin::Shared { app, .. } => app,
    };
    let root = format!("/a/{app}/");
    let mut parts = cookie.split(';');
    let pair = parts.next().unwrap_or_default();
    // For a cookie without a name, a browser looks for the prefix in the value.
    let (name, value) = pair.split_once('=').unwrap_or(("", pair));
    let shown = if name.trim().is_empty() { value } else { name };
    let start = shown.trim_start().get(..OF_THE_HOST.len());
    if start.is_some_and(|start| start.eq_ignore_ascii_case(OF_THE_HOST)) {
        return None;
    }
    let mut own = pair.to_owned();
    let mut path = root.clone();
    for attribute in parts {
        let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "domain" => {}
            // The last attribute takes precedence.
            "path" if value.trim().starts_with(&root) => path = value.trim().to_owned(),
            "path" => path.clone_from(&root),
            _ => {
                own.push(';');
                own.push_str(attribute);
            }
        }
    }
    own.push_str("; Path=");
    own.push_str(&path);
    Some(own)
}

fn without_domain(cookie: &str) -> String {
    let mut parts = cookie.split(';');
    let mut own = parts.next().unwrap_or_default().to_owned();
    for attribute in parts {
        let name = attribute.split('=').next().unwrap_or_default();
        if !name.trim().eq_ignore_ascii_case("domain") {
            own.push(';');
            own.push_str(attribute);
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(sandbox: Sandbox) -> PageOrigin {
        let app = AppName::parse("shop").unwrap();
        PageOrigin::Shared { app, sandbox }
    }

    #[test]
    fn cookie_of_an_own_origin_loses_its_domain() {
        for (given, sent) in [
            ("a=1", "a=1"),
            ("a=1; Domain=apps.test; Path=/x", "a=1; Path=/x"),
            ("a=1; DOMAIN = .apps.test;Secure;domain", "a=1;Secure"),
            ("__Host-a=1; Secure; Path=/", "__Host-a=1; Secure; Path=/"),
        ] {
            assert_eq!(own_cookie(given, &PageOrigin::Own).as_deref(), Some(sent));
        }
    }

    #[test]
    fn cookie_path_is_confined_to_the_app() {
        let shop = shared(Sandbox::Strict);
        for (given, sent) in [
            ("a=1", Some("a=1; Path=/a/shop/")),
            ("a=1; Path=/", Some("a=1; Path=/a/shop/")),
            (
                "a=1;path = /a/other/;Secure",
                Some("a=1;Secure; Path=/a/shop/"),
            ),
            ("a=1; Path=/a/shop2/", Some("a=1; Path=/a/shop/")),
            (
                "a=1; PATH=/a/shop/x; HttpOnly",
                Some("a=1; HttpOnly; Path=/a/shop/x"),
            ),
            ("a=1; Path=/a/shop/x; Path=/", Some("a=1; Path=/a/shop/")),
            (
                "a=1; Domain=example.org; Max-Age=9",
                Some("a=1; Max-Age=9; Path=/a/shop/"),
            ),
            ("__Host-a=1; Secure; Path=/", None),
            (" __hOST-a=1; Secure; Path=/", None),
            ("=__Host-a=1; Secure; Path=/", None),
            ("__Host-a; Secure; Path=/", None),
            (
                "__Secure-a=1; Secure",
                Some("__Secure-a=1; Secure; Path=/a/shop/"),
            ),
        ] {
            assert_eq!(own_cookie(given, &shop).as_deref(), sent, "{given}");
        }
    }

    #[test]
    fn origin_wide_response_headers_are_removed() {
        let headers = [
            ("Service-Worker-Allowed", "/"),
            ("Clear-Site-Data", "\"*\""),
            ("Strict-Transport-Security", "max-age=9"),
            ("Alt-Svc", "h2=\"evil.example:443\""),
            ("X-Accel-Redirect", "/internal"),
            ("X-Request-Id", "mine"),
            ("Traceparent", "mine"),
            ("TraceState", "mine"),
            ("TraceResponse", "mine"),
            ("Kvasm-Cost", "runs=1"),
            ("Idempotency-Replayed", "true"),
            ("Server-Timing", "cpu;dur=0"),
            ("Set-Cookie", "a=1; Path=/"),
            ("Set-Cookie", "b=2"),
            ("X-Own", "1"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sent = of_response(&headers, &shared(Sandbox::Off)).unwrap();
        let mut sent: Vec<_> = sent
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        sent.sort();
        assert_eq!(
            sent,
            [
                "set-cookie: a=1; Path=/a/shop/",
                "set-cookie: b=2; Path=/a/shop/",
                "x-own: 1"
            ]
        );
    }

    /// One app could otherwise ask for the password that a browser has for another, and act for it.
    #[test]
    fn headers_of_the_origin_are_removed_below_a_shared_one_only() {
        let of_origin = [
            "Accept-CH-Lifetime",
            "Attribution-Reporting-Register-Source",
            "Authentication-Control",
            "Authentication-Info",
            "Cache-Group-Invalidation",
            "Cache-Groups",
            "Expect-CT",
            "IdP-SignIn-Status",
            "Observe-Browsing-Topics",
            "Optional-WWW-Authenticate",
            "Sec-Session-Registration",
            "Secure-Session-Challenge",
            "Secure-Session-Registration",
            "Shared-Storage-Write",
            "Use-As-Dictionary",
            "WWW-Authenticate",
        ];
        let of_proxies = ["Proxy-Authenticate", "Proxy-Authentication-Info"];
        let names = of_origin.iter().chain(&of_proxies);
        let given: Vec<_> = names
            .map(|name| ((*name).to_owned(), "Basic realm=\"quiet\"".to_owned()))
            .collect();
        let sent = |origin: &PageOrigin| of_response(&given, origin).unwrap();
        assert_eq!(sent(&shared(Sandbox::Off)), HeaderMap::new());
        let own = sent(&PageOrigin::Own);
        assert_eq!(own.len(), of_origin.len(), "{own:?}");
        assert!(of_origin.iter().all(|name| own.contains_key(*name)));
    }

    #[test]
    fn host_token_is_not_forwarded_to_the_plugin() {
        let shown = |authorization: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, authorization.parse().unwrap());
            headers.insert(REQUEST_ID, "x".parse().unwrap());
            of_request(&headers, None).len()
        };
        for host in ["Bearer kvasm_x", "KVASM_x", "Basic kvasm_x", "", "Bearer"] {
            assert_eq!(shown(host), 0, "{host}");
        }
        for own in ["Basic YTpi", "Bearer eyJ", "Digest a=\"b\""] {
            assert_eq!(shown(own), 1, "{own}");
        }
    }
}
