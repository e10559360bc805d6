//! A proxy in front of Postgres that counts round trips and can stall the connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// The counters of a proxy, and its controls.
#[derive(Default)]
pub struct ProxyStats {
    /// Queries and executions, each of which waits for a result.
    pub statements: AtomicUsize,
    /// Syncs without a preceding execution: pings.
    pub pings: AtomicUsize,
    /// Statements that were prepared.
    pub prepared: AtomicUsize,
    /// While set, nothing is forwarded and nothing is closed.
    pub stalled: AtomicBool,
    /// Connections that were opened.
    pub connections: AtomicUsize,
}

impl ProxyStats {
    /// Statements, pings and preparations so far.
    pub fn seen(&self) -> [usize; 3] {
        [&self.statements, &self.pings, &self.prepared].map(|count| count.load(Ordering::SeqCst))
    }
}

/// Starts a proxy for a URL, and returns the URL of the proxy.
pub async fn start(url: &str) -> (String, Arc<ProxyStats>) {
    let (head, database) = url.rsplit_once('/').expect("a database");
    let server = head.rsplit('@').next().expect("an address").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let line = Arc::new(ProxyStats::default());
    let shared = Arc::clone(&line);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let Ok(server) = TcpStream::connect(&server).await else {
                continue;
            };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(forward(from_client, to_server, Arc::clone(&shared), true));
            tokio::spawn(forward(from_server, to_client, Arc::clone(&shared), false));
        }
    });
    (
        format!("postgres://postgres@{address}/{database}?sslmode=disable"),
        line,
    )
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    line: Arc<ProxyStats>,
    counts: bool,
) {
    let mut counter = Counter::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(len @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        while line.stalled.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if counts {
            counter.read(&buffer[..len], &line);
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

/// Parses the client's messages: after the startup message, a type byte and a length each.
#[derive(Default)]
struct Counter {
    pending: Vec<u8>,
    started: bool,
    executed: bool,
    parsed: bool,
}

impl Counter {
    fn read(&mut self, bytes: &[u8], line: &ProxyStats) {
        self.pending.extend_from_slice(bytes);
        loop {
            let kind_len = usize::from(self.started);
            let Some(length) = self.pending.get(kind_len..kind_len + 4) else {
                return;
            };
            let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
            if self.pending.len() < kind_len + length {
                return;
            }
            let message: Vec<u8> = self.pending.drain(..kind_len + length).collect();
            if self.started {
                self.count(message[0], line);
            }
            self.started = true;
        }
    }

    fn count(&mut self, kind: u8, line: &ProxyStats) {
        let add = |count: &AtomicUsize| {
            count.fetch_add(1, Ordering::SeqCst);
        };
        match kind {
            b'Q' => add(&line.statements),
            b'P' => self.parsed = true,
            b'E' => self.executed = true,
            b'S' => {
                match (self.executed, self.parsed) {
                    (true, _) => add(&line.statements),
                    (false, true) => add(&line.prepared),
                    (false, false) => add(&line.pings),
                }
                (self.executed, self.parsed) = (false, false);
            }
            _ => {}
        }
    }
}
