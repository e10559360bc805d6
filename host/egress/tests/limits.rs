//! Limits, kept connections and what is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod kit;

use kit::*;
use kvasm_egress::EgressConfig;
use kvasm_service::{OutboundBlame, OutboundError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn ten_thousand_requests_use_few_connections() {
    let server = Server::answering(ok("hello")).await;
    let client = Client::new(on_loopback());
    for _ in 0..10_000 {
        let response = client.get(&server.url("/")).await.unwrap();
        assert_eq!(response.body, "hello");
    }
    assert!(server.count() <= 10, "{} connections", server.count());
    assert!(client.metric("kvasm_fetch_connections") <= 8);
    assert_eq!(
        client.metric("kvasm_fetches_total{app=\"demo\",outcome=\"ok\"}"),
        10_000
    );
    let received = client.metric("kvasm_fetch_bytes_total{app=\"demo\",direction=\"received\"}");
    assert_eq!(received, 50_000);
}

#[tokio::test]
async fn requests_beyond_the_rate_are_refused_for_their_app_alone() {
    let server = Server::answering(ok("")).await;
    let config = EgressConfig {
        per_second: 10,
        ..on_loopback()
    };
    let client = Client::new(config);
    let mut refused = 0;
    for _ in 0..10_000 {
        match client.get(&server.url("/")).await {
            Ok(_) => {}
            Err(error) => {
                assert!(
                    matches!(error, OutboundError::Rate { limit: 10 }),
                    "{error}"
                );
                assert_eq!(error.blame(), OutboundBlame::Guest);
                refused += 1;
            }
        }
    }
    // 10 at once, and 10 per second of the test.
    assert!(refused > 0);
    client.of_other_app().get(&server.url("/")).await.unwrap();
}

/// Starts a server that counts its requests in progress, and answers once `release` has permits.
async fn waiting_server(
    running: &Arc<AtomicUsize>,
    release: &Arc<tokio::sync::Semaphore>,
) -> Server {
    let (running, release) = (Arc::clone(running), Arc::clone(release));
    Server::start(move |mut stream| {
        let (running, release) = (Arc::clone(&running), Arc::clone(&release));
        async move {
            while read_head(&mut stream).await.is_some() {
                running.fetch_add(1, Ordering::SeqCst);
                release.acquire().await.unwrap().forget();
                running.fetch_sub(1, Ordering::SeqCst);
                stream.write_all(ok("").as_bytes()).await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn requests_at_once_are_limited_for_each_app() {
    let (running, release) = (Arc::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    let server = waiting_server(&running, &release).await;
    let config = EgressConfig {
        at_once_per_app: 2,
        ..on_loopback()
    };
    let client = Arc::new(Client::new(config));
    let url = server.url("/");
    let fetch = |client: &Arc<Client>| {
        let (client, url) = (Arc::clone(client), url.clone());
        tokio::spawn(async move { client.get(&url).await.map(drop) })
    };
    let mut sent: Vec<_> = (0..5).map(|_| fetch(&client)).collect();
    wait_until("two requests", || running.load(Ordering::SeqCst) == 2).await;
    // The next one of the app does not get its turn.
    let mut request = get(&url);
    request.timeout = Some(Duration::from_millis(50));
    let error = client.send(request).await.unwrap_err();
    assert!(matches!(error, OutboundError::Busy), "{error}");
    assert_eq!(running.load(Ordering::SeqCst), 2);
    assert_eq!(client.metric("kvasm_fetches_running"), 2);
    // Another app does.
    sent.push(fetch(&Arc::new(client.of_other_app())));
    wait_until("a third request", || running.load(Ordering::SeqCst) == 3).await;
    release.add_permits(6);
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    assert_eq!(client.metric("kvasm_fetches_running"), 0);
}

#[tokio::test]
async fn dropped_request_closes_its_connection() {
    let (running, release) = (Arc::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    let server = waiting_server(&running, &release).await;
    let client = Arc::new(Client::new(on_loopback()));
    let (of_task, url) = (Arc::clone(&client), server.url("/"));
    let task = tokio::spawn(async move { of_task.get(&url).await.map(drop) });
    wait_until("the request", || running.load(Ordering::SeqCst) == 1).await;
    task.abort();
    client.wait_for_metric("kvasm_fetch_connections", 0).await;
    let interrupted = "kvasm_fetches_total{app=\"demo\",outcome=\"interrupted\"}";
    client.wait_for_metric(interrupted, 1).await;
    assert_eq!(client.metric("kvasm_fetches_running"), 0);
}

#[tokio::test]
async fn idle_connections_are_limited_and_closed_in_time() {
    let mut servers = Vec::new();
    for _ in 0..6 {
        servers.push(Server::answering(ok("")).await);
    }
    let config = EgressConfig {
        idle_per_app: 2,
        idle: 3,
        ..on_loopback()
    };
    let client = Client::new(config.clone());
    let other = client.of_other_app();
    for server in &servers {
        client.get(&server.url("/")).await.unwrap();
        other.get(&server.url("/")).await.unwrap();
    }
    client.wait_for_metric("kvasm_fetch_connections", 3).await;
    let config = EgressConfig {
        idle_timeout: Duration::from_millis(20),
        ..config
    };
    let client = Client::new(config);
    client.get(&servers[0].url("/")).await.unwrap();
    client.wait_for_metric("kvasm_fetch_connections", 0).await;
}

#[tokio::test]
async fn apps_do_not_share_connections() {
    let server = Server::answering(ok("")).await;
    let client = Client::new(on_loopback());
    let other = client.of_other_app();
    for _ in 0..3 {
        client.get(&server.url("/")).await.unwrap();
        other.get(&server.url("/")).await.unwrap();
    }
    assert_eq!(server.count(), 2);
}

/// A server that answers the first request of each connection, and closes the connection when it
/// has received a second one.
async fn forgetful_server(requests: &Arc<AtomicUsize>) -> Server {
    let requests = Arc::clone(requests);
    Server::start(move |mut stream| {
        let requests = Arc::clone(&requests);
        async move {
            read_head(&mut stream).await;
            requests.fetch_add(1, Ordering::SeqCst);
            stream.write_all(ok("").as_bytes()).await.unwrap();
            if read_head(&mut stream).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await
}

#[tokio::test]
async fn only_idempotent_request_is_repeated_after_its_kept_connection_ended() {
    let requests = Arc::default();
    let server = forgetful_server(&requests).await;
    let client = Client::new(on_loopback());
    client.get(&server.url("/")).await.unwrap();
    client.get(&server.url("/")).await.unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    let post = client.send(request("POST", &server.url("/"), "")).await;
    let error = post.unwrap_err();
    assert!(matches!(error, OutboundError::Broken { .. }), "{error}");
    assert!(error.may_have_been_sent());
    assert_eq!(requests.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn request_is_sent_once_and_as_it_is() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut stream| {
        let sender = sender.clone();
        async move {
            let head = read_head(&mut stream).await.unwrap();
            let mut body = vec![0; 4];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(ok("").as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            sender.send((head, body, rest)).unwrap();
        }
    });
    let server = server.await;
    let client = Client::new(on_loopback());
    let mut request = request("POST", &server.url("/a/../b?c=%0d%0a"), "body");
    request.headers = vec![("X-A".to_owned(), "1".to_owned())];
    client.send(request).await.unwrap();
    let port = server.address.port();
    drop(client);
    let (head, body, rest) = seen.recv().await.unwrap();
    let expected = format!(
        "POST /b?c=%0d%0a HTTP/1.1\r\nx-a: 1\r\nhost: server.test:{port}\r\ncontent-length: \
         4\r\n\r\n"
    );
    assert_eq!(head, expected);
    assert_eq!((&body[..], &rest[..]), (&b"body"[..], &b""[..]));
}

#[tokio::test]
async fn requests_cannot_be_smuggled() {
    let trap = Server::start(|_| async {}).await;
    let client = Client::new(on_loopback());
    let url = trap.url("/");
    for (method, name, value) in [
        ("GET", "transfer-encoding", "chunked"),
        ("POST", "Content-Length", "0"),
        ("GET", "a", "b\r\n\r\nGET /admin HTTP/1.1"),
        ("GET", "a\r\nb", "c"),
        ("GET", "host", "other.test"),
        ("GET", "connection", "upgrade"),
        ("GET", "upgrade", "h2c"),
        ("GET", "expect", "100-continue"),
        ("GET / HTTP/1.1\r\nhost: other.test\r\n\r\nGET", "a", "b"),
        ("CONNECT", "a", "b"),
        ("TRACE", "a", "b"),
    ] {
        let mut request = request(method, &url, "0\r\n\r\n");
        request.headers = vec![(name.to_owned(), value.to_owned())];
        let error = client.send(request).await.unwrap_err();
        assert!(
            matches!(error, OutboundError::Invalid(_)),
            "{method:?} {name:?}: {error}"
        );
        assert_eq!(error.blame(), OutboundBlame::Guest);
        assert!(!error.may_have_been_sent());
    }
    assert_eq!(trap.count(), 0);
}

#[tokio::test]
async fn second_response_is_not_that_of_the_next_request() {
    let two = format!("{}{}", ok("first"), ok("second"));
    let server = Server::answering(two).await;
    let client = Client::new(on_loopback());
    for _ in 0..20 {
        let response = client.get(&server.url("/")).await.unwrap();
        assert_eq!(response.body, "first");
    }
}

#[tokio::test]
async fn response_before_the_end_of_the_request_does_not_block_the_next_one() {
    let server = Server::start(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(ok("").as_bytes()).await.unwrap();
        // It never reads the body.
        std::future::pending::<()>().await;
    });
    let server = server.await;
    let config = EgressConfig {
        request_bytes: 64 * 1024 * 1024,
        ..on_loopback()
    };
    let client = Client::new(config);
    let large = "x".repeat(32 * 1024 * 1024);
    for _ in 0..3 {
        let sent = client.send(request("PUT", &server.url("/"), &large)).await;
        assert_eq!(sent.unwrap().status, 200);
    }
}
