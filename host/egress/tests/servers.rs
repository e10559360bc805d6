//! Servers that answer badly, or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod kit;

use kit::*;
use kvasm_egress::EgressConfig;
use kvasm_service::{OutboundBlame, OutboundError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Returns the error for a server that answers with these bytes, and closes the connection.
async fn error_for(answer: impl AsRef<[u8]>, config: EgressConfig) -> OutboundError {
    let answer: std::sync::Arc<[u8]> = answer.as_ref().into();
    let server = Server::start(move |mut stream| {
        let answer = std::sync::Arc::clone(&answer);
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(&answer).await;
        }
    });
    let server = server.await;
    let client = Client::new(config);
    let result = client.get(&server.url("/")).await;
    let error = result.expect_err("an error");
    client.wait_for_metric("kvasm_fetch_connections", 0).await;
    assert_eq!(error.blame(), OutboundBlame::Remote, "{error}");
    error
}

#[tokio::test]
async fn silent_server_times_out() {
    let server = Server::start(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    });
    let server = server.await;
    let client = Client::new(on_loopback());
    let mut request = get(&server.url("/"));
    request.timeout = Some(Duration::from_millis(50));
    let error = client.send(request).await.unwrap_err();
    assert!(matches!(error, OutboundError::Timeout { .. }), "{error}");
    assert!(error.to_string().ends_with("within 50 ms"), "{error}");
    client.wait_for_metric("kvasm_fetch_connections", 0).await;
    assert_eq!(client.metric("kvasm_fetches_running"), 0);
}

#[tokio::test]
async fn deadline_of_the_call_ends_a_request() {
    let server = Server::start(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    });
    let server = server.await;
    let client = Client::new(on_loopback());
    let sent = client.send_within(get(&server.url("/")), Duration::from_millis(50));
    let error = sent.await.unwrap_err();
    assert!(matches!(error, OutboundError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn server_that_does_not_finish_its_handshake_times_out() {
    let server = Server::start(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    });
    let server = server.await;
    let config = EgressConfig {
        connect_timeout: Duration::from_millis(50),
        ..on_loopback()
    };
    let client = Client::new(config);
    let url = server.url("/").replace("http:", "https:");
    let error = client.get(&url).await.unwrap_err();
    assert!(matches!(error, OutboundError::Timeout { .. }), "{error}");
    client.wait_for_metric("kvasm_fetch_connections", 0).await;
}

#[tokio::test]
async fn dripping_server_times_out() {
    for head in ["", "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"] {
        let server = Server::start(move |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(head.as_bytes()).await;
            // Bytes of a status line, or of the body.
            for byte in b"HTTP/1.1 ".iter().chain(std::iter::repeat(&b'2')) {
                if stream.write_u8(*byte).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let server = server.await;
        let client = Client::new(on_loopback());
        let mut request = get(&server.url("/"));
        request.timeout = Some(Duration::from_millis(200));
        let error = client.send(request).await.unwrap_err();
        let is_ended = matches!(
            error,
            OutboundError::Timeout { .. } | OutboundError::Broken { .. }
        );
        assert!(is_ended, "{error}");
        client.wait_for_metric("kvasm_fetch_connections", 0).await;
    }
}

#[tokio::test]
async fn body_of_1_gb_is_not_read() {
    let announced = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
    let error = error_for(announced, on_loopback()).await;
    assert!(
        error.to_string().contains("larger than 4194304 bytes"),
        "{error}"
    );
    // Without an announcement it is read up to the limit.
    for head in ["transfer-encoding: chunked", "connection: close"] {
        let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n");
        let is_chunked = head.contains("chunked");
        let server = Server::start(move |mut stream| {
            let head = head.clone();
            async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(head.as_bytes()).await;
                let mut part = vec![b'x'; 64 * 1024];
                if is_chunked {
                    part = [b"10000\r\n", &part[..], b"\r\n"].concat();
                }
                for _ in 0..16 * 1024 {
                    if stream.write_all(&part).await.is_err() {
                        return;
                    }
                }
                panic!("the client has read 1 GB");
            }
        });
        let server = server.await;
        let client = Client::new(on_loopback());
        let error = client.get(&server.url("/")).await.unwrap_err();
        let is_too_large = matches!(error, OutboundError::ResponseTooLarge { what: "body", .. });
        assert!(is_too_large, "{error}");
        client.wait_for_metric("kvasm_fetch_connections", 0).await;
    }
}

#[tokio::test]
async fn body_at_the_limit_is_returned() {
    let config = EgressConfig {
        response_bytes: 5,
        ..on_loopback()
    };
    let client = Client::new(config);
    let server = Server::answering(ok("hello")).await;
    assert_eq!(client.get(&server.url("/")).await.unwrap().body, "hello");
    let server = Server::answering(ok("hello!")).await;
    assert!(client.get(&server.url("/")).await.is_err());
}

#[tokio::test]
async fn compressed_bomb_stays_compressed() {
    // It says that it is gzip; nothing looks into it.
    let bomb = "\u{1f}not really gzip, and never decompressed";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n{bomb}",
        bomb.len()
    );
    let server = Server::answering(answer).await;
    let response = Client::new(on_loopback())
        .get(&server.url("/"))
        .await
        .unwrap();
    assert_eq!(response.body, bomb);
    let encoding = ("content-encoding".to_owned(), "gzip".to_owned());
    assert!(
        response.headers.contains(&encoding),
        "{:?}",
        response.headers
    );
}

#[tokio::test]
async fn broken_responses_are_errors() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\na\0b: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "hello",
        "SSH-2.0-OpenSSH_9.9\r\n",
    ] {
        let error = error_for(answer, on_loopback()).await;
        assert!(
            matches!(error, OutboundError::Broken { .. }),
            "{answer:?}: {error}"
        );
        assert!(error.to_string().len() < 400, "{error}");
    }
}

#[tokio::test]
async fn endless_informational_responses_time_out() {
    let server = Server::start(|mut stream| async move {
        read_head(&mut stream).await;
        while stream
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await
            .is_ok()
        {}
    });
    let server = server.await;
    let client = Client::new(on_loopback());
    let mut request = get(&server.url("/"));
    request.timeout = Some(Duration::from_millis(200));
    client.send(request).await.unwrap_err();
    client.wait_for_metric("kvasm_fetch_connections", 0).await;
}

#[tokio::test]
async fn headers_beyond_the_limits_are_errors() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(129));
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(70 * 1024));
    let endless = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(70 * 1024));
    for answer in [many, large, endless] {
        let error = error_for(&answer, on_loopback()).await;
        let is_too_large = matches!(
            error,
            OutboundError::ResponseTooLarge {
                what: "list of headers",
                ..
            }
        );
        assert!(is_too_large, "{error}");
    }
}

#[tokio::test]
async fn headers_of_the_connection_are_not_for_the_plugin() {
    let server = Server::answering(
        "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\n\
         proxy-authenticate: x\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nlatin: \u{e9}\r\n\
         content-length: 0\r\n\r\n",
    );
    let server = server.await;
    let response = Client::new(on_loopback())
        .get(&server.url("/"))
        .await
        .unwrap();
    let names: Vec<_> = response
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        names,
        ["set-cookie", "set-cookie", "latin", "content-length"]
    );
}
