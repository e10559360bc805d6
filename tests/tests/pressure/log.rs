//! The server's own log must not block the server, nor grow with a tenant.

use super::kit;
use kvasm_tests::program::process::{Home, Server, eventually};
use kvasm_tests::program::raw_client::{RawConnection, request};
use std::io::{PipeReader, Read, pipe};
use std::sync::Arc;

/// A server whose log goes to a pipe that nobody reads, with a trigger on the collection `c`
/// whose handler fails with 4,000 bytes.
fn unread(home: &Home, arguments: &[&str]) -> (Server, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    let server = home.start_logging_to(writer, arguments);
    server.deploy_guest("demo");
    server.deploy_guest("neighbour");
    let trigger = r#"{"function":"rant","collection":"c","attempts_max":1}"#;
    let path = "/v1/apps/demo/triggers/t";
    server
        .admin("PUT", path, "application/json", trigger.as_bytes())
        .ok();
    (server, reader)
}

/// Creates this many entries of the collection, and waits until their deliveries are dead
/// letters.
fn fail_deliveries(server: &Server, count: u64) {
    for batch in (0..count).collect::<Vec<_>>().chunks(100) {
        let lines: Vec<_> = batch
            .iter()
            .map(|n| format!(r#"{{"collection":"c","key":"{n}","json":{n}}}"#))
            .collect();
        let path = "/v1/apps/demo/kv/import";
        let lines = lines.join("\n");
        server
            .admin("POST", path, "application/jsonl", lines.as_bytes())
            .ok();
    }
    let dead = "kvasm_deliveries_total{app=\"demo\",outcome=\"dead\"}";
    eventually("the deliveries are given up", || {
        let metrics = server
            .admin("GET", "/metrics", "text/plain", b"")
            .ok()
            .text();
        let line = metrics.lines().find_map(|line| line.strip_prefix(dead))?;
        (line.trim().parse::<u64>().unwrap() >= count).then_some(())
    });
}

/// Sends requests, each of which logs a line, until the log is full.
fn fill_the_log(server: &Server) {
    eventually("lines are dropped", || {
        for _ in 0..50 {
            let mut line = RawConnection::open(server.address, Arc::clone(&server.received));
            let all = request("GET", "/healthz", "", b"").repeat(200);
            line.send(all);
            for _ in 0..200 {
                line.answer().unwrap().ok();
            }
        }
        (server.metric("kvasm_log_lines_dropped_total") > 0).then_some(())
    });
}

#[test]
fn unread_log_blocks_nothing() {
    let _alone = kit::serial_blocking();
    let home = Home::new();
    let filter = "log.filter=kvasm=info,kvasm::requests=debug";
    let (mut server, mut reader) = unread(&home, &["--set", filter]);
    fill_the_log(&server);
    fail_deliveries(&server, 50);
    for _ in 0..20 {
        assert_eq!(server.call("neighbour", "hello", b"").ok().text(), "hello");
        server.assert_healthy();
    }
    // Once somebody reads again, the log continues, and reports the missing lines.
    let mut read = String::new();
    eventually("the line about dropped lines", || {
        let mut part = vec![0; 64 * 1024];
        let len = reader.read(&mut part).unwrap();
        read.push_str(&String::from_utf8_lossy(&part[..len]));
        read.contains("log lines were dropped").then_some(())
    });
    fill_the_log(&server);
    server.signal("TERM");
    assert_eq!(server.code(), Some(0));
    drop(reader);
}

#[test]
fn second_signal_works_with_an_unread_log() {
    let _alone = kit::serial_blocking();
    let home = Home::new();
    let filter = "log.filter=kvasm=info,kvasm::requests=debug";
    let patient = ["limits.wall_time=1h", "server.drain_timeout=1h"];
    let patient = ["--set", filter, "--set", patient[0], "--set", patient[1]];
    let (mut server, reader) = unread(&home, &patient);
    fill_the_log(&server);
    let mut line = server.open();
    line.send(request("POST", "/v1/apps/demo/call/sleep", "", b""));
    server.wait_for_calls(1);
    server.signal("TERM");
    eventually("no new connections", || {
        RawConnection::try_open(server.address, Arc::clone(&server.received))
            .is_err()
            .then_some(())
    });
    assert!(server.is_running());
    server.signal("TERM");
    assert_eq!(server.code(), Some(130));
    drop(reader);
}

#[test]
fn closed_log_pipe_blocks_nothing() {
    let _alone = kit::serial_blocking();
    let home = Home::new();
    let (mut server, reader) = unread(&home, &[]);
    drop(reader);
    fail_deliveries(&server, 12);
    assert_eq!(server.call("neighbour", "hello", b"").ok().text(), "hello");
    server.assert_healthy();
    assert!(server.metric("kvasm_log_lines_dropped_total") > 0);
    server.signal("TERM");
    assert_eq!(server.code(), Some(0));
}

#[test]
fn unread_stdout_does_not_block_startup() {
    let _alone = kit::serial_blocking();
    let home = Home::new();
    // Its address is printed nowhere else.
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut command = home.command(&["serve", "--listen", &address]);
    command.stdout(writer).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let heard = kvasm_tests::program::raw_client::ReceivedBytes::default();
    eventually("an answer", || {
        let mut line =
            RawConnection::try_open(address.parse().unwrap(), Arc::clone(&heard)).ok()?;
        line.try_send(request("GET", "/healthz", "", b""));
        line.answer()
    })
    .ok();
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn tenant_errors_in_the_log_are_truncated_and_rate_limited() {
    let _alone = kit::serial_blocking();
    const EVENTS: u64 = 5_000;
    let home = Home::new();
    let server = home.start(&[]);
    server.deploy_guest("demo");
    let trigger = r#"{"function":"rant","collection":"c","attempts_max":1}"#;
    let path = "/v1/apps/demo/triggers/t";
    server
        .admin("PUT", path, "application/json", trigger.as_bytes())
        .ok();
    let start = std::time::Instant::now();
    fail_deliveries(&server, EVENTS);
    let log = server.stderr();
    let lines = log
        .lines()
        .filter(|line| line.contains("became a dead letter"));
    let lines: Vec<_> = lines.collect();
    assert!(!lines.is_empty());
    // A burst, and a line a second.
    assert!(
        lines.len() as u64 <= 11 + start.elapsed().as_secs(),
        "{log}"
    );
    assert!(lines.iter().all(|line| line.len() < 1024), "{log}");
    server.stop();
}

/// The answer is small, and the app's log is intact.
#[test]
fn failure_message_of_8_mib_is_truncated() {
    let _alone = kit::serial_blocking();
    let home = Home::new();
    let server = home.start(&[]);
    server.deploy_guest("demo");
    server.call("demo", "say", b"").ok();
    let answer = server
        .call("demo", "nothing", b"")
        .expect(500, "plugin-failed");
    assert!(answer.body.len() < 16 * 1024, "{}", answer.body.len());
    let logs = server
        .admin("GET", "/v1/apps/demo/logs", "text/plain", b"")
        .ok();
    let text = logs.text();
    assert!(text.contains("\"hello\"") && text.contains("failed with code 1"));
    assert!(text.len() < 16 * 1024, "{}", text.len());
    server.stop();
}

/// Creates a token that may read the log. Returns its id and its authorization header.
fn reader(server: &Server) -> (String, String) {
    let new = br#"{"name":"reader","scopes":["log:read"]}"#;
    let path = "/v1/apps/demo/tokens";
    let made = server.admin("POST", path, "application/json", new).ok();
    let made = made.json();
    let secret = made["secret"].as_str().unwrap();
    let id = made["token"]["id"].as_str().unwrap();
    (id.to_owned(), format!("Authorization: Bearer {secret}\r\n"))
}

/// Follows the app's log.
fn following(server: &Server, authorization: &str) -> RawConnection {
    let mut line = server.open();
    let path = "/v1/apps/demo/logs?follow=true";
    line.send(request("GET", path, authorization, b""));
    line
}

#[test]
fn followed_log_ends_when_access_is_lost() {
    let _alone = kit::serial_blocking();
    let home = Home::new();
    let server = home.start(&[]);
    server.deploy_guest("demo");
    server.call("demo", "say", b"").ok();
    let ((id, revoked), (_, other)) = (reader(&server), reader(&server));
    let mut lines = [&revoked, &other].map(|token| following(&server, token));
    eventually("both follow", || {
        let follow = "kvasm_http_requests_total{route=\"/v1/apps/{app}/logs\",method=\"GET\",status=\"200\"} 2\n";
        let metrics = server.admin("GET", "/metrics", "text/plain", b"").ok();
        metrics.text().contains(follow).then_some(())
    });
    let path = format!("/v1/apps/demo/tokens/{id}");
    server.admin("DELETE", &path, "text/plain", b"").ok();
    let log = lines[0].answer().expect("a stream that ends");
    assert!(log.ok().text().contains("\"hello\""));
    // The other continues until the app is deleted.
    server.call("demo", "say", b"").ok();
    server
        .admin("DELETE", "/v1/apps/demo", "text/plain", b"")
        .ok();
    let log = lines[1].answer().expect("a stream that ends").ok().text();
    assert_eq!(log.matches("\"hello\"").count(), 2, "{log}");
    server.stop();
}
