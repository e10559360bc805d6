//! Which servers the client connects to, with real sockets and a scripted resolver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod kit;

use kit::*;
use kvasm_egress::{Egress, EgressConfig};
use kvasm_metrics::Metrics;
use kvasm_service::{Outbound, OutboundBlame, OutboundCaller, OutboundError};
use std::sync::atomic::Ordering;
use std::time::Instant;

fn is_refused(result: &Result<kvasm_service::OutboundResponse, OutboundError>) -> bool {
    matches!(result, Err(OutboundError::Refused { .. }))
}

#[tokio::test]
async fn granted_origin_is_reached_over_its_checked_address() {
    let server = Server::answering(ok("hello")).await;
    let client = Client::new(on_loopback());
    let response = client.get(&server.url("/a?b")).await.unwrap();
    assert_eq!((response.status, &response.body[..]), (200, &b"hello"[..]));
    let asked = client.permissions.asked.lock().unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].to_string(), server.url(""));
}

#[tokio::test]
async fn origin_without_permission_is_denied_before_its_name_is_resolved() {
    let server = Server::answering(ok("hello")).await;
    let client = Client::resolving(on_loopback(), &[]);
    client.permissions.revoked.store(true, Ordering::Relaxed);
    let error = client.get(&server.url("/")).await.unwrap_err();
    assert!(matches!(error, OutboundError::Denied(_)), "{error}");
    assert_eq!(error.blame(), OutboundBlame::Operator);
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn revoked_permission_ends_requests_over_a_kept_connection() {
    let server = Server::answering(ok("hello")).await;
    let client = Client::new(on_loopback());
    client.get(&server.url("/")).await.unwrap();
    client.permissions.revoked.store(true, Ordering::Relaxed);
    let error = client.get(&server.url("/")).await.unwrap_err();
    assert!(matches!(error, OutboundError::Denied(_)), "{error}");
}

#[tokio::test]
async fn name_that_is_rebound_to_a_refused_address_is_refused() {
    let closing = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let first = Server::answering(closing).await;
    let port = first.address.port();
    // The trap has the same port on another address of loopback.
    let trap = Server::start_on(&format!("127.0.0.2:{port}"), |_| async {}).await;
    let config = EgressConfig {
        allow_networks: vec!["127.0.0.1/32".parse().unwrap()],
        ..on_loopback()
    };
    let answers: &[&[&str]] = &[&["127.0.0.1"], &["127.0.0.2"]];
    let client = Client::resolving(config, &[("server.test", answers)]);
    assert_eq!(client.get(&first.url("/")).await.unwrap().status, 200);
    client.wait_for_metric("kvasm_fetch_connections", 0).await;
    let again = client.get(&first.url("/")).await;
    assert!(is_refused(&again), "{again:?}");
    assert_eq!((first.count(), trap.count()), (1, 0));
}

#[tokio::test]
async fn name_with_one_refused_address_among_others_is_refused() {
    let server = Server::answering(ok("")).await;
    for other in ["10.0.0.1", "::1", "169.254.169.254"] {
        let answers: &[&[&str]] = &[&["127.0.0.1", other]];
        let client = Client::resolving(on_loopback(), &[("server.test", answers)]);
        let result = client.get(&server.url("/")).await;
        assert!(is_refused(&result), "{other}: {result:?}");
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn names_of_addresses_that_are_not_public_are_refused() {
    let trap = Server::start(|_| async {}).await;
    for address in [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "169.254.169.254",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
        "240.0.0.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::127.0.0.1",
        "2002:7f00:1::1",
        "fe80::1",
        "fd00:ec2::254",
        "ff02::1",
    ] {
        let client = Client::resolving(EgressConfig::default(), &[("server.test", &[&[address]])]);
        let result = client.get(&trap.url("/")).await;
        let error = result.unwrap_err();
        assert!(
            matches!(error, OutboundError::Refused { .. }),
            "{address}: {error}"
        );
        assert_eq!(error.blame(), OutboundBlame::Operator);
        // The plugin does not learn what is inside.
        assert!(!error.to_string().contains(address), "{error}");
        let refused = client.metric("kvasm_fetches_total{app=\"demo\",outcome=\"refused\"}");
        assert_eq!(refused, 1);
    }
    assert_eq!(trap.count(), 0);
}

#[tokio::test]
async fn addresses_in_urls_are_refused_in_each_spelling() {
    let trap = Server::start(|_| async {}).await;
    let port = trap.address.port();
    let client = Client::resolving(EgressConfig::default(), &[]);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "１２７.0.0.1",
        "127。0。0。1",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "[::ffff:a9fe:a9fe]",
    ] {
        let result = client.get(&format!("http://{host}:{port}/")).await;
        assert!(is_refused(&result), "{host}: {result:?}");
    }
    assert_eq!(trap.count(), 0);
}

#[tokio::test]
async fn localhost_by_the_systems_resolver_is_refused() {
    let trap = Server::start(|_| async {}).await;
    let egress = Egress::new(EgressConfig::default(), Metrics::default()).unwrap();
    let permissions = Permitted::default();
    let caller = OutboundCaller {
        app: kvasm_core::AppId::generate(),
        app_name: "demo",
        permissions: &permissions,
        deadline: Instant::now() + PATIENCE,
    };
    let url = format!("http://localhost:{}/", trap.address.port());
    let result = egress.fetch(caller, get(&url)).await;
    assert!(is_refused(&result), "{result:?}");
    assert_eq!(trap.count(), 0);
}

#[tokio::test]
async fn redirect_is_returned_and_its_private_target_is_refused() {
    let trap = Server::start_on("127.0.0.2:0", |_| async {}).await;
    let target = format!("http://127.0.0.2:{}/", trap.address.port());
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n");
    let server = Server::answering(answer).await;
    let config = EgressConfig {
        allow_networks: vec!["127.0.0.1/32".parse().unwrap()],
        ..on_loopback()
    };
    let client = Client::new(config);
    let response = client.get(&server.url("/")).await.unwrap();
    assert_eq!(response.status, 302);
    let location = response.headers.iter().find(|(name, _)| name == "location");
    let location = &location.expect("a location").1;
    assert_eq!(*location, target);
    let result = client.get(location).await;
    assert!(is_refused(&result), "{result:?}");
    assert_eq!(trap.count(), 0);
}

#[tokio::test]
async fn denied_port_and_denied_network_are_refused() {
    let client = Client::new(on_loopback());
    let result = client.get("http://server.test:25/").await;
    let error = result.unwrap_err();
    assert!(
        error.to_string().contains("its port is not allowed"),
        "{error}"
    );
    let server = Server::answering(ok("")).await;
    let config = EgressConfig {
        deny: vec!["127.0.0.1".parse().unwrap()],
        ..on_loopback()
    };
    let result = Client::new(config).get(&server.url("/")).await;
    assert!(is_refused(&result), "{result:?}");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn next_address_is_tried_if_one_does_not_answer() {
    let server = Server::answering(ok("hello")).await;
    // Nothing listens on the same port of the first address.
    let answers: &[&[&str]] = &[&["127.0.0.3", "127.0.0.1"]];
    let client = Client::resolving(on_loopback(), &[("server.test", answers)]);
    assert_eq!(client.get(&server.url("/")).await.unwrap().status, 200);
    let answers: &[&[&str]] = &[&["127.0.0.3"]];
    let client = Client::resolving(on_loopback(), &[("server.test", answers)]);
    let error = client.get(&server.url("/")).await.unwrap_err();
    assert!(matches!(error, OutboundError::Connect { .. }), "{error}");
    assert!(!error.to_string().contains("127.0.0.3"), "{error}");
}

#[tokio::test]
async fn unknown_name_is_the_servers_fault() {
    let client = Client::resolving(on_loopback(), &[("empty.test", &[&[]])]);
    for name in ["unknown.test", "empty.test"] {
        let error = client.get(&format!("http://{name}/")).await.unwrap_err();
        assert!(matches!(error, OutboundError::Name { .. }), "{error}");
        assert_eq!(error.blame(), OutboundBlame::Remote);
    }
}
