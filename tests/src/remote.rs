//! Another server, for outbound requests of guests, and hosts that may reach it.

use kvasm::egress::{Egress, EgressConfig};
use kvasm::metrics::Metrics;
use kvasm::model::{App, Grant, OriginPattern};
use kvasm::{Host, HostBuilder};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

/// A server on loopback. It ends when it is dropped.
pub struct RemoteServer {
    /// Its origin.
    pub origin: String,
    /// The heads of the requests, in lower case, once each was received.
    pub seen: mpsc::UnboundedReceiver<String>,
    /// Permits to answer a request; by default as many as needed.
    pub answers: Arc<Semaphore>,
    /// The number of connections.
    pub connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for RemoteServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RemoteServer {
    /// Starts a server that answers each request, which has no body, with "hello".
    pub async fn start() -> RemoteServer {
        RemoteServer::answering("HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 5\r\n\r\nhello").await
    }

    /// Starts a server that answers each request with the same bytes.
    pub async fn answering(answer: &str) -> RemoteServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let answers = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS / 2));
        let (sender, seen) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let (permits, count, answer) = (
            Arc::clone(&answers),
            Arc::clone(&connections),
            Arc::<str>::from(answer),
        );
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (sender, permits) = (sender.clone(), Arc::clone(&permits));
                running.spawn(serve(stream, sender, permits, Arc::clone(&answer)));
            }
        });
        RemoteServer {
            origin,
            seen,
            answers,
            connections,
            task,
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: mpsc::UnboundedSender<String>,
    answers: Arc<Semaphore>,
    answer: Arc<str>,
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else {
                return;
            };
            head.push(byte);
        }
        let _ = seen.send(String::from_utf8(head).unwrap().to_lowercase());
        answers.acquire().await.unwrap().forget();
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Lets a host send requests to loopback.
pub fn with_egress(builder: HostBuilder) -> HostBuilder {
    let patience = Duration::from_secs(60);
    let config = EgressConfig {
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        connect_timeout: patience,
        timeout: patience,
        per_second: 1_000_000,
        ..EgressConfig::default()
    };
    let metrics = Metrics::default();
    let client = Egress::new(config, metrics.clone()).unwrap();
    builder.metrics(metrics).outbound(client)
}

fn origin_grant(origin: &str) -> Vec<Grant> {
    let origin = OriginPattern::parse(origin).unwrap();
    vec![Grant::HttpOrigin { origin }]
}

/// Grants an origin to an app.
pub async fn grant_origin(host: &Host, app: &App, origin: &str) {
    let actor = host.operator("test");
    let granted = host.admin().add_grants(&actor, app, origin_grant(origin));
    assert_eq!(granted.await.unwrap(), 1);
}

/// Revokes the grant of an origin.
pub async fn revoke_origin(host: &Host, app: &App, origin: &str) {
    let actor = host.operator("test");
    let revoked = host
        .admin()
        .revoke_grants(&actor, app, origin_grant(origin));
    assert_eq!(revoked.await.unwrap(), 1);
}

/// The line that declares an origin.
pub fn origin_line(origin: &str) -> String {
    format!(r#"{{"kind":"http_origin","origin":"{origin}"}}"#)
}

/// A request's frame as data of a module in the text format, and a call of `http_fetch` with it,
/// whose response goes to address 8192.
pub fn fetch(head: &str, body: &str) -> (String, String) {
    let prefix = kvasm_abi::http::prefix(head.len()).unwrap();
    let frame = [&prefix, head.as_bytes(), body.as_bytes()].concat();
    let data: String = frame.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let len = frame.len();
    let call = format!(
        "(call $http_fetch (i32.const 0) (i32.const {len}) (i32.const 8192) (i32.const 8192))"
    );
    (data, call)
}

/// The head of a `GET`.
pub fn get_head(url: &str) -> String {
    format!(r#"{{"method":"GET","url":"{url}"}}"#)
}
