//! `http_fetch`, through a guest, with a server on loopback.

use kvasm::{Call, CallError, Host, Plugin};
use kvasm_abi::Status;
use kvasm_tests::guests::{TestHost, manifest, meanwhile, module_with, report};
use kvasm_tests::remote::{
    RemoteServer, fetch, get_head, grant_origin, origin_line, revoke_origin, with_egress,
};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

const RUN: &str = r#"{"kind":"function","name":"run"}"#;

/// Writes the result of `http_fetch` to the output, then the response, or the message of the
/// status.
fn answer(call: &str) -> String {
    format!(
        "(i64.store (i32.const 32768) {call})
         (drop (call $output_write (i32.const 32768) (i32.const 8)))
         (if (i64.ge_s (i64.load (i32.const 32768)) (i64.const 0))
            (then (drop (call $output_write (i32.const 8192)
                (i32.wrap_i64 (i64.load (i32.const 32768))))))
            (else (drop (call $output_write (i32.const 32776)
                (i32.wrap_i64 (call $error_message (i32.const 32776) (i32.const 32000)))))))
         (i32.const 0)"
    )
}

/// A plugin that declares an origin and sends one request.
fn fetcher(run: &str, origin: &str, head: &str) -> Vec<u8> {
    let (data, call) = fetch(head, "");
    let lines = [run, &origin_line(origin)];
    module_with(&data, &manifest(&lines), &answer(&call))
}

/// The host, an app with the grant of an origin, and the plugin that declares it.
async fn bench(origin: &str, head: &str) -> (TestHost, Plugin) {
    let bench = TestHost::with(with_egress).await;
    grant_origin(&bench.host, &bench.app, origin).await;
    let plugin = bench.load(fetcher(RUN, origin, head)).await;
    (bench, plugin)
}

async fn output(host: &Host, plugin: &Plugin) -> (i64, Vec<u8>) {
    let response = host.call(plugin, Call::function("run")).await.unwrap();
    let (result, rest) = response.output.split_at(8);
    let result = i64::from_le_bytes(result.try_into().unwrap());
    (result, rest.to_vec())
}

async fn status(host: &Host, plugin: &Plugin) -> (Option<Status>, String) {
    let (result, message) = output(host, plugin).await;
    let message = String::from_utf8(message).unwrap();
    (Status::from_code(result), message)
}

#[tokio::test]
async fn guest_gets_the_response_of_a_granted_origin() {
    let mut server = RemoteServer::start().await;
    let head = format!(
        r#"{{"method":"PUT","url":"{}/a?b#c","headers":[["X-B","2"]]}}"#,
        server.origin
    );
    let (bench, plugin) = bench(&server.origin, &head).await;
    let (len, frame) = output(&bench.host, &plugin).await;
    assert_eq!(len, frame.len() as i64);
    let (head, body) = kvasm_abi::http::split(&frame).unwrap();
    let expected = r#"{"status":200,"headers":[["x-a","1"],["content-length","5"]]}"#;
    assert_eq!((head, body), (expected.as_bytes(), &b"hello"[..]));
    let seen = server.seen.recv().await.unwrap();
    assert!(seen.starts_with("put /a?b http/1.1\r\n"), "{seen}");
    assert!(seen.contains("\r\nx-b: 2\r\n"), "{seen}");
    assert!(!seen.contains("idempotency-key"), "{seen}");
    let cost = bench.host.call(&plugin, Call::function("run")).await;
    assert_eq!(cost.unwrap().cost.fetches, 1);
}

#[tokio::test]
async fn trace_of_the_run_is_sent_unless_the_guest_has_one() {
    let mut server = RemoteServer::start().await;
    let (bench, plugin) = bench(&server.origin, &get_head(&server.origin)).await;
    output(&bench.host, &plugin).await;
    let seen = server.seen.recv().await.unwrap();
    assert!(seen.contains("\r\ntraceparent: 00-"), "{seen}");
    let head = format!(
        r#"{{"method":"GET","url":"{}","headers":[["Traceparent","own"]]}}"#,
        server.origin
    );
    let own = bench.load(fetcher(RUN, &server.origin, &head)).await;
    output(&bench.host, &own).await;
    let seen = server.seen.recv().await.unwrap();
    assert_eq!(seen.matches("traceparent").count(), 1, "{seen}");
    assert!(seen.contains("traceparent: own"), "{seen}");
}

#[tokio::test]
async fn origin_must_be_declared_and_granted() {
    let server = RemoteServer::start().await;
    let head = get_head(&server.origin);
    let bench = TestHost::with(with_egress).await;
    let declared = bench.load(fetcher(RUN, &server.origin, &head)).await;
    let (refused, message) = status(&bench.host, &declared).await;
    assert_eq!(refused, Some(Status::Denied), "{message}");
    assert!(message.contains("kvasm grant APP http"), "{message}");
    grant_origin(&bench.host, &bench.app, &server.origin).await;
    let (data, call) = fetch(&head, "");
    let undeclared = module_with(&data, &manifest(&[RUN]), &answer(&call));
    let undeclared = bench.load(undeclared).await;
    let (refused, message) = status(&bench.host, &undeclared).await;
    assert_eq!(refused, Some(Status::Denied), "{message}");
    assert!(message.contains("does not declare"), "{message}");
    let other = bench.load(fetcher(RUN, "https://example.com", &head)).await;
    assert_eq!(status(&bench.host, &other).await.0, Some(Status::Denied));
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    assert!(output(&bench.host, &declared).await.0 > 0);
}

#[tokio::test]
async fn host_without_outbound_http_refuses_it() {
    let server = RemoteServer::start().await;
    let bench = TestHost::new().await;
    grant_origin(&bench.host, &bench.app, &server.origin).await;
    let plugin = fetcher(RUN, &server.origin, &get_head(&server.origin));
    let plugin = bench.load(plugin).await;
    let (refused, message) = status(&bench.host, &plugin).await;
    assert_eq!(refused, Some(Status::Denied), "{message}");
    assert!(message.contains("egress.enabled"), "{message}");
}

#[tokio::test]
async fn grant_does_not_reach_an_address_that_is_not_allowed() {
    let origin = "http://169.254.169.254";
    let (bench, plugin) = bench(origin, &get_head(origin)).await;
    let (refused, message) = status(&bench.host, &plugin).await;
    assert_eq!(refused, Some(Status::Denied), "{message}");
    assert!(message.contains("not allowed by the operator"), "{message}");
}

#[tokio::test]
async fn transactional_function_cannot_send_requests() {
    let server = RemoteServer::start().await;
    let bench = TestHost::with(with_egress).await;
    grant_origin(&bench.host, &bench.app, &server.origin).await;
    let run = r#"{"kind":"function","name":"run","transaction":true}"#;
    let plugin = fetcher(run, &server.origin, &get_head(&server.origin));
    let plugin = bench.load(plugin).await;
    let (refused, message) = status(&bench.host, &plugin).await;
    assert_eq!(refused, Some(Status::Invalid), "{message}");
    assert!(message.contains("discarded and repeated"), "{message}");
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn requests_of_a_run_are_limited() {
    let server = RemoteServer::start().await;
    let bench = TestHost::with(|builder| {
        let limits = kvasm::model::Limits {
            fetches: 3,
            wall_time: Duration::from_secs(60),
            ..kvasm::model::Limits::default()
        };
        with_egress(builder.limits(limits))
    })
    .await;
    grant_origin(&bench.host, &bench.app, &server.origin).await;
    let (data, call) = fetch(&get_head(&server.origin), "");
    let thrice = format!("(drop {call}) (drop {call}) (drop {call})");
    let lines = [RUN, &origin_line(&server.origin)];
    let body = format!("{thrice} {}", answer(&call));
    let plugin = bench
        .load(module_with(&data, &manifest(&lines), &body))
        .await;
    let (refused, message) = status(&bench.host, &plugin).await;
    assert_eq!(refused, Some(Status::RateLimited), "{message}");
    let cost = bench.host.call(&plugin, Call::function("run")).await;
    assert_eq!(cost.unwrap().cost.fetches, 3);
}

#[tokio::test]
async fn malformed_requests_are_invalid() {
    let server = RemoteServer::start().await;
    let origin = &server.origin;
    let bench = TestHost::with(with_egress).await;
    grant_origin(&bench.host, &bench.app, origin).await;
    for head in [
        String::new(),
        "{}".to_owned(),
        r#"{"method":"GET","url":"/a"}"#.to_owned(),
        format!(r#"{{"method":"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET","url":"{origin}"}}"#),
        format!(r#"{{"method":"CONNECT","url":"{origin}"}}"#),
        format!(r#"{{"method":"GET","url":"{origin}","headers":[["host","x"]]}}"#),
        format!(r#"{{"method":"GET","url":"{origin}","headers":[["a","b\r\nc: d"]]}}"#),
        format!(
            r#"{{"method":"GET","url":"{origin}","headers":[["transfer-encoding","chunked"]]}}"#
        ),
        format!(r#"{{"method":"GET","url":"{origin}","redirect":"follow"}}"#),
    ] {
        let plugin = bench.load(fetcher(RUN, origin, &head)).await;
        let (refused, message) = status(&bench.host, &plugin).await;
        assert_eq!(refused, Some(Status::Invalid), "{head}: {message}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn unreachable_server_is_the_remotes_fault() {
    let server = RemoteServer::answering("not HTTP\r\n\r\n").await;
    let (host, plugin) = bench(&server.origin, &get_head(&server.origin)).await;
    let (failed, message) = status(&host.host, &plugin).await;
    assert_eq!(failed, Some(Status::Remote), "{message}");
    let origin = server.origin.clone();
    drop(server);
    let (host, plugin) = bench(&origin, &get_head(&origin)).await;
    let (failed, message) = status(&host.host, &plugin).await;
    assert_eq!(failed, Some(Status::Remote), "{message}");
}

/// Waiting costs no CPU time, ends with the call, and is the plugin's own.
#[tokio::test]
async fn waiting_for_a_server_ends_at_the_deadline() {
    let server = RemoteServer::start().await;
    server.answers.forget_permits(usize::MAX >> 4);
    let bench = TestHost::with(|builder| {
        let limits = kvasm::model::Limits {
            cpu_time: Duration::from_millis(200),
            wall_time: Duration::from_secs(1),
            ..kvasm::model::Limits::default()
        };
        with_egress(builder.limits(limits))
    })
    .await;
    grant_origin(&bench.host, &bench.app, &server.origin).await;
    // Again and again, in case that the request ends just before the call.
    let (data, call) = fetch(&get_head(&server.origin), "");
    let lines = [RUN, &origin_line(&server.origin)];
    let body = format!("(loop (drop {call}) (br 0)) unreachable");
    let plugin = bench
        .load(module_with(&data, &manifest(&lines), &body))
        .await;
    let failure = bench.host.call(&plugin, Call::function("run")).await;
    let error = failure.unwrap_err().error;
    let CallError::Deadline { timeout, .. } = &error else {
        panic!("{error}");
    };
    assert!(timeout.longest().is_guest_time(), "{error}");
    assert!(
        error.to_string().contains("waiting for other servers"),
        "{error}"
    );
}

/// The grant is revoked while the first request waits; the second one is refused.
#[tokio::test]
async fn grant_revoked_in_mid_call_ends_further_requests() {
    static BENCH: OnceLock<(Host, kvasm::model::App, String)> = OnceLock::new();
    let mut server = RemoteServer::start().await;
    let bench = TestHost::with(|builder| {
        meanwhile(with_egress(builder), |_| async {
            let (host, app, origin) = BENCH.get().unwrap();
            revoke_origin(host, app, origin).await;
        })
    })
    .await;
    let origin = server.origin.clone();
    let shared = (bench.host.clone(), bench.app.clone(), origin.clone());
    assert!(BENCH.set(shared).is_ok());
    grant_origin(&bench.host, &bench.app, &origin).await;
    let (data, call) = fetch(&get_head(&origin), "");
    let text = format!(
        "(module
            (import \"test_v1\" \"meanwhile\" (func $meanwhile))
            (import \"kvasm_v1\" \"http_fetch\"
                (func $http_fetch (param i32 i32 i32 i32) (result i64)))
            (import \"kvasm_v1\" \"error_message\"
                (func $error_message (param i32 i32) (result i64)))
            (import \"kvasm_v1\" \"output_write\" (func $output_write (param i32 i32) (result i64)))
            (memory (export \"memory\") 1) (data (i32.const 0) \"{data}\") {}
            (func (export \"run\") (result i32)
                (if (i64.lt_s {call} (i64.const 0)) (then unreachable))
                (call $meanwhile)
                {}))",
        manifest(&[RUN, &origin_line(&origin)]),
        report(&call)
    );
    let plugin = bench.load(wat::parse_str(text).unwrap()).await;
    let (refused, message) = status(&bench.host, &plugin).await;
    assert_eq!(refused, Some(Status::Denied), "{message}");
    assert!(server.seen.recv().await.is_some());
    assert!(server.seen.try_recv().is_err());
}
