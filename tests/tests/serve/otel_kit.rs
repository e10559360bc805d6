//! What tests of spans have in common: a plugin, its calls, and comparisons of spans.

use super::otlp_reader::ReadSpan;
use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::program::process::Server;
use std::collections::BTreeMap;

/// The client's span.
pub const CLIENT: &str = "00f067aa0ba902b7";

/// Kinds of spans.
pub const INTERNAL: u64 = 1;
pub const SERVER: u64 = 2;
/// Of a database, or of another server.
pub const REQUEST: u64 = 3;
pub const CONSUMER: u64 = 5;

/// A trace id of a client.
pub fn trace(number: u64) -> String {
    format!("4bf92f3577b34da6{number:016x}")
}

/// Calls a function within a client's trace.
#[track_caller]
pub fn call(server: &Server, app: &str, function: &str, trace: &str, flag: &str) {
    let header = format!("traceparent: 00-{trace}-{CLIENT}-{flag}\r\ntracestate: vendor=1\r\n");
    let path = format!("/v1/apps/{app}/call/{function}");
    let answer = server.try_request("POST", &path, &header, b"");
    answer.expect("an answer").ok();
}

/// `run` sets an entry of "c", whose handler `copy` sets one of "d". `many` reads 100 times.
pub fn deploy(server: &Server) {
    let set = |collection: u32| {
        format!(
            "(drop (call $kv_set (i32.const {collection}) (i32.const 1) (i32.const 2) (i32.const 1)
                (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 0))) (i32.const 0)"
        )
    };
    let names = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"function","name":"many"}"#,
        r#"{"kind":"on_change","name":"copy","collection":"c"}"#,
    ]);
    let fields = format!(
        "{names} (func (export \"copy\") (result i32) {})
         (func (export \"many\") (result i32) (local $left i32)
           (local.set $left (i32.const 100))
           (loop $again
             (drop (call $kv_has (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 1)))
             (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
           (i32.const 0))",
        set(1)
    );
    server.create_app("demo");
    let wasm = module_with("cdk1", &fields, &set(0));
    let path = "/v1/apps/demo/plugins";
    server.admin("POST", path, "application/wasm", &wasm).ok();
}

/// The only span of a name below another.
#[track_caller]
pub fn child(spans: &[ReadSpan], parent: &str, name: &str) -> ReadSpan {
    let mut found = spans
        .iter()
        .filter(|span| span.parent == parent && span.name == name);
    let (Some(span), None) = (found.next(), found.next()) else {
        panic!("not one {name} below {parent}: {spans:#?}");
    };
    span.clone()
}

/// Compares a successful span's kind and attributes. `*` stands for any value.
#[track_caller]
pub fn assert_is(span: &ReadSpan, kind: u64, expected: &[(&str, &str)]) {
    assert_eq!(span.status, 0, "{span:#?}");
    assert_has(span, kind, expected);
}

/// As [`assert_is`], also for one that failed.
#[track_caller]
pub fn assert_has(span: &ReadSpan, kind: u64, expected: &[(&str, &str)]) {
    assert_eq!(span.kind, kind, "{span:#?}");
    assert_eq!(span.state, "vendor=1", "{span:#?}");
    let mut found = span.attributes.clone();
    for (name, value) in expected {
        if *value == "*" {
            assert!(found.contains_key(*name), "{name}: {span:#?}");
            found.insert((*name).to_owned(), "*".to_owned());
        }
    }
    let expected = expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    assert_eq!(found, expected.collect::<BTreeMap<_, _>>());
}
