//! The trees of spans, each with all its attributes.

use super::otel_kit::{
    CLIENT, CONSUMER, INTERNAL, REQUEST, SERVER, assert_has, assert_is, call, child, deploy, trace,
};
use super::otlp_collector::Collector;
use super::otlp_reader::{ReadSpan, resource_of};
use axum::http::StatusCode;
use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::postgres::fresh_database;
use kvasm_tests::program::process::{Home, Server, eventually};
use kvasm_tests::receiver::{Received, Receiver};
use kvasm_tests::remote::{fetch, get_head, origin_line};
use serde_json::json;
use tokio::runtime::Runtime;

/// So that a server may reach loopback.
const REACHES_LOOPBACK: [&str; 4] = [
    "--set",
    "egress.enabled=true",
    "--set",
    "egress.allow_networks=127.0.0.0/8",
];

#[test]
fn call_and_its_delivery_are_one_tree_of_spans() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    assert_tree(&home, &store, "sqlite");
}

#[test]
fn call_and_its_delivery_are_the_same_tree_on_postgres() {
    let store = format!("postgres:{}", fresh_database());
    assert_tree(&Home::new(), &store, "postgresql");
}

/// Checks each span of a call and of the delivery that it causes. `database` is the name of the
/// store by the conventions.
fn assert_tree(home: &Home, store: &str, database: &str) {
    let collector = Collector::start();
    let variables = [
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        ),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=open%20sesame"),
    ];
    let server = collector.server(home, &["--store", store], &variables);
    deploy(&server);
    let trace = trace(1);
    call(&server, "demo", "run", &trace, "01");
    collector.wait_for(&trace, "deliver copy");
    collector.wait_for(&trace, "POST /v1/apps/{app}/call/{function}");
    let mut spans = collector.spans();
    spans.retain(|span| span.trace_id == trace);

    let request = child(&spans, CLIENT, "POST /v1/apps/{app}/call/{function}");
    let attributes = [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("http.route", "/v1/apps/{app}/call/{function}"),
        ("faas.trigger", "http"),
        ("kvasm.app", "demo"),
        ("client.address", "127.0.0.1"),
        ("kvasm.request_id", "*"),
        ("url.scheme", "http"),
    ];
    assert_is(&request, SERVER, &attributes);
    assert_is(&child(&spans, &request.id, "admission"), INTERNAL, &[]);
    let load = [
        ("faas.coldstart", "*"),
        ("kvasm.plugin.digest", "*"),
        ("kvasm.plugin.version", "1"),
    ];
    assert_is(&child(&spans, &request.id, "load"), INTERNAL, &load);
    let called = child(&spans, &request.id, "call run");
    let of_call = |name| {
        [
            ("faas.invocation_id", "*"),
            ("faas.name", name),
            ("kvasm.app", "demo"),
            ("kvasm.cpu_us", "*"),
            ("kvasm.host_calls", "1"),
            ("kvasm.memory_bytes", "*"),
            ("kvasm.outcome", "ok"),
        ]
    };
    assert_is(&called, INTERNAL, &of_call("run"));
    let request_id = &request.attributes["kvasm.request_id"];
    assert_eq!(&called.attributes["faas.invocation_id"], request_id);
    let set = child(&spans, &called.id, "kv_set");
    let of_set = [
        ("db.namespace", "demo"),
        ("db.operation.name", "kv_set"),
        ("db.system.name", database),
    ];
    assert_is(&set, INTERNAL, &of_set);
    let committed = child(&spans, &set.id, "commit");
    let of_commit = [
        ("db.namespace", "demo"),
        ("db.operation.name", "commit"),
        ("db.system.name", database),
        ("kvasm.deliveries", "1"),
    ];
    assert_is(&committed, REQUEST, &of_commit);

    let delivered = child(&spans, &request.id, "deliver copy");
    let attributes = [
        ("faas.document.operation", "edit"),
        ("faas.trigger", "datasource"),
        ("kvasm.app", "demo"),
        ("kvasm.delivery.attempt", "1"),
        ("kvasm.delivery.webhook", "false"),
        ("kvasm.plugin.version", "1"),
        ("messaging.destination.name", "copy"),
        ("messaging.message.id", "*"),
        ("messaging.operation.name", "deliver"),
        ("messaging.operation.type", "process"),
        ("messaging.system", "kvasm"),
    ];
    assert_is(&delivered, CONSUMER, &attributes);
    assert_eq!(delivered.links, [(trace, request.id.clone())]);
    assert_is(&child(&spans, &delivered.id, "load"), INTERNAL, &load);
    let handled = child(&spans, &delivered.id, "call copy");
    assert_is(&handled, INTERNAL, &of_call("copy"));
    assert_is(&child(&spans, &handled.id, "kv_set"), INTERNAL, &of_set);
    let committed = child(&spans, &delivered.id, "commit");
    let of_commit = of_commit.map(|(name, value)| (name, if value == "1" { "0" } else { value }));
    assert_is(&committed, REQUEST, &of_commit);
    assert_eq!(spans.len(), 11, "{spans:#?}");
    for span in &spans {
        assert!(span.start > 0 && span.start <= span.end, "{span:#?}");
        if let Some(parent) = spans.iter().find(|other| other.id == span.parent) {
            assert!(parent.start <= span.start, "{span:#?} {parent:#?}");
        }
    }

    let resource = collector.resource();
    assert_eq!(resource["service.name"], "kvasm");
    let (headers, body) = collector.accepted("/v1/traces").pop().unwrap();
    assert_eq!(headers["content-type"], "application/x-protobuf");
    assert_eq!(headers["api-key"], "open sesame");
    assert_eq!(resource_of(&body)["deployment.environment.name"], "test");
    server.stop_and_inspect_log(|log| assert!(!log.contains("sesame"), "{log}"));
}

/// `run` sets a timer that is due at once.
#[test]
fn span_of_a_timer_has_a_time() {
    let (home, collector) = (Home::new(), Collector::start());
    let server = collector.server(&home, &[], &[]);
    let fields = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"on_timer","name":"on_timer"}"#,
    ]) + r#"(func (export "on_timer") (result i32) (i32.const 0))"#;
    let run = "(drop (call $timer_set (i32.const 0) (i32.const 1) (i32.const 1) (i64.const 0)
        (i32.const 0) (i32.const 0))) (i32.const 0)";
    server.create_app("demo");
    let grant = br#"{"grants":[{"kind":"timers"}]}"#;
    let path = "/v1/apps/demo/grants";
    server.admin("POST", path, "application/json", grant).ok();
    let wasm = module_with("t", &fields, run);
    let path = "/v1/apps/demo/plugins";
    server.admin("POST", path, "application/wasm", &wasm).ok();
    let trace = trace(1);
    call(&server, "demo", "run", &trace, "01");
    let rung = collector.wait_for(&trace, "deliver on_timer");
    let attributes = &rung.attributes;
    assert_eq!(attributes["faas.trigger"], "timer");
    let time = &attributes["faas.time"];
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
}

/// The `traceparent` of what a span has caused.
fn parent_of(span: &ReadSpan) -> String {
    format!("00-{}-{}-01", span.trace_id, span.id)
}

/// Lets each entry of "d" be sent to a URL. The handler `copy` writes one.
fn hook(server: &Server, receiver: &Receiver) {
    let key = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let secret = "/v1/apps/demo/secrets/key";
    let set = server.admin("PUT", secret, "text/plain", key.as_bytes());
    assert_eq!(set.status, 204);
    let url = format!("{}/secret?secret=1", receiver.origin);
    let trigger = json!({ "collection": "d", "url": url, "secret": "key" }).to_string();
    let path = "/v1/apps/demo/triggers/hook";
    let set = server.admin("PUT", path, "application/json", trigger.as_bytes());
    set.ok();
}

/// The port of a receiver.
fn port(receiver: &Receiver) -> &str {
    receiver.origin.rsplit(':').next().unwrap()
}

#[test]
fn webhook_is_sent_within_the_trace_by_a_client_span() {
    let (home, collector) = (Home::new(), Collector::start());
    let runtime = Runtime::new().unwrap();
    let mut receiver = runtime.block_on(Receiver::start(async |nth, _| match nth {
        0 => StatusCode::IM_A_TEAPOT,
        _ => StatusCode::OK,
    }));
    let server = collector.server(&home, &REACHES_LOOPBACK, &[]);
    deploy(&server);
    hook(&server, &receiver);
    let trace = trace(1);
    call(&server, "demo", "run", &trace, "01");
    let requests = [(); 2].map(|()| runtime.block_on(receiver.next()));
    let is_attempt = |span: &&ReadSpan| span.name == "deliver hook";
    let both = || collector.spans().iter().filter(is_attempt).count() == 2;
    eventually("both attempts", || both().then_some(()));
    // The server exports what is left when it stops.
    server.stop();
    let mut spans = collector.spans();
    spans.retain(|span| span.trace_id == trace);

    let copied = spans.iter().find(|span| span.name == "deliver copy");
    let cause = copied.expect("the delivery that causes the webhook");
    let attempts = ["1", "2"].map(|attempt| {
        let found = spans.iter().find(|span| {
            let of_attempt = span.attributes.get("kvasm.delivery.attempt");
            span.name == "deliver hook" && of_attempt.is_some_and(|of| of == attempt)
        });
        found.unwrap_or_else(|| panic!("no attempt {attempt}: {spans:#?}"))
    });
    for (delivered, (attempt, request)) in attempts.iter().zip(["1", "2"].iter().zip(&requests)) {
        assert_eq!(delivered.parent, cause.id);
        assert_eq!(delivered.links, [(trace.clone(), cause.id.clone())]);
        assert_webhook(&spans, delivered, attempt, (&receiver, request));
    }
    let [failed, accepted] = attempts;
    let committed = child(&spans, &accepted.id, "commit");
    let of_commit = [
        ("db.namespace", "demo"),
        ("db.operation.name", "commit"),
        ("db.system.name", "sqlite"),
        ("kvasm.deliveries", "0"),
    ];
    assert_is(&committed, REQUEST, &of_commit);
    let below = |id: &str| spans.iter().filter(|span| span.parent == id).count();
    assert_eq!((below(&failed.id), below(&accepted.id)), (1, 2));
    let texts = spans.iter().flat_map(|span| span.attributes.values());
    assert!(!texts.into_iter().any(|text| text.contains("secret")));
}

/// Checks an attempt of which the first one fails, and that the request has the trace of its span.
fn assert_webhook(
    spans: &[ReadSpan],
    delivered: &ReadSpan,
    attempt: &str,
    (receiver, request): (&Receiver, &Received),
) {
    let mut of_delivery = vec![
        ("faas.document.operation", "edit"),
        ("faas.trigger", "datasource"),
        ("kvasm.app", "demo"),
        ("kvasm.delivery.attempt", attempt),
        ("kvasm.delivery.webhook", "true"),
        ("messaging.destination.name", "hook"),
        ("messaging.message.id", "*"),
        ("messaging.operation.name", "deliver"),
        ("messaging.operation.type", "process"),
        ("messaging.system", "kvasm"),
    ];
    let has_failed = attempt == "1";
    let mut of_request = vec![
        ("http.request.method", "POST"),
        (
            "http.response.status_code",
            if has_failed { "418" } else { "200" },
        ),
        ("server.address", "127.0.0.1"),
        ("server.port", port(receiver)),
    ];
    if has_failed {
        of_delivery.push(("error.type", "*"));
        of_request.push(("error.type", "418"));
    }
    assert_has(delivered, CONSUMER, &of_delivery);
    let sent = child(spans, &delivered.id, "POST");
    assert_has(&sent, REQUEST, &of_request);
    let failed_status = if has_failed { 2 } else { 0 };
    assert_eq!(
        (delivered.status, sent.status),
        (failed_status, failed_status)
    );
    assert_eq!(request.header("traceparent"), parent_of(&sent));
    assert_eq!(request.header("tracestate"), "vendor=1");
    assert_eq!(request.event()["traceparent"], parent_of(&sent));
}

#[test]
fn request_of_a_plugin_has_a_client_span_without_its_url() {
    let (home, collector) = (Home::new(), Collector::start());
    let runtime = Runtime::new().unwrap();
    let mut receiver = runtime.block_on(Receiver::accepting());
    let server = collector.server(&home, &REACHES_LOOPBACK, &[]);
    let head = get_head(&format!("{}/secret", receiver.origin));
    let (data, fetch) = fetch(&head, "");
    let names = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        &origin_line(&receiver.origin),
    ]);
    let wasm = module_with(&data, &names, &format!("(drop {fetch}) (i32.const 0)"));
    server.create_app("demo");
    let grant = json!({ "grants": [{ "kind": "http_origin", "origin": receiver.origin }] });
    let grant = grant.to_string();
    let change = |path| {
        let changed = server.admin("POST", path, "application/json", grant.as_bytes());
        changed.ok();
    };
    change("/v1/apps/demo/grants");
    let path = "/v1/apps/demo/plugins";
    server.admin("POST", path, "application/wasm", &wasm).ok();
    let (granted, revoked) = (trace(1), trace(2));
    call(&server, "demo", "run", &granted, "01");
    let request = runtime.block_on(receiver.next());
    change("/v1/apps/demo/grants/revoke");
    call(&server, "demo", "run", &revoked, "01");
    server.stop();

    let spans = collector.spans();
    let of = |trace: &str| {
        let mut spans = spans.clone();
        spans.retain(|span| span.trace_id == trace);
        let called = spans.iter().find(|span| span.name == "call run").unwrap();
        let function = child(&spans, &called.id, "http_fetch");
        child(&spans, &function.id, "GET")
    };
    // What an app may not reach is a text of its plugin.
    let refused = [("error.type", "denied"), ("http.request.method", "GET")];
    assert_has(&of(&revoked), REQUEST, &refused);
    let answered = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "204"),
        ("server.address", "127.0.0.1"),
        ("server.port", port(&receiver)),
    ];
    let sent = of(&granted);
    assert_is(&sent, REQUEST, &answered);
    assert_eq!(request.header("traceparent"), parent_of(&sent));
    assert_eq!(request.header("tracestate"), "vendor=1");
}

#[test]
fn span_of_a_request_follows_the_conventions_for_servers() {
    let (home, collector) = (Home::new(), Collector::start());
    let trusted = ["--set", "server.trusted_proxies=127.0.0.1"];
    let server = collector.server(&home, &trusted, &[]);
    let names = manifest(&[r#"{"kind":"function","name":"run"}"#]);
    let wasm = module_with("", &names, "(unreachable)");
    server.create_app("demo");
    let path = "/v1/apps/demo/plugins";
    server.admin("POST", path, "application/wasm", &wasm).ok();
    let requests = [
        ("GET", "/v1/openapi.json", 200),
        ("GET", "/nowhere/secret", 404),
        ("POST", "/v1/apps/demo/call/run", 500),
        ("BREW", "/v1/openapi.json", 405),
    ];
    for (number, (method, path, status)) in (1..).zip(requests) {
        let headers = format!(
            "traceparent: 00-{}-{CLIENT}-01\r\ntracestate: vendor=1\r\nX-Forwarded-For: 192.0.2.7\r\n\
             X-Forwarded-Proto: https\r\n",
            trace(number)
        );
        let answer = server.try_request(method, path, &headers, b"").unwrap();
        assert_eq!(answer.status, status, "{path}");
    }
    server.stop();
    let spans = collector.spans();
    let of = |number: u64, name: &str| {
        let mut spans = spans.clone();
        spans.retain(|span| span.trace_id == trace(number));
        child(&spans, CLIENT, name)
    };
    let of_all = [
        ("client.address", "192.0.2.7"),
        ("kvasm.request_id", "*"),
        ("url.scheme", "https"),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&of_all[..], more].concat();
    let document = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/v1/openapi.json"),
        ("url.path", "/v1/openapi.json"),
    ];
    assert_is(&of(1, "GET /v1/openapi.json"), SERVER, &with(&document));
    let unknown = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "404"),
    ];
    assert_is(&of(2, "GET"), SERVER, &with(&unknown));
    let failed = of(3, "POST /v1/apps/{app}/call/{function}");
    assert_eq!(
        (failed.status, &*failed.attributes["error.type"]),
        (2, "500")
    );
    assert!(!failed.attributes.contains_key("url.path"), "{failed:#?}");
    let odd = [
        ("http.request.method", "_OTHER"),
        ("http.response.status_code", "405"),
        ("http.route", "/v1/openapi.json"),
        ("url.path", "/v1/openapi.json"),
    ];
    assert_is(&of(4, "HTTP /v1/openapi.json"), SERVER, &with(&odd));
}
