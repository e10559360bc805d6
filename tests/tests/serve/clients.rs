//! Slow, broken and numerous clients.

use kvasm_tests::program::process::{Home, Server, eventually};
use kvasm_tests::program::raw_client::{RawConnection, request};
use std::sync::Arc;
use std::time::Duration;

fn short_timeouts(home: &Home) -> Server {
    let server = home.start(&[
        "--set",
        "server.head_timeout=1s",
        "--set",
        "server.idle_timeout=1s",
        "--set",
        "server.body_timeout=1s",
        "--set",
        "server.write_timeout=1s",
    ]);
    server.deploy_guest("demo");
    server
}

const HELLO: &str = "/v1/apps/demo/call/hello";

#[test]
fn slow_clients_time_out() {
    let home = Home::new();
    let server = short_timeouts(&home);
    // A head that never ends, a body that stops, a connection that sends nothing, and one that
    // sends nothing after its answer.
    let mut head = server.open();
    head.send("GET /healthz HTTP/1.1\r\nHost: t");
    let mut body = server.open();
    body.send(format!(
        "POST {HELLO} HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf"
    ));
    let mut silent = server.open();
    let mut idle = server.open();
    idle.send(request("GET", "/healthz", "", b""));
    idle.answer().unwrap().ok();
    body.answer().unwrap().expect(408, "body-timeout");
    for line in [&mut head, &mut body, &mut silent, &mut idle] {
        line.rest();
    }
    server.assert_healthy();
    server.stop();
}

/// The timeout for slow heads does not close a load balancer's idle connections.
#[test]
fn head_timeout_does_not_close_idle_connections() {
    let home = Home::new();
    let times = ["server.head_timeout=1s", "server.idle_timeout=10m"];
    let server = home.start(&["--set", times[0], "--set", times[1]]);
    let mut idle = server.open();
    idle.send(request("GET", "/healthz", "", b""));
    idle.answer().unwrap().ok();
    // When the connection that owes a head is closed, the idle one has been idle for longer.
    let mut silent = server.open();
    silent.rest();
    idle.send(request("GET", "/healthz", "", b""));
    idle.answer().unwrap().ok();
    // The next head has its own timeout.
    idle.send("GET /healthz HTTP/1.1\r\nHost: t");
    idle.rest();
    server.stop();
}

#[test]
fn dripping_upload_times_out() {
    let home = Home::new();
    let server = short_timeouts(&home);
    let mut line = server.open();
    let request = b"GET /healthz HTTP/1.1\r\nHost: test.example\r\nX-Long: ".repeat(20);
    // A byte at a time keeps the connection busy, but not beyond the body timeout.
    for byte in request {
        if !line.try_send([byte]) || line.has_data(Duration::from_millis(20)) {
            line.rest();
            server.assert_healthy();
            return server.stop();
        }
    }
    panic!("the server has taken all of it");
}

#[test]
fn client_that_reads_nothing_times_out() {
    let home = Home::new();
    let server = short_timeouts(&home);
    let mut line = server.open();
    // More answers than the buffers of both sides hold.
    for _ in 0..4 {
        line.try_send(request("POST", "/v1/apps/demo/call/big", "", b""));
    }
    let closed = || {
        let metrics = server
            .admin("GET", "/metrics", "text/plain", b"")
            .ok()
            .text();
        metrics.contains("kvasm_http_connections 1\n").then_some(())
    };
    eventually("the connection is closed", closed);
    drop(line);
    server.stop();
}

/// The server notices a slow client's progress, although the system's buffers are large.
#[test]
fn client_above_the_minimum_rate_is_not_disconnected() {
    let home = Home::new();
    let server = home.start(&["--set", "server.write_timeout=10s"]);
    server.deploy_guest("demo");
    let mut line = server.open();
    line.send(request("POST", "/v1/apps/demo/call/big", "", b""));
    // 20 KiB a second, twenty times the minimum rate, for twice the timeout.
    for _ in 0..40 {
        line.read_some(10 * 1024);
        std::thread::sleep(Duration::from_millis(500));
    }
    let open = server.metric("kvasm_http_connections ");
    assert_eq!(open, 2, "including the connection of this request");
    server.stop();
}

#[test]
fn half_closed_and_pipelined_connections_get_responses() {
    let home = Home::new();
    let server = short_timeouts(&home);
    let mut line = server.open();
    line.send(request("POST", "/v1/apps/demo/call/nap", "", b""));
    line.shut_down_write();
    assert_eq!(line.answer().unwrap().ok().text(), "hello");
    assert_eq!(line.rest(), b"");

    let mut line = server.open();
    let mut both = request("POST", "/v1/apps/demo/call/echo", "", b"one");
    both.extend(request("POST", "/v1/apps/demo/call/echo", "", b"two"));
    line.send(both);
    assert_eq!(line.answer().unwrap().ok().text(), "one");
    assert_eq!(line.answer().unwrap().ok().text(), "two");
    let mut line = server.open();
    line.send("GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(line.answer().unwrap().ok().text(), "ok\n");
    server.stop();
}

#[test]
fn call_is_rejected_before_its_body_is_read() {
    let home = Home::new();
    let patient = ["server.body_timeout=1h", "limits.wall_time=1h"];
    let queue = "server.queue=0";
    let server = home.start(&["--set", queue, "--set", patient[0], "--set", patient[1]]);
    server.deploy_guest("demo");
    server.create_app("bare");
    // The answer comes although no byte of the body does.
    let refused = |path: &str, status, problem: &str| {
        let mut line = server.open();
        line.send(format!(
            "POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n"
        ));
        line.answer().unwrap().expect(status, problem);
    };
    refused("/v1/apps/demo/call/none", 404, "function-not-found");
    refused("/a/demo/", 404, "no-http-handler");
    refused("/a/bare/", 404, "no-active-plugin");
    let path = "/v1/apps/demo/limits";
    let limits = br#"{"calls_at_once":1}"#;
    server.admin("PUT", path, "application/json", limits).ok();
    let mut first = server.open();
    first.send(request("POST", "/v1/apps/demo/call/sleep", "", b""));
    server.wait_for_calls(1);
    refused("/v1/apps/demo/call/hello", 429, "rate-limited");
    let limits = br#"{"calls_per_second":0}"#;
    server.admin("PUT", path, "application/json", limits).ok();
    refused("/v1/apps/demo/call/hello", 429, "rate-limited");
}

/// A client that sends its whole body before reading still gets the answer.
#[test]
fn rejection_reaches_a_client_that_is_still_sending() {
    let home = Home::new();
    let server = home.start(&[]);
    server.deploy_guest("demo");
    let body = vec![b'x'; 4 << 20];
    for (path, status) in [
        ("/v1/apps/demo/call/none", 404),
        ("/v1/apps/none/call/hello", 401),
    ] {
        for headers in ["", "Connection: close\r\n"] {
            let mut line = server.open();
            assert!(
                line.try_send(request("POST", path, headers, &body)),
                "{path}"
            );
            let answer = line.answer().expect("an answer");
            assert_eq!(answer.status, status, "{}", answer.head);
            assert_eq!(line.rest(), b"");
        }
    }
    // A short body leaves the connection usable for the next request.
    let mut line = server.open();
    line.send(request("POST", "/v1/apps/demo/call/none", "", b"short"));
    line.answer().unwrap().expect(404, "function-not-found");
    line.send(request("POST", "/v1/apps/demo/call/echo", "", b"next"));
    assert_eq!(line.answer().unwrap().ok().text(), "next");
    // So does a body that waits for `100 Continue`, if the server does not request it.
    let mut line = server.open();
    line.send("POST /v1/apps/demo/call/none HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    line.answer().unwrap().expect(404, "function-not-found");
    assert_eq!(line.rest(), b"");
    drop(line);
    server.stop();
}

/// With a concurrency limit of one, queued requests of disconnected clients are not run.
#[test]
fn disconnected_clients_are_removed_from_the_queue() {
    let home = Home::new();
    let server = home.start(&["--set", "limits.wall_time=60s"]);
    server.deploy_guest("demo");
    let path = "/v1/apps/demo/limits";
    let limits = br#"{"calls_at_once":1}"#;
    server.admin("PUT", path, "application/json", limits).ok();
    let nap = request("POST", "/v1/apps/demo/call/nap", "", b"");
    let mut first = server.open();
    first.send(&nap);
    server.wait_for_calls(1);
    // Half of them close the connection, half shut down their sending side and wait.
    let mut lines: Vec<_> = (0..40).map(|_| server.open()).collect();
    for line in &mut lines {
        line.send(&nap);
    }
    let mut half = lines.split_off(20);
    for line in &mut half {
        line.shut_down_write();
    }
    drop(lines);
    let mut patient = server.open();
    patient.send(&nap);
    for mut line in half {
        let answer = line.answer().unwrap();
        // One of them may have started before its disconnection was noticed.
        assert!(matches!(answer.status, 200 | 503), "{}", answer.head);
    }
    assert_eq!(first.answer().unwrap().ok().text(), "hello");
    assert_eq!(patient.answer().unwrap().ok().text(), "hello");
    let made = server.metric("kvasm_invocations_total{app=\"demo\",outcome=\"ok\"} ");
    assert!(made < 10, "{made} calls were made");
    server.stop();
}

#[test]
fn invalid_http_is_rejected_harmlessly() {
    let home = Home::new();
    let server = short_timeouts(&home);
    let long = "x".repeat(100 * 1024);
    let many = "X-A: 1\r\n".repeat(200);
    let bad = [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET /healthz HTTP/9.9\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
        format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!(
            "POST {HELLO} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"
        ),
    ];
    for bytes in &bad {
        let mut line = server.open();
        line.try_send(bytes);
        let shown = &bytes[..bytes.len().min(60)];
        if let Some(answer) = line.answer() {
            assert_eq!(answer.status / 100, 4, "{shown:?}: {}", answer.head);
        }
        server.assert_healthy();
    }
    // An endless body is rejected at the limit, one with a declared length before it is sent.
    let mut line = server.open();
    line.send(format!(
        "POST {HELLO} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..200 {
        if !line.try_send(&chunk) {
            break;
        }
    }
    drop(line);
    let mut line = server.open();
    line.send(format!(
        "POST {HELLO} HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n"
    ));
    line.answer().unwrap().expect(413, "body-too-large");
    server.assert_healthy();
    server.stop();
}

#[test]
fn ten_thousand_idle_connections_do_not_block_requests() {
    const WANTED: u64 = 10_000;
    let allowed = rlimit::increase_nofile_limit(WANTED + 1_000).unwrap();
    let connections = WANTED.min(allowed.saturating_sub(1_000));
    assert!(
        connections >= 4_000,
        "this process may open {allowed} files only"
    );
    let home = Home::new();
    let server = home.start(&["--set", "server.connections_of_address=none"]);
    server.deploy_guest("demo");
    let idle: Vec<_> = (0..connections).map(|_| server.open()).collect();
    let open = || {
        let metrics = server
            .admin("GET", "/metrics", "text/plain", b"")
            .ok()
            .text();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("kvasm_http_connections "));
        (line?.parse::<u64>().ok()? > connections).then_some(())
    };
    eventually("all connections are open", open);
    for _ in 0..20 {
        server.assert_healthy();
        assert_eq!(server.call("demo", "hello", b"").ok().text(), "hello");
    }
    drop(idle);
    server.stop();
}

#[test]
fn connections_over_the_limit_wait() {
    let home = Home::new();
    let server = home.start(&["--set", "server.connections=2"]);
    let mut first = server.open();
    let mut second = server.open();
    for line in [&mut first, &mut second] {
        line.send(request("GET", "/healthz", "", b""));
        line.answer().unwrap().ok();
    }
    let mut third = RawConnection::open(server.address, Arc::clone(&server.received));
    third.send(request("GET", "/healthz", "", b""));
    assert!(!third.has_data(Duration::from_millis(200)));
    drop(first);
    third.answer().unwrap().ok();
    drop((second, third));
    server.stop();
}
