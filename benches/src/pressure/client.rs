//! HTTP requests, each on a new connection unless it is kept.

use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A client with or without a token.
#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
    token: Option<String>,
}

impl Client {
    pub fn new(address: SocketAddr, token: Option<String>) -> Client {
        Client { address, token }
    }

    pub fn anonymous(&self) -> Client {
        Client::new(self.address, None)
    }

    /// The head of a request with a body of `length` bytes.
    pub fn head(&self, method: &str, path: &str, content_type: &str, length: usize) -> String {
        let token = match &self.token {
            Some(token) => format!("Authorization: Bearer {token}\r\n"),
            None => String::new(),
        };
        format!(
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n{token}\
             Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
        )
    }

    /// Sends a request. Returns the status and the body of its response.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let head = self.head(method, path, content_type, body.len());
        // A server that rejects a request may close before it has read everything.
        let sent = stream.write_all(&[head.as_bytes(), body].concat()).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        if answer.is_empty() {
            sent?;
            read?;
        }
        let status = answer.get(9..12).context("no answer")?;
        let status = std::str::from_utf8(status)?.parse()?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let body = answer.split_off((end.context("no head")? + 4).min(answer.len()));
        Ok((status, body))
    }

    /// Like [`send`](Client::send), for a request that must succeed.
    pub async fn expect(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Vec<u8>> {
        let (status, answer) = self.send(method, path, content_type, body).await?;
        let text = String::from_utf8_lossy(&answer);
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: {status} {text}"
        );
        Ok(answer)
    }
}

/// A number from a process's status file, in KiB or without a unit.
pub fn status(process: u32, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(figure.context("no such figure")?.parse()?)
}

/// The resident memory of a process, in MiB.
pub fn resident_mib(process: u32) -> Result<f64> {
    Ok(status(process, "VmRSS")? / 1024.0)
}
