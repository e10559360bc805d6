//! The administration address, and a stopping server.

use kvasm_tests::program::process::{Home, Server, eventually};
use kvasm_tests::program::raw_client::{RawConnection, Response, request};
use std::net::SocketAddr;
use std::sync::Arc;

const ADMIN: &str = "admin.listen=127.0.0.1:0";

/// The server's administration address.
fn admin_of(server: &Server) -> SocketAddr {
    let stdout = server.stdout();
    let (_, rest) = stdout.split_once("Administration on http://").unwrap();
    let (address, _) = rest.split_once('\n').unwrap();
    address.parse().unwrap()
}

#[track_caller]
fn ask(server: &Server, address: SocketAddr, path: &str, headers: &str) -> Response {
    let mut line = RawConnection::open(address, Arc::clone(&server.received));
    let headers = format!("Connection: close\r\n{headers}");
    line.send(request("GET", path, &headers, b""));
    line.answer().expect("an answer")
}

#[test]
fn health_and_metrics_can_have_a_separate_address() {
    let home = Home::new();
    let server = home.start(&["--set", ADMIN, "--set", "admin.api=false"]);
    server.deploy_guest("demo");
    let admin = admin_of(&server);
    ask(&server, admin, "/healthz", "").ok();
    ask(&server, admin, "/readyz", "").ok();
    let metrics = ask(&server, admin, "/metrics", "").ok().text();
    assert!(metrics.contains("kvasm_"), "{metrics}");
    ask(&server, admin, "/", "").expect(404, "route-not-found");
    // It serves nothing else, and the public address still serves the rest.
    ask(&server, admin, "/v1/apps", &server.authorization()).expect(404, "route-not-found");
    ask(&server, admin, "/a/demo/", "").expect(404, "route-not-found");
    server.get("/metrics").expect(401, "token-required");
    server.admin("GET", "/metrics", "text/plain", b"").ok();
    server.admin("GET", "/v1/apps", "text/plain", b"").ok();
    server.stop();
}

#[test]
fn api_and_console_are_only_at_the_admin_address() {
    let home = Home::new();
    let server = home.start(&[]);
    server.deploy_guest("demo");
    server.put("demo", "k", b"1").ok();
    let token = server.authorization();
    server.stop();

    let server = home.start(&["--set", ADMIN]);
    let admin = admin_of(&server);
    let console = ask(&server, admin, "/", "").ok();
    assert!(console.text().contains("<html"), "{}", console.text());
    server.get("/").expect(404, "route-not-found");
    ask(&server, admin, "/v1/apps", &token).ok();
    ask(&server, admin, "/v1/apps", "").expect(401, "token-required");
    ask(&server, admin, "/v1/apps/demo/tokens", "").expect(401, "token-required");
    ask(&server, admin, "/v1/openapi.json", "").ok();
    // A plugin's page would share the API's origin.
    ask(&server, admin, "/a/demo/", &token).expect(404, "route-not-found");

    let hidden = ["/v1/apps", "/v1/tokens", "/v1/audit", "/metrics"];
    let of_app = ["/v1/apps/demo", "/v1/apps/demo/tokens", "/v1/openapi.json"];
    for path in hidden.iter().chain(&of_app) {
        ask(&server, server.address, path, &token).expect(404, "route-not-found");
    }
    assert_eq!(server.call("demo", "hello", b"").ok().text(), "hello");
    server.get("/a/demo/").expect(404, "no-http-handler");
    let lost = ask(&server, server.address, "/v1/apps", &token).text();
    assert!(lost.contains("admin.listen"), "{lost}");
    assert!(!lost.contains(&admin.port().to_string()), "{lost}");
    server.get("/healthz").ok();
    server.get("/readyz").ok();
    server.stop();
}

/// What a page of another site can make a browser send does nothing at the administration address.
#[test]
fn pages_of_other_sites_reach_nothing_at_the_admin_address() {
    let home = Home::new();
    let server = home.start(&["--set", ADMIN]);
    let admin = admin_of(&server);
    let token = server.authorization();
    let send = |head: &str| {
        let mut line = RawConnection::open(admin, Arc::clone(&server.received));
        line.send(format!("{head}Connection: close\r\n{token}\r\n").into_bytes());
        line.answer().expect("an answer")
    };
    let port = admin.port();
    // A hostile name that resolves to this address: with DNS rebinding, the origin agrees.
    let foreign_hosts = [
        format!("evil.test:{port}"),
        "localhost.evil.test".to_owned(),
        "127.0.0.1.evil.test".to_owned(),
        "0.0.0.0".to_owned(),
    ];
    for host in &foreign_hosts {
        for path in ["/metrics", "/readyz", "/healthz", "/v1/apps"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n");
            send(&head).expect(421, "misdirected-request");
        }
        let absolute = format!("GET http://{host}/metrics HTTP/1.1\r\nHost: localhost\r\n");
        send(&absolute).expect(421, "misdirected-request");
    }
    for host in [format!("LocalHost:{port}"), "[::1]".to_owned()] {
        let answer = send(&format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n")).ok();
        // A page of another origin cannot load it as a script.
        let policy = answer.header("cross-origin-resource-policy");
        assert_eq!(policy, Some("same-origin"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    let change = |origin: &str| {
        let head = format!("POST /v1/apps HTTP/1.1\r\nHost: localhost:{port}\r\n{origin}");
        send(&format!("{head}Content-Length: 0\r\n"))
    };
    let of_plugin = format!("Origin: http://localhost:{}\r\n", server.address.port());
    let sites = ["same-site", "cross-site"].map(|site| format!("Sec-Fetch-Site: {site}\r\n"));
    let others = ["Origin: null\r\n".to_owned(), of_plugin];
    for foreign in others.iter().chain(&sites) {
        change(foreign).expect(403, "foreign-origin");
    }
    let own = format!("Origin: http://localhost:{port}\r\n");
    change(&own).expect(415, "unsupported-media-type");
    change("").expect(415, "unsupported-media-type");
    // No answer lets another origin read it.
    let asked = "Origin: https://evil.test\r\nAccess-Control-Request-Method: PUT\r\n";
    for method in ["OPTIONS", "GET"] {
        let head = format!("{method} /v1/apps HTTP/1.1\r\nHost: localhost\r\n{asked}");
        let answer = send(&head);
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{method}"
        );
    }
    server.stop();
}

/// A public address requires a token for metrics, unless the operator disables it.
#[test]
fn metrics_on_a_public_address_require_a_token() {
    let home = Home::new();
    let everywhere = "admin.listen=0.0.0.0:0";
    let local = |server: &Server| SocketAddr::from(([127, 0, 0, 1], admin_of(server).port()));
    let server = home.start(&["--set", everywhere]);
    ask(&server, local(&server), "/metrics", "").expect(401, "token-required");
    ask(&server, local(&server), "/metrics", &server.authorization()).ok();
    server.stop();
    let server = home.start(&["--set", everywhere, "--set", "admin.open=true"]);
    ask(&server, local(&server), "/metrics", "").ok();
    server.stop();
}

#[test]
fn exhausted_public_connections_leave_admin_reachable() {
    let home = Home::new();
    let server = home.start(&["--set", ADMIN, "--set", "server.connections=4"]);
    let admin = admin_of(&server);
    let mut idle: Vec<_> = (0..4).map(|_| server.open()).collect();
    for line in &mut idle {
        line.send(request("GET", "/healthz", "", b""));
        line.answer().unwrap().ok();
    }
    // The next connection has to wait; the administration address accepts one.
    let mut fifth = server.open();
    fifth.send(request("GET", "/healthz", "", b""));
    for path in ["/healthz", "/readyz", "/metrics"] {
        ask(&server, admin, path, "").ok();
    }
    assert!(!fifth.has_data(std::time::Duration::from_millis(10)));
    drop(idle);
    fifth.answer().unwrap().ok();
    server.stop();
}

#[test]
fn stopping_server_is_unready_but_serves_requests() {
    let home = Home::new();
    let mut server = home.start(&[
        "--set",
        ADMIN,
        "--set",
        "admin.api=false",
        "--set",
        "server.shutdown_delay=1h",
    ]);
    server.deploy_guest("demo");
    server.get("/readyz").ok();
    let admin = admin_of(&server);
    server.signal("TERM");
    let told = eventually("the server to be unready", || {
        let answer = server.get("/readyz");
        (answer.status == 503).then_some(answer)
    });
    assert!(told.expect(503, "not-ready").text().contains("stopping"));
    ask(&server, admin, "/readyz", "").expect(503, "not-ready");
    assert_eq!(server.call("demo", "hello", b"").ok().text(), "hello");
    server.get("/healthz").ok();
    assert!(server.is_running());
    // A second signal skips the delay.
    server.signal("TERM");
    assert_eq!(server.code(), Some(130), "{}", server.stderr());
}

#[test]
fn server_exits_after_the_shutdown_delay() {
    let home = Home::new();
    let server = home.start(&["--set", "server.shutdown_delay=300ms"]);
    server.get("/readyz").ok();
    server.stop();
}
