//! Requests to the plugin and to other servers, and quotas, on the harness and on a host.

use super::plugin::Step;
use super::plugin::web::Outbound;
use super::scenarios::{add, get, set, text};
use super::{ORIGIN, StepCall, assert_same, deploy, on_harness, on_host};
use crate::event_host::EventHost;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kvasm::model::{AppLimits, Quota};
use kvasm::store::{SqliteOptions, SqliteStore, Store};
use kvasm::{CallError, Host, InvokeError};
use kvasm_guest::Error;
use kvasm_guest::http::{Request, Response};
use kvasm_guest::testing::{self, Harness};
use kvasm_tests::guests::wasm;
use kvasm_tests::receiver::{Received, Receiver};
use kvasm_tests::remote::with_egress;
use serde_json::{Value, json};
use std::sync::Arc;

/// A host over SQLite that may send requests to loopback.
pub(super) async fn sending_host() -> EventHost {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(options).await.unwrap());
    let builder = with_egress(Host::builder());
    let mut host = EventHost::with_builder(builder, store, Box::new(folder)).await;
    host.start();
    host
}

/// The plugin, which declares another origin of the same length.
pub(super) fn plugin(origin: &str) -> Vec<u8> {
    let mut module = wasm("conformance");
    let from = ORIGIN.as_bytes();
    assert_eq!(origin.len(), from.len(), "{origin}");
    let at = module
        .windows(from.len())
        .rposition(|window| window == from);
    module[at.unwrap()..][..from.len()].copy_from_slice(origin.as_bytes());
    module
}

// --- Requests to other servers ---

pub(super) fn outbound(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Step {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Step::Fetch(Outbound {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: headers.iter().map(pair).collect(),
        body: text(body),
        timeout_ms: None,
    })
}

/// Calls that send requests to the origin.
fn sends(origin: &str) -> Vec<StepCall> {
    let to = |path: &str| format!("{origin}{path}");
    let plain = |path: &str| outbound("GET", &to(path), &[], "");
    let odd = [("x-a", "1"), ("X-A", "2"), ("x-b", "q\"\\\u{e9}")];
    let steps = vec![
        plain(""),
        plain("/p/q%20r?a=1&b=%2f#fragment"),
        outbound("PUT", &to("/put"), &odd, "b\u{e9}\0\n"),
        outbound("DELETE", &to("/delete"), &[], ""),
        outbound("PATCH", &to("/status/404"), &[], "p"),
        plain("/status/302"),
        plain("/status/503"),
        plain("/empty"),
        outbound("GET", "http://undeclared.example/", &[], ""),
        outbound("GET", "/no-server", &[], ""),
        outbound("GET", &to("/key"), &[("idempotency-key", "own")], ""),
        outbound("GET", &to("/trace"), &[("tracestate", "a=b")], ""),
        get("c", "k"),
    ];
    let many = (0..34).map(|n| plain(&format!("/{n}"))).collect();
    vec![
        ("steps", steps),
        ("steps", many),
        ("transaction", vec![plain("/transaction")]),
        (
            "steps",
            vec![
                Step::Transaction(vec![plain("/part"), set("c", "part", "1")], false),
                get("c", "part"),
            ],
        ),
    ]
}

/// What the other server answers a request for a path.
fn answer(path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let status = path.strip_prefix("/status/");
    match status.and_then(|status| status.parse().ok()) {
        Some(status) => (status, b"as asked".to_vec()),
        None if path == "/empty" => (204, Vec::new()),
        None => (200, [b"got ", body].concat()),
    }
}

/// A harness whose other server answers so.
pub(super) fn answering_harness() -> Harness {
    let mut harness = Harness::new();
    harness.on_fetch(|request| {
        let (status, body) = answer(request.path(), request.body());
        let response = Response::new(status).header("x-a", "1");
        Ok(response.header("x-a", "2").body(body))
    });
    harness
}

/// A server that answers so.
pub(super) async fn answering_server() -> Receiver {
    Receiver::start(async |_, request| {
        let path = request.target.split('?').next().unwrap();
        let (status, body) = answer(path, &request.body);
        let status = StatusCode::from_u16(status).unwrap();
        let headers = axum::response::AppendHeaders([("x-a", "1"), ("x-a", "2")]);
        (status, headers, body).into_response()
    })
    .await
}

/// A request as the other server got it, without what differs between runs.
fn seen(method: &str, target: &str, headers: &[(String, String)], body: &[u8]) -> String {
    let mut own = Vec::new();
    for (name, value) in headers {
        match name.as_str() {
            "traceparent" => own.push(format!("{name} of {} characters", value.len())),
            "tracestate" | "idempotency-key" => own.push(format!("{name}: {value}")),
            _ if name.starts_with("x-") => own.push(format!("{name}: {value}")),
            _ => {}
        }
    }
    own.sort();
    format!(
        "{method} {target} {own:?} {:?}",
        String::from_utf8_lossy(body)
    )
}

fn sent_natively(request: &Request) -> String {
    let headers = request.headers();
    let headers: Vec<_> = headers.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let target = match request.query() {
        "" => request.path().to_owned(),
        query => format!("{}?{query}", request.path()),
    };
    seen(request.method(), &target, &headers, request.body())
}

fn sent_for_real(request: &Received) -> String {
    let headers = request.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.to_string(), value.into_owned())
    });
    let headers: Vec<_> = headers.collect();
    seen(
        request.method.as_str(),
        &request.target,
        &headers,
        &request.body,
    )
}

/// Names the origin in the reports, as the ports differ.
pub(super) fn without(origin: &str, reports: &[Vec<String>]) -> Vec<Vec<String>> {
    let line = |line: &String| line.replace(origin, "ORIGIN");
    let report = |lines: &Vec<String>| lines.iter().map(line).collect();
    reports.iter().map(report).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_to_other_servers_are_the_same() {
    let native = {
        let mut harness = answering_harness();
        let calls = sends(ORIGIN);
        let mut reports: Vec<_> = calls
            .iter()
            .map(|call| on_harness(&mut harness, call))
            .collect();
        reports.push(harness.fetched().iter().map(sent_natively).collect());
        without(ORIGIN, &reports)
    };
    let mut server = answering_server().await;
    let host = sending_host().await;
    deploy(&host, plugin(&server.origin), &server.origin).await;
    let mut reports = Vec::new();
    for call in sends(&server.origin) {
        reports.push(on_host(&host, &call).await);
    }
    let mut received = Vec::new();
    while let Ok(request) = server.requests.try_recv() {
        received.push(sent_for_real(&request));
    }
    reports.push(received);
    assert_same(&native, &without(&server.origin, &reports));
}

/// A server that gives no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_requests_are_the_same_error() {
    let call = |origin: &str| ("steps", vec![outbound("GET", origin, &[], "")]);
    let native = {
        let mut harness = Harness::new();
        harness.answer_fetches([Err(Error::Remote("no answer".to_owned()))]);
        on_harness(&mut harness, &call(ORIGIN))
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let host = sending_host().await;
    deploy(&host, plugin(&origin), &origin).await;
    let hosted = on_host(&host, &call(&origin)).await;
    // The texts differ.
    for report in [&native, &hosted] {
        assert!(report[0].contains(": Remote("), "{report:?}");
    }
}

// --- Requests to the plugin ---

#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) body: String,
}

fn sent(method: &'static str, target: &str) -> Sent {
    Sent {
        method,
        target: target.to_owned(),
        headers: Vec::new(),
        body: String::new(),
    }
}

impl Sent {
    fn header(mut self, name: &'static str, value: &'static str) -> Sent {
        self.headers.push((name, value));
        self
    }

    fn body(mut self, body: &str) -> Sent {
        self.body = body.to_owned();
        self
    }
}

fn requests() -> Vec<Sent> {
    let steps = serde_json::to_string(&[set("c", "k", "7"), get("c", "k"), add("c", "k", 1)]);
    let mut all: Vec<_> = [
        "/",
        "/nope",
        "/echo",
        "/echo/",
        "/echo//x",
        "/echo/a",
        "/echo/7?n=300&n=1",
        "/echo/a/b/c",
        "/echo/%41%2f%20?%6e=5&x=a+b%2bc&y",
        "/echo/%zz",
        "/echo/%ff",
        "/echo/a/%ff/b",
        "/echo/\u{e9}/\u{1f980}?q=\u{e9}",
        "/echo/a?n=%zz",
        "/echo/a?",
        "/entries/none",
    ]
    .map(|target| sent("GET", target))
    .into();
    for how in [
        "bad",
        "invalid",
        "denied",
        "absent",
        "conflict",
        "large",
        "rate",
        "remote",
        "unavailable",
        "quota",
        "internal",
        "text",
        "status",
        "header",
        "panic",
    ] {
        all.push(sent("GET", &format!("/fail/{how}")));
    }
    let put = |body| sent("PUT", "/entries/a%20b").body(body);
    let read = || sent("GET", "/entries/a%20b");
    all.extend([
        sent("GET", "/fail/conflict").header("if-match", "*"),
        sent("HEAD", "/echo/a"),
        sent("OPTIONS", "/echo/a"),
        sent("DELETE", "/entries/x"),
        sent("get", "/echo/a"),
        sent("POST", "/echo/a")
            .header("x-a", "1")
            .header("x-a", "2")
            .header("x-b", "q\"\\\u{e9}")
            .header("accept", "*/*")
            .body("[1,2,300]"),
        sent("POST", "/echo/a").body("[1,2]"),
        put("1").header("if-match", "*"),
        put("1").header("if-none-match", "*"),
        put("2").header("if-none-match", "*"),
        put("3").header("if-match", "*"),
        put("4").header("if-match", "\"none\""),
        put("4").header("if-match", "not a tag"),
        put("5"),
        read(),
        read().header("if-none-match", "*"),
        read().header("if-none-match", "\"none\""),
        sent("POST", "/steps").body(&steps.unwrap()),
        sent("POST", "/steps").body("[{}]"),
    ]);
    all
}

/// A response, or why there is none, without the path of a panic.
fn shown(status: u16, headers: &[(String, String)], body: &[u8]) -> String {
    format!("{status} {headers:?} {}", String::from_utf8_lossy(body))
}

pub(super) fn natively(harness: &mut Harness, sent: &Sent) -> String {
    let mut request = Request::builder(sent.method, &sent.target).body(sent.body.as_str());
    for (name, value) in &sent.headers {
        request = request.header(name, *value);
    }
    match harness.http(request.build()) {
        Ok(response) => shown(response.status, &response.headers, &response.body),
        Err(testing::CallError::Panicked(_)) => "panicked".to_owned(),
        Err(error) => format!("failed: {error}"),
    }
}

pub(super) async fn for_real(host: &EventHost, sent: &Sent) -> String {
    let (path, query) = sent.target.split_once('?').unwrap_or((&sent.target, ""));
    let head = json!({
        "method": sent.method, "path": path, "query": query, "headers": sent.headers,
    });
    match host.try_request(&head, sent.body.as_bytes()).await {
        Ok(response) => {
            let (head, body) = kvasm_abi::http::split(&response.output).unwrap();
            let head: Value = serde_json::from_slice(head).unwrap();
            let headers = head.get("headers").cloned().unwrap_or(json!([]));
            let headers: Vec<(String, String)> = serde_json::from_value(headers).unwrap();
            let status = head["status"].as_u64().unwrap();
            shown(u16::try_from(status).unwrap(), &headers, body)
        }
        Err(InvokeError::Call(failure)) => match failure.error {
            CallError::Trap { .. } => "panicked".to_owned(),
            CallError::Failed { message, .. } => format!("failed: {message}"),
            other => format!("failed: {other}"),
        },
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_to_the_plugin_are_answered_the_same() {
    let native: Vec<_> = {
        let mut harness = Harness::new();
        let all = requests().into_iter();
        all.map(|sent| vec![natively(&mut harness, &sent)])
            .collect()
    };
    let host = EventHost::sqlite().await;
    deploy(&host, wasm("conformance"), ORIGIN).await;
    let mut hosted = Vec::new();
    for sent in requests() {
        hosted.push(vec![for_real(&host, &sent).await]);
    }
    assert_same(&native, &hosted);
}

// --- Quotas ---

/// Writes that reach the quota, before it and after it is set.
fn writes() -> [Vec<StepCall>; 2] {
    let before = vec![set("q", "a", "1"), set("q", "b", "1")];
    let batch = |keys: [&str; 2]| Step::Batch(Vec::new(), keys.map(|k| set("q", k, "1")).into());
    let large = |k: &str, bytes| {
        Step::SetBytes("q".into(), k.into(), super::plugin::Text("v".into(), bytes))
    };
    let after = vec![
        // Three entries are allowed.
        batch(["c", "d"]),
        set("q", "c", "1"),
        set("q", "d", "1"),
        set("q", "a", "2"),
        add("q", "new", 1),
        Step::Add("q".into(), "new".into(), 1),
        add("q", "a", 1),
        Step::Delete("q".into(), "c".into()),
        Step::Transaction(vec![set("q", "x", "1"), set("q", "y", "1")], false),
        get("q", "x"),
        Step::Transaction(
            vec![Step::Delete("q".into(), "a".into()), set("q", "x", "1")],
            false,
        ),
        Step::Transaction(vec![set("q", "y", "1"), set("q", "z", "1")], true),
        get("q", "x"),
        // So are a thousand bytes.
        large("x", 200),
        large("x", 1_000),
        large("x", 100),
        get("q", "a"),
    ];
    let in_transaction = vec![set("q", "t1", "1"), set("q", "t2", "1")];
    [
        vec![("steps", before)],
        vec![
            ("steps", after),
            ("transaction", in_transaction),
            ("steps", vec![get("q", "t1")]),
        ],
    ]
}

const ENTRIES: u64 = 3;
const BYTES: u64 = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_the_same() {
    let [before, after] = writes();
    let native: Vec<_> = {
        let mut harness = Harness::new();
        let mut reports: Vec<_> = before
            .iter()
            .map(|call| on_harness(&mut harness, call))
            .collect();
        harness.set_quota(Some(ENTRIES), Some(BYTES));
        reports.extend(after.iter().map(|call| on_harness(&mut harness, call)));
        reports
    };
    let host = EventHost::sqlite().await;
    deploy(&host, wasm("conformance"), ORIGIN).await;
    let mut hosted = Vec::new();
    for call in &before {
        hosted.push(on_host(&host, call).await);
    }
    let limits = AppLimits {
        quota: Quota {
            entries: Some(ENTRIES),
            bytes: Some(BYTES),
        },
        ..AppLimits::default()
    };
    let (app, operator) = (host.app().await, host.host.operator("a test"));
    let set = host
        .host
        .admin()
        .set_limits(&operator, &app, limits.into(), None);
    set.await.unwrap();
    for call in &after {
        hosted.push(on_host(&host, call).await);
    }
    assert_same(&native, &hosted);
}
