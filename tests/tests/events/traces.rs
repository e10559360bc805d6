//! A trace goes from a call through the handlers that follow from it.

use super::event_host::{EventHost, manifest, until};
use kvasm::Call;
use kvasm::model::{TraceContext, TraceId};
use kvasm::service::LogFilter;
use kvasm_tests::guests::module_with;
use serde_json::Value;
use std::collections::BTreeSet;
use uuid::Uuid;

const PARENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Stores its context under "k" of the collection at `to`, and logs.
fn store_context(to: u32) -> String {
    format!(
        "(drop (call $kv_set (i32.const {to}) (i32.const 1) (i32.const 3) (i32.const 1)
            (i32.const 1024) (i32.wrap_i64 (call $context (i32.const 1024) (i32.const 2048)))
            (i32.const 0) (i32.const 0)))
         (drop (call $log (i32.const 3) (i32.const 0) (i32.const 1))) (i32.const 0)"
    )
}

/// `run` changes "a", whose handler changes "b", whose handler changes "c".
async fn chain() -> EventHost {
    let stage = EventHost::new().await;
    let names = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"on_change","name":"second","collection":"a"}"#,
        r#"{"kind":"on_change","name":"third","collection":"b"}"#,
    ]);
    let handlers = format!(
        "{names} (func (export \"second\") (result i32) {})
         (func (export \"third\") (result i32) {})",
        store_context(1),
        store_context(2)
    );
    stage
        .deploy(module_with("abck", &handlers, &store_context(0)))
        .await;
    stage
}

async fn contexts(stage: &EventHost) -> Vec<Value> {
    until("the last handler", async || {
        stage.get("c", "k").await.is_some()
    })
    .await;
    stage.wait_until_idle().await;
    let mut all = Vec::new();
    for collection in ["a", "b", "c"] {
        let json = stage.get(collection, "k").await.unwrap();
        all.push(serde_json::from_str(&json).unwrap());
    }
    all
}

/// The requests whose lines are in the log of a trace.
async fn requests_of(stage: &EventHost, trace: TraceId) -> BTreeSet<String> {
    let filter = LogFilter {
        trace: Some(trace),
        ..LogFilter::default()
    };
    let lines = stage
        .host
        .logs()
        .find(stage.app().await.id, 0, 100, &filter);
    lines
        .iter()
        .map(|line| line.request_id.to_string())
        .collect()
}

fn ids(contexts: &[Value]) -> BTreeSet<String> {
    let ids = contexts.iter().map(|context| &context["request_id"]);
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_have_the_trace_of_the_call_with_spans_of_their_own() {
    let stage = chain().await;
    let trace = TraceContext::parse(PARENT, [b"x=1".as_slice()]).unwrap();
    let call = Call::function("run").trace(trace.clone());
    stage.host.invoke(&stage.app().await, call).await.unwrap();
    let contexts = contexts(&stage).await;
    let mut spans = BTreeSet::new();
    for context in &contexts {
        let parent = context["traceparent"].as_str().unwrap();
        assert_eq!(parent[..36], trace.parent()[..36], "{context}");
        assert!(parent.ends_with("-01"), "{context}");
        assert_eq!(context["tracestate"], "x=1");
        spans.insert(parent);
    }
    assert_eq!(spans.len(), 3, "{contexts:?}");
    assert!(spans.contains(trace.parent().as_str()), "the call's span");
    // The requests of handlers are others.
    assert_eq!(requests_of(&stage, trace.trace_id()).await, ids(&contexts));
    assert_eq!(ids(&contexts).len(), 3);
}

/// A call without a trace starts one, which has its request id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_of_an_untraced_call_have_its_request_id_as_trace_id() {
    let stage = chain().await;
    let id = Uuid::now_v7();
    let call = Call::function("run").request_id(id);
    stage.host.invoke(&stage.app().await, call).await.unwrap();
    let contexts = contexts(&stage).await;
    for context in &contexts {
        let parent = context["traceparent"].as_str().unwrap();
        assert_eq!(parent[3..35], id.simple().to_string(), "{context}");
        assert_eq!(context.get("tracestate"), None);
    }
    let trace = TraceId::of_uuid(id).unwrap();
    assert_eq!(requests_of(&stage, trace).await, ids(&contexts));
}

/// A change outside of traces starts one with its event, which is the same in each attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_of_an_untraced_event_have_its_id_as_trace_id() {
    let stage = EventHost::new().await;
    let names = manifest(&[r#"{"kind":"on_change","name":"run","collection":"a"}"#]);
    let fails = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 1))) unreachable";
    stage.deploy(module_with("a", &names, fails)).await;
    stage.set("a", "k", "1").await;
    until("the delivery is dead", async || {
        !stage.dead_letters().await.is_empty()
    })
    .await;
    let [letter] = stage.dead_letters().await.try_into().unwrap();
    assert_eq!(letter.event.trace, None);
    let trace = TraceId::of_uuid(letter.event.id).unwrap();
    assert_eq!(letter.event.trace_id(), Some(trace));
    // Two lines for each: the plugin's, and the host's about the trap.
    let requests = requests_of(&stage, trace).await;
    assert_eq!(requests.len(), letter.attempts as usize);
}
