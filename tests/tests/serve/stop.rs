//! Shutdown: graceful, bounded, or immediate.

use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::program::process::{Home, Server, eventually};
use kvasm_tests::program::raw_client::{RawConnection, request};
use std::sync::Arc;
use std::time::Duration;

/// A running call, on its own connection.
fn calling(server: &Server, function: &str) -> RawConnection {
    let mut line = server.open();
    let path = format!("/v1/apps/demo/call/{function}");
    line.send(request("POST", &path, "", b""));
    server.wait_for_calls(1);
    line
}

/// A server with an app and long time limits for running calls.
fn long_timeouts(home: &Home) -> Server {
    let times = ["server.drain_timeout=1h", "limits.wall_time=1h"];
    let server = home.start(&["--set", times[0], "--set", times[1]]);
    server.deploy_guest("demo");
    server
}

fn is_refused(server: &Server) -> bool {
    RawConnection::try_open(server.address, Arc::clone(&server.received)).is_err()
}

#[test]
fn running_call_completes_on_shutdown() {
    let home = Home::new();
    let mut server = home.start(&[]);
    server.deploy_guest("demo");
    let mut line = calling(&server, "nap");
    server.signal("TERM");
    eventually("no new connections", || is_refused(&server).then_some(()));
    assert_eq!(line.answer().unwrap().ok().text(), "hello");
    assert_eq!(line.rest(), b"");
    assert_eq!(server.code(), Some(0), "{}", server.stderr());
}

#[test]
fn call_over_the_drain_timeout_is_aborted() {
    let home = Home::new();
    let mut server = home.start(&[
        "--set",
        "server.drain_timeout=500ms",
        "--set",
        "limits.wall_time=1h",
    ]);
    server.deploy_guest("demo");
    let mut line = calling(&server, "sleep");
    server.signal("TERM");
    assert_eq!(server.code(), Some(0), "{}", server.stderr());
    assert!(line.answer().is_none());
    let log = server.stderr();
    assert!(log.contains("server.drain_timeout were aborted"), "{log}");
}

#[test]
fn second_signal_exits_immediately() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM"), ("TERM", "INT")] {
        let home = Home::new();
        let mut server = long_timeouts(&home);
        let mut line = calling(&server, "sleep");
        server.signal(first);
        eventually("no new connections", || is_refused(&server).then_some(()));
        assert!(!line.has_data(Duration::from_millis(100)));
        assert!(server.is_running());
        server.signal(second);
        assert_eq!(server.code(), Some(130), "{}", server.stderr());
        assert!(line.answer().is_none());
    }
}

/// Neither while it serves nor while it stops, where a second signal would end it.
#[test]
fn sighup_is_ignored() {
    let home = Home::new();
    let mut server = long_timeouts(&home);
    let hang_up = |times: usize| {
        server.signal("HUP");
        eventually("a line about the signal", || {
            let log = server.stderr();
            (log.matches("SIGHUP ignored").count() >= times).then_some(())
        });
    };
    hang_up(1);
    hang_up(2);
    assert_eq!(server.call("demo", "hello", b"").ok().text(), "hello");
    let mut line = calling(&server, "sleep");
    server.signal("TERM");
    eventually("no new connections", || is_refused(&server).then_some(()));
    hang_up(3);
    assert!(!line.has_data(Duration::from_millis(100)));
    assert!(server.is_running());
    server.signal("TERM");
    assert_eq!(server.code(), Some(130), "{}", server.stderr());
}

/// Scripts may stop a server as soon as it prints that it listens.
#[test]
fn signal_right_after_start_shuts_down_gracefully() {
    let home = Home::new();
    for _ in 0..20 {
        home.start(&[]).stop();
    }
}

#[test]
fn idle_connections_do_not_delay_shutdown() {
    let home = Home::new();
    let mut server = home.start(&["--set", "server.drain_timeout=1h"]);
    server.deploy_guest("demo");
    // One connection that has sent nothing yet, and one that is idle after an answer.
    let mut unused = server.open();
    let mut used = server.open();
    used.send(request("GET", "/healthz", "", b""));
    used.answer().unwrap().ok();
    let mut following = server.open();
    let path = "/v1/apps/demo/logs?follow=true";
    following.send(request("GET", path, &server.authorization(), b""));
    server.call("demo", "say", b"").ok();
    // The head may come before the line.
    following.wait_for(b"hello");
    server.signal("TERM");
    assert_eq!(server.code(), Some(0), "{}", server.stderr());
    assert_eq!(unused.rest(), b"");
    assert_eq!(used.rest(), b"");
    let log = following.answer().expect("a stream that ends as it should");
    assert!(log.ok().text().contains("\"hello\""));
}

/// An upload in progress ends too, or is aborted.
#[test]
fn stalled_upload_does_not_delay_shutdown() {
    let home = Home::new();
    let mut server = home.start(&["--set", "server.drain_timeout=500ms"]);
    server.deploy_guest("demo");
    let mut line = server.open();
    line.send("POST /v1/apps/demo/call/echo HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf");
    let mut head = server.open();
    head.send("GET /healthz HTT");
    server.assert_healthy();
    server.signal("TERM");
    assert_eq!(server.code(), Some(0), "{}", server.stderr());
    assert!(line.answer().is_none());
    assert!(head.answer().is_none());
}

/// Starts a server whose app `demo` has a handler with this `body`, changes an entry that it
/// watches, and waits until it runs.
fn handling(home: &Home, body: &str, settings: &[&str]) -> Server {
    let settings = settings.iter().flat_map(|set| ["--set", set]);
    let server = home.start(&settings.collect::<Vec<_>>());
    server.create_app("demo");
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    let module = module_with("", &watch, body);
    server
        .admin("POST", "/v1/apps/demo/plugins", "application/wasm", &module)
        .ok();
    server.put("demo", "k", b"1").ok();
    eventually("a handler that runs", || {
        let running = server.metric("kvasm_deliveries_running");
        (running == 1).then_some(())
    });
    server
}

fn outstanding(home: &Home) -> serde_json::Value {
    let listed = home.run(&["delivery", "list", "demo", "--json"]);
    let page: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    page["deliveries"].clone()
}

#[test]
fn handler_over_the_drain_timeout_is_nacked_uncounted() {
    let home = Home::new();
    let settings = [
        "server.drain_timeout=100ms",
        "limits.wall_time=1h",
        "limits.cpu_time=1h",
    ];
    let mut server = handling(&home, "(loop (br 0)) unreachable", &settings);
    server.signal("TERM");
    assert_eq!(server.code(), Some(0), "{}", server.stderr());
    let log = server.stderr();
    assert!(log.contains("the attempt does not count"), "{log}");
    let left = outstanding(&home);
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_eq!(left[0]["state"], "pending");
    assert_eq!(
        (&left[0]["attempts"], &left[0]["error"]),
        (&0.into(), &().into())
    );
}

#[test]
fn handler_within_the_drain_timeout_completes() {
    let home = Home::new();
    let settings = [
        "server.drain_timeout=10m",
        "limits.wall_time=1h",
        "limits.cpu_time=1h",
    ];
    // Enough rounds to take some seconds.
    let body = "(local $n i64) (local.set $n (i64.const 2000000000))
        (loop (br_if 0 (i64.ne (i64.const 0)
            (local.tee $n (i64.sub (local.get $n) (i64.const 1)))))) (i32.const 0)";
    let mut server = handling(&home, body, &settings);
    server.signal("TERM");
    assert_eq!(server.code(), Some(0), "{}", server.stderr());
    assert_eq!(outstanding(&home), serde_json::json!([]));
}
