//! A server with webhooks, and one that is killed while it waits for a receiver.

use axum::http::StatusCode;
use kvasm_tests::program::process::{Home, Server, eventually};
use kvasm_tests::receiver::{Received, Receiver};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Runtime;

const KEY: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// Starts a server that may reach loopback.
fn start(home: &Home) -> Server {
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    home.start(&[
        "--store",
        &store,
        "--set",
        "egress.enabled=true",
        "--set",
        "egress.allow_networks=127.0.0.0/8",
        "--set",
        "limits.wall_time=2s",
        "--set",
        "log.filter=trace",
    ])
}

fn hook(server: &Server, url: &str) {
    server.create_app("demo");
    let secret = "/v1/apps/demo/secrets/key";
    let set = server.admin("PUT", secret, "text/plain", KEY.as_bytes());
    assert_eq!(set.status, 204);
    let trigger = json!({ "collection": "c", "url": url, "secret": "key" }).to_string();
    let path = "/v1/apps/demo/triggers/hook";
    let set = server.admin("PUT", path, "application/json", trigger.as_bytes());
    set.ok();
}

fn wait_until_delivered(server: &Server) {
    eventually("it is delivered", || {
        let path = "/v1/apps/demo/deliveries";
        let left = server.admin("GET", path, "text/plain", b"").ok().text();
        left.contains("\"deliveries\":[]").then_some(())
    });
}

fn id(request: &Received) -> String {
    request.header("webhook-id").to_owned()
}

#[test]
fn killed_server_repeats_the_request_whose_response_it_missed() {
    let runtime = Runtime::new().unwrap();
    let home = Home::new();
    let answers = Arc::new(AtomicBool::new(false));
    let may_answer = Arc::clone(&answers);
    let mut receiver = runtime.block_on(Receiver::start(move |_, _| {
        let may_answer = may_answer.load(Ordering::SeqCst);
        async move {
            if !may_answer {
                std::future::pending::<()>().await;
            }
            StatusCode::OK
        }
    }));
    let server = start(&home);
    hook(&server, &receiver.origin);
    server.put("demo", "k", b"1").ok();
    let first = runtime.block_on(receiver.next());
    server.kill();
    answers.store(true, Ordering::SeqCst);
    let server = start(&home);
    // The lease of the killed server has to expire.
    let again = runtime.block_on(receiver.next());
    assert_eq!(id(&again), id(&first));
    assert_eq!(again.event()["data"], first.event()["data"]);
    wait_until_delivered(&server);
    assert_eq!(receiver.others(), 0);
    server.stop();
}

#[test]
fn signing_key_and_url_do_not_leak() {
    let runtime = Runtime::new().unwrap();
    let home = Home::new();
    let mut receiver = runtime.block_on(Receiver::start(async |nth, _| match nth {
        0 => StatusCode::IM_A_TEAPOT,
        _ => StatusCode::OK,
    }));
    let server = start(&home);
    hook(&server, &format!("{}/path-of-the-hook", receiver.origin));
    server.put("demo", "k", b"1").ok();
    runtime.block_on(receiver.next());
    runtime.block_on(receiver.next());
    wait_until_delivered(&server);
    let mut answers = String::new();
    for path in [
        "/v1/apps/demo/logs",
        "/v1/apps/demo/dead-letters",
        "/v1/apps/demo/triggers",
        "/v1/apps/demo/audit",
        "/v1/apps/demo/secrets",
        "/metrics",
    ] {
        answers += &server.admin("GET", path, "text/plain", b"").ok().text();
    }
    assert!(answers.contains("status 418"), "{answers}");
    assert!(!answers.contains("AAAAAAAA"), "{answers}");
    server.stop_and_inspect_log(|log| {
        assert!(!log.contains("AAAAAAAA"), "{log}");
        // A URL may have more in it than its operator meant to log.
        assert!(!log.contains("path-of-the-hook"), "{log}");
    });
}
