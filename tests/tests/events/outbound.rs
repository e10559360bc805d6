//! Requests of handlers to other servers.

use super::event_host::{EventHost, manifest};
use kvasm::Host;
use kvasm::store::MemoryStore;
use kvasm_tests::guests::module_with;
use kvasm_tests::remote::{RemoteServer, fetch, get_head, grant_origin, origin_line, with_egress};
use std::sync::Arc;

const WATCH: &str = r#"{"kind":"on_change","name":"run","collection":"c"}"#;

/// A host whose handler sends a request with this head, and then runs `end`.
async fn stage(server: &RemoteServer, head: &str, end: &str) -> EventHost {
    let builder = with_egress(Host::builder());
    let mut stage =
        EventHost::with_builder(builder, Arc::new(MemoryStore::new()), Box::new(())).await;
    stage.start();
    let app = stage.app().await;
    grant_origin(&stage.host, &app, &server.origin).await;
    let (data, call) = fetch(head, "");
    let lines = manifest(&[WATCH, &origin_line(&server.origin)]);
    let body = format!("(if (i64.lt_s {call} (i64.const 0)) (then unreachable)) {end}");
    stage.deploy(module_with(&data, &lines, &body)).await;
    stage
}

fn key_of(seen: &str) -> &str {
    let key = seen
        .split("\r\n")
        .find_map(|line| line.strip_prefix("idempotency-key: "));
    key.unwrap_or_else(|| panic!("no key in {seen}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_of_a_handler_has_the_events_id_as_its_key() {
    let mut server = RemoteServer::start().await;
    let stage = stage(&server, &get_head(&server.origin), "(i32.const 0)").await;
    stage.set("c", "k", "7").await;
    stage.wait_until_idle().await;
    let seen = server.seen.recv().await.unwrap();
    assert!(uuid::Uuid::parse_str(key_of(&seen)).is_ok(), "{seen}");
    assert!(seen.contains("\r\ntraceparent: 00-"), "{seen}");
    stage.set("c", "k", "8").await;
    stage.wait_until_idle().await;
    let next = server.seen.recv().await.unwrap();
    assert_ne!(key_of(&next), key_of(&seen));
    assert!(server.seen.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_request_of_a_failed_handler_has_the_same_key() {
    let mut server = RemoteServer::start().await;
    // It fails after the request, and is attempted again.
    let stage = stage(&server, &get_head(&server.origin), "(i32.const 1)").await;
    stage.set("c", "k", "7").await;
    let first = server.seen.recv().await.unwrap();
    let second = server.seen.recv().await.unwrap();
    assert_eq!(key_of(&first), key_of(&second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_of_the_plugin_replaces_that_of_the_host() {
    let mut server = RemoteServer::start().await;
    let head = format!(
        r#"{{"method":"GET","url":"{}","headers":[["Idempotency-Key","own"]]}}"#,
        server.origin
    );
    let stage = stage(&server, &head, "(i32.const 0)").await;
    stage.set("c", "k", "7").await;
    let seen = server.seen.recv().await.unwrap();
    assert_eq!(key_of(&seen), "own");
    assert_eq!(seen.matches("idempotency-key").count(), 1, "{seen}");
}
