//! HTTP responses of plugins, and imports and trace contexts of clients.

use axum::http::{HeaderMap, HeaderValue};
use kvasm::fuzzing;
use kvasm::model::{AppName, HttpOrigin, HttpUrl, OriginPattern};
use kvasm::model::{Op, TRACE_STATE_BYTES_MAX, TRACE_STATE_MEMBERS_MAX, Timestamp, TraceContext};
use kvasm_abi::http::{PREFIX_BYTES, STATUSES, prefix, split};
use std::net::IpAddr;

/// The output of an HTTP handler. A decoded response encodes to the same frame. The client's
/// response has a status and headers that a plugin may set, within the limits.
pub fn http_frame(bytes: &[u8]) {
    let app = AppName::parse("fuzz").unwrap();
    let answered = fuzzing::answer(bytes, &app);
    let Ok((head, body)) = split(bytes) else {
        assert!(answered.is_err());
        return;
    };
    assert_eq!(PREFIX_BYTES + head.len() + body.len(), bytes.len());
    assert_eq!([&prefix(head.len()).unwrap(), head, body].concat(), bytes);
    let response = match answered {
        Ok(response) => response,
        Err(why) => {
            // The reason is used in a problem document and in the log.
            assert!(why.len() <= 1024, "{} bytes: {why}", why.len());
            return;
        }
    };
    assert!(STATUSES.contains(&response.status().as_u16()));
    let headers = response.headers();
    assert!(headers.len() <= 100);
    for name in [
        "content-length",
        "transfer-encoding",
        "connection",
        "clear-site-data",
        "traceparent",
        "tracestate",
    ] {
        assert!(!headers.contains_key(name), "{name}");
    }
    for cookie in headers.get_all("set-cookie") {
        let cookie = cookie.to_str().unwrap_or_default().to_ascii_lowercase();
        assert!(!cookie.trim_start().starts_with("__host-"), "{cookie}");
        // If a cookie has two paths, browsers use the last one.
        let paths = cookie.split(';').skip(1);
        let paths = paths.filter_map(|part| part.trim().strip_prefix("path="));
        if let Some(path) = paths.last() {
            assert!(path.starts_with("/a/fuzz/"), "{cookie}");
        }
    }
}

/// A request that a plugin sends. What is sent goes to the origin whose permission was checked, in
/// one request, with no header of the connection or of the framing from the plugin.
pub fn fetch(bytes: &[u8]) {
    let Ok(request) = fuzzing::fetch(bytes.to_vec()) else {
        return;
    };
    assert!(request.body.len() <= bytes.len());
    let url = request.url.clone();
    let headers = request.headers.len();
    let Ok([first, second]) = fuzzing::outgoing(request) else {
        return;
    };
    let authority = url.origin().authority();
    assert_eq!(first.1.to_string(), url.target());
    assert_eq!(first.2.get_all("host").iter().count(), 1);
    assert_eq!(first.2["host"], authority.as_str());
    assert_eq!(second.1.authority().unwrap().as_str(), authority);
    assert_eq!(second.1.path_and_query().unwrap().as_str(), url.target());
    assert!(second.2.get("host").is_none());
    for (method, _, all) in [first, second] {
        assert!(method.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
        for never in ["CONNECT", "TRACE"] {
            assert!(!method.as_str().eq_ignore_ascii_case(never));
        }
        assert!(all.len() <= headers + 1);
        for name in [
            "connection",
            "content-length",
            "te",
            "transfer-encoding",
            "upgrade",
        ] {
            assert!(!all.contains_key(name), "{name}");
        }
        for value in all.values() {
            let is_split = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
            assert!(!value.as_bytes().iter().any(is_split), "{value:?}");
        }
    }
}

/// Parts of a request's head: percent-encoded text, the tags of `If-Match`, and the addresses
/// added by proxies. Decoded text encodes to text that decodes to the same.
pub fn http_text(bytes: &[u8]) {
    addresses(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for plus_is_space in [false, true] {
        let Ok(read) = fuzzing::percent(text, plus_is_space) else {
            assert!(text.contains('%'), "{text:?} has no escape to reject");
            continue;
        };
        assert!(read.len() <= text.len());
        let escaped: String = read.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(fuzzing::percent(&escaped, plus_is_space), Ok(read));
    }
    urls(text);
    if let Some(tags) = fuzzing::tags(text) {
        // None is `*`; every other tag is quoted.
        assert!(tags.len() <= text.len() / 2);
        assert_eq!(tags.is_empty(), text.trim() == "*");
        let shown = |(is_weak, opaque): &(bool, String)| {
            format!("{}\"{opaque}\"", if *is_weak { "W/" } else { "" })
        };
        let again = match tags.as_slice() {
            [] => "*".to_owned(),
            tags => tags.iter().map(shown).collect::<Vec<_>>().join(", "),
        };
        assert_eq!(fuzzing::tags(&again), Some(tags));
    }
}

/// A URL, an origin or a pattern has one canonical form, which is a part of a request's head.
fn urls(text: &str) {
    let is_plain = |text: &str| text.is_ascii() && !text.contains(|c: char| c <= ' ');
    if let Ok(url) = HttpUrl::parse(text) {
        let shown = url.to_string();
        assert!(
            is_plain(&shown) && url.target().starts_with('/'),
            "{shown:?}"
        );
        assert_eq!(HttpUrl::parse(&shown), Ok(url));
    }
    if let Ok(origin) = HttpOrigin::parse(text) {
        let shown = origin.to_string();
        assert!(is_plain(&shown), "{shown:?}");
        assert_eq!(HttpOrigin::parse(&shown), Ok(origin.clone()));
        assert!(OriginPattern::parse(&shown).unwrap().matches(&origin));
    }
    if let Ok(pattern) = OriginPattern::parse(text) {
        assert_eq!(OriginPattern::parse(&pattern.to_string()), Ok(pattern));
    }
}

/// Only trusted proxies are believed, and they yield a valid address or none.
fn addresses(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let proxy = IpAddr::from([127, 0, 0, 1]);
    let trusted = ["127.0.0.0/8".parse().unwrap()];
    for name in ["x-forwarded-for", "forwarded"] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.clone());
        assert_eq!(fuzzing::address(proxy, &headers, &[]), proxy);
        let client = fuzzing::address(proxy, &headers, &trusted);
        assert_eq!(client, client.to_canonical());
        let mut again = HeaderMap::new();
        let shown = HeaderValue::try_from(client.to_string()).unwrap();
        again.insert("x-forwarded-for", shown);
        assert_eq!(fuzzing::address(proxy, &again, &trusted), client);
    }
}

/// The line limit of a test host.
const LINE_BYTES: usize = 2048;
const VALUE_BYTES: usize = 1024;

fn expiry(op: &Op) -> Option<Timestamp> {
    match op {
        Op::Set { expires_at, .. } => *expires_at,
        Op::Delete { .. } | Op::Increment { .. } => None,
    }
}

/// The lines of an import. A decoded line is within the limits, and encodes to a line that
/// decodes to the same entry.
pub fn import_lines(bytes: &[u8]) {
    let read = fuzzing::lines(bytes, LINE_BYTES, VALUE_BYTES);
    let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines = lines.split(|byte| *byte == b'\n').count() as u64;
    assert!(read.lines <= lines);
    assert!(read.bad.is_some() || read.lines == lines);
    assert!(read.writes.len() as u64 + read.expired <= read.lines);
    if let Some(why) = &read.bad {
        assert!(why.len() <= 2 * LINE_BYTES, "{} bytes: {why}", why.len());
    }
    for write in &read.writes {
        let value = write.value().expect("an import writes");
        assert!(value.as_bytes().len() <= VALUE_BYTES);
        let line = fuzzing::line(write).unwrap();
        assert!(!line.contains(&b'\n'));
        // Base64 and escapes may make the line longer than it was.
        let again = fuzzing::lines(&line, usize::MAX, VALUE_BYTES);
        assert_eq!(again.bad, None, "{}", String::from_utf8_lossy(&line));
        match again.writes.as_slice() {
            [again] => {
                assert_eq!(again.address(), write.address());
                let blank = |value: &kvasm::model::Value| {
                    let is_blank = |byte: &u8| matches!(byte, b'\n' | b'\r');
                    let bytes = value.as_bytes().iter();
                    bytes
                        .map(|b| if is_blank(b) { b' ' } else { *b })
                        .collect::<Vec<_>>()
                };
                let read = again.value().expect("an import writes");
                match value {
                    kvasm::model::Value::Bytes(_) => assert_eq!(read, value),
                    kvasm::model::Value::Json(_) => assert_eq!(blank(read), blank(value)),
                }
                assert_eq!(expiry(again), expiry(write));
            }
            // It has expired in the meantime.
            [] => assert!(again.expired == 1 && expiry(write).is_some()),
            more => panic!("one line decoded to {} entries", more.len()),
        }
    }
}

/// The trace context of a request: the first line is its `traceparent`, each other one a
/// `tracestate`. What is kept of it is within the limits, and parses to the same; so does its
/// encoding for stores.
pub fn trace_context(bytes: &[u8]) {
    if let Some(stored) = TraceContext::decode(bytes) {
        assert_eq!(TraceContext::decode(&stored.encode()), Some(stored));
    }
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let parent = lines.next().unwrap_or_default();
    let Some(context) = TraceContext::parse(parent, lines) else {
        return;
    };
    let shown = context.parent();
    assert_eq!(shown.len(), 55);
    // Only the version and the flags may differ.
    assert_eq!(shown.as_bytes()[3..53], parent[3..53]);
    assert!(parent.len() == 55 || (parent.len() > 55 && !parent.starts_with(b"00")));
    if let Some(state) = context.state() {
        assert!((3..=TRACE_STATE_BYTES_MAX).contains(&state.len()));
        assert!(state.split(',').count() <= TRACE_STATE_MEMBERS_MAX);
        assert!(HeaderValue::from_str(state).is_ok());
    }
    let state = context.state().map(str::as_bytes);
    let again = TraceContext::parse(shown.as_bytes(), state);
    assert_eq!(again.as_ref(), Some(&context));
    assert_eq!(
        TraceContext::decode(&context.encode()),
        Some(context.clone())
    );
    let child = context.child();
    assert_ne!(child, context);
    assert_eq!(child.state(), context.state());
    assert_eq!(child.trace_id(), context.trace_id());
}
