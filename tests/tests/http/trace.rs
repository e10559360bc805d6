//! The trace context of requests, as the W3C Recommendation says.

use crate::calls::{echo, echoed};
use kvasm_tests::guests::module;
use kvasm_tests::server::{Server, answer};
use serde_json::Value;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The values of a header in the head of an echoed request.
fn values<'h>(head: &'h Value, name: &str) -> Vec<&'h str> {
    let headers = head["headers"].as_array().unwrap().iter();
    let found = headers.filter(|pair| pair[0] == name);
    found.map(|pair| pair[1].as_str().unwrap()).collect()
}

#[tokio::test]
async fn handler_gets_the_clients_trace_with_the_hosts_span() {
    let server = Server::start().await;
    server.deployed("shop", echo("{\"status\":200}")).await;
    let request = server.anonymous().ask("GET", "/a/shop/");
    let request = request.header("traceparent", PARENT);
    let request = request.header("tracestate", "a=1, b=2");
    let request = request.header("tracestate", "c=3");
    let seen = echoed(&answer(request).await.expect(200));
    let [parent] = values(&seen, "traceparent")[..] else {
        panic!("{seen}");
    };
    assert_eq!(parent.len(), PARENT.len());
    assert_eq!((&parent[..36], &parent[52..]), (&PARENT[..36], "-01"));
    assert_ne!(parent, PARENT, "the span is the host's");
    assert_eq!(values(&seen, "tracestate"), ["a=1,b=2,c=3"]);
}

#[tokio::test]
async fn invalid_trace_context_is_not_passed_to_the_handler() {
    let server = Server::start().await;
    server.deployed("shop", echo("{\"status\":200}")).await;
    let upper = PARENT.to_uppercase();
    for parents in [&[][..], &[PARENT, PARENT], &[upper.as_str()], &["00-0-0-0"]] {
        let mut request = server.anonymous().ask("GET", "/a/shop/");
        for parent in parents {
            request = request.header("traceparent", *parent);
        }
        let answer = answer(request.header("tracestate", "a=1"))
            .await
            .expect(200);
        let seen = echoed(&answer);
        for name in ["traceparent", "tracestate"] {
            assert_eq!(values(&seen, name), [""; 0], "{parents:?}");
        }
    }
    // The trace is valid without its state.
    let request = server.anonymous().ask("GET", "/a/shop/");
    let request = request.header("traceparent", PARENT);
    let seen = echoed(&answer(request.header("tracestate", "a")).await.expect(200));
    assert_eq!(values(&seen, "traceparent").len(), 1);
    assert_eq!(values(&seen, "tracestate"), [""; 0]);
}

#[tokio::test]
async fn plugin_cannot_answer_with_a_trace_context() {
    let server = Server::start().await;
    let head = r#"{"status":200,"headers":[["traceparent","00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        ["Tracestate","a=1"],["traceresponse","00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        ["x-own","1"]]}"#;
    server.deployed("shop", echo(head)).await;
    let request = server.anonymous().ask("GET", "/a/shop/");
    let answer = answer(request.header("traceparent", PARENT))
        .await
        .expect(200);
    assert_eq!(answer.header("x-own"), "1");
    // The host sends none either.
    for name in ["traceparent", "tracestate", "traceresponse"] {
        assert_eq!(answer.header(name), "", "{name}");
    }
}

/// A request without a trace starts one, whose id is the request id.
#[tokio::test]
async fn log_lines_are_filtered_by_trace() {
    let server = Server::start().await;
    let say = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 5))) (i32.const 0)";
    server.deployed("shop", module("hello", say)).await;
    let call = async |parent: &str| {
        let request = server.anonymous().ask("POST", "/v1/apps/shop/call/run");
        let answer = answer(request.header("traceparent", parent)).await;
        answer.expect(200).header("x-request-id").to_owned()
    };
    let (first, second, third) = (call(PARENT).await, call(PARENT).await, call("00-").await);
    let found = async |trace: &str| {
        let path = format!("/v1/apps/shop/logs?trace={trace}");
        let text = server.root.get(&path).await.expect(200).text();
        let lines = text.lines().filter(|line| !line.is_empty());
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        let ids = |line: Value| {
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            (text("request_id"), text("trace_id"))
        };
        lines.map(ids).collect::<Vec<_>>()
    };
    let of_client = |request| (request, TRACE.to_owned());
    assert_eq!(
        found(TRACE).await,
        [of_client(first.clone()), of_client(second)]
    );
    let started = (third.clone(), third.replace('-', ""));
    assert_eq!(found(&started.1).await, [started.clone()]);
    assert_eq!(found(&third).await, [started]);
    assert_eq!(found(&first).await, []);
    for bad in ["x", "00000000000000000000000000000000", "4bf9"] {
        let path = format!("/v1/apps/shop/logs?trace={bad}");
        let refused = server.root.get(&path).await;
        refused.refused(400, "invalid-argument");
    }
}
