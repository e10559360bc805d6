//! The trace context of requests, as the W3C Recommendation says.

use crate::calls::{echo, echoed};
use crate::events::tenant;
use crate::triggers::put;
use kvasm::model::{DeadReason, Verdict};
use kvasm_tests::guests::module;
use kvasm_tests::server::{Server, answer};
use serde_json::{Value, json};

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
    let request = server.anonymous().request("GET", "/a/shop/");
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
        let mut request = server.anonymous().request("GET", "/a/shop/");
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
    let request = server.anonymous().request("GET", "/a/shop/");
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
    let request = server.anonymous().request("GET", "/a/shop/");
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
        let request = server.anonymous().request("POST", "/v1/apps/shop/call/run");
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
        refused.expect_problem(400, "invalid-argument");
    }
}

/// What an administrator changes belongs to the trace of the request, by each route.
#[tokio::test]
async fn deliveries_and_dead_letters_show_their_trace() {
    let server = Server::start().await;
    let app = server.app("shop", false).await;
    put(&server, "index", json!({ "collection": "orders" }))
        .await
        .expect(200);
    let entry = "/v1/apps/shop/kv/entry?collection=orders&key=";
    let traced = async |method: &str, path: &str, body: Value| {
        let request = server.root.request(method, path).json(&body);
        let request = request.header("traceparent", PARENT);
        answer(request.header("tracestate", "a=1"))
            .await
            .expect(200)
    };
    traced("PUT", &format!("{entry}1"), json!(1)).await;
    let set = json!({ "collection": "orders", "key": "2", "json": 1 });
    let batch = json!({ "operations": [{ "set": set }] });
    traced("POST", "/v1/apps/shop/kv/commit", batch).await;
    let increment = "/v1/apps/shop/kv/increment?collection=orders&key=3";
    traced("POST", increment, json!(null)).await;
    let untraced = server
        .root
        .json("PUT", &format!("{entry}4"), json!(1))
        .await;
    let id = untraced.expect(200).header("x-request-id").to_owned();

    let page = server.root.get("/v1/apps/shop/deliveries").await;
    let page = page.expect(200).json();
    let deliveries = page["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), 4);
    for delivery in deliveries {
        let event = &delivery["event"];
        let parent = event["traceparent"].as_str().unwrap();
        assert_eq!(parent[3..35], event["trace_id"], "{event}");
        match event["key"].as_str() {
            Some("4") => {
                assert_eq!(event["trace_id"], id.replace('-', ""));
                assert_eq!(event.get("tracestate"), None);
            }
            _ => {
                assert_eq!(
                    (&event["trace_id"], &event["tracestate"]),
                    (&json!(TRACE), &json!("a=1"))
                );
                assert_ne!(parent, PARENT, "the span is the host's");
            }
        }
    }
    let tenant = tenant(&server, &app);
    for (_, lease) in &tenant.claim("index", 10).await {
        let give_up = Verdict::DeadLetter(DeadReason::Attempts);
        assert!(tenant.fail(lease, give_up, false).await);
    }
    let page = server.root.get("/v1/apps/shop/dead-letters").await;
    let letters = page.expect(200).json();
    let event = |from: &Value| from["event"].clone();
    let mut kept: Vec<_> = letters["dead_letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(event)
        .collect();
    let mut before: Vec<_> = deliveries.iter().map(event).collect();
    for events in [&mut kept, &mut before] {
        events.sort_by_key(|event| event["key"].to_string());
    }
    assert_eq!(kept, before);
}
