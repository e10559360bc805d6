//! Load over HTTP/1.1: one request, sent repeatedly on persistent connections.

use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

/// When to send the next request.
#[derive(Clone, Copy)]
pub enum Pace {
    /// This long after the last request was sent, or when its response arrives, if that is
    /// later.
    Every(Duration),
}

/// The results of a load.
#[derive(Default)]
pub struct LoadResult {
    /// Successes per second.
    pub rate: f64,
    /// Successes.
    pub answers: u64,
    /// Responses with another status.
    pub failed: u64,
}

/// A request to a server.
#[derive(Clone)]
pub struct Load {
    address: SocketAddr,
    request: Vec<u8>,
}

impl Load {
    pub fn post(address: SocketAddr, path: &str) -> Load {
        Load::post_with(address, path, "")
    }

    /// A POST request with a body.
    pub fn post_with(address: SocketAddr, path: &str, body: &str) -> Load {
        Load::post_as(address, path, "", body)
    }

    /// A POST request with more headers, each with its line ending, and a body.
    pub fn post_as(address: SocketAddr, path: &str, headers: &str, body: &str) -> Load {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        Load {
            address,
            request: request.into_bytes(),
        }
    }

    /// Responses per second on `connections` connections, each of which sends a request as soon
    /// as it has received a response.
    pub async fn rate(&self, connections: usize, time: Duration) -> Result<f64> {
        let counted = self.count(connections, time).await?;
        let failed = counted.failed;
        anyhow::ensure!(failed == 0, "{failed} responses were not 200");
        Ok(counted.rate)
    }

    /// Like [`rate`](Load::rate), but also counts unsuccessful responses.
    pub async fn count(&self, connections: usize, time: Duration) -> Result<LoadResult> {
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        for _ in 0..connections {
            let load = self.clone();
            tasks.spawn(async move {
                let mut line = Connection::open(&load).await?;
                let (mut answers, mut failed) = (0_u64, 0_u64);
                while start.elapsed() < time {
                    match line.ask(&load.request).await? {
                        200 => answers += 1,
                        _ => failed += 1,
                    }
                }
                Ok::<_, anyhow::Error>((answers, failed))
            });
        }
        let (mut answers, mut failed) = (0, 0);
        while let Some(task) = tasks.join_next().await {
            let (a, f) = task??;
            answers += a;
            failed += f;
        }
        Ok(LoadResult {
            rate: answers as f64 / start.elapsed().as_secs_f64(),
            answers,
            failed,
        })
    }

    /// Sends one request on each of `connections` connections at once. Returns the seconds
    /// until the last response.
    pub async fn burst(&self, connections: usize) -> Result<f64> {
        let mut lines = Vec::new();
        for _ in 0..connections {
            lines.push(Connection::open(self).await?);
        }
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        for mut line in lines {
            let load = self.clone();
            tasks.spawn(async move { line.ask(&load.request).await });
        }
        while let Some(task) = tasks.join_next().await {
            let status = task??;
            anyhow::ensure!(status == 200, "the server responded with {status}");
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// The durations of some calls, in seconds. They are made by a thread of their own: a task
    /// beside those of a flood would measure its wait for them as well.
    pub async fn times(&self, calls: usize, Pace::Every(pace): Pace) -> Result<Vec<f64>> {
        let load = self.clone();
        let timed = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(load.times_here(calls, pace))
        });
        timed.await?
    }

    async fn times_here(&self, calls: usize, pace: Duration) -> Result<Vec<f64>> {
        let mut line = Connection::open(self).await?;
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            let start = Instant::now();
            let status = line.ask(&self.request).await?;
            anyhow::ensure!(status == 200, "the server responded with {status}");
            let took = start.elapsed();
            times.push(took.as_secs_f64());
            tokio::time::sleep(pace.saturating_sub(took)).await;
        }
        Ok(times)
    }

    /// Sends requests on `connections` connections until it is aborted, ignoring the responses.
    pub fn flood(&self, connections: usize) -> JoinHandle<()> {
        let load = self.clone();
        tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            for _ in 0..connections {
                let load = load.clone();
                tasks.spawn(async move {
                    while let Ok(mut line) = Connection::open(&load).await {
                        while line.ask(&load.request).await.is_ok() {}
                    }
                });
            }
            while tasks.join_next().await.is_some() {}
        })
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(load: &Load) -> Result<Connection> {
        let stream = TcpStream::connect(load.address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            buffer: Vec::with_capacity(4096),
        })
    }

    /// Sends the request and reads its response. Returns the status.
    async fn ask(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if let Some(status) = answer(&self.buffer)? {
                return Ok(status);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection");
            }
        }
    }
}

/// The status, once the response is complete.
fn answer(bytes: &[u8]) -> Result<Option<u16>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let (head, body) = bytes.split_at(end + 4);
    let head = std::str::from_utf8(head)?.to_ascii_lowercase();
    let status = head.get(9..12).context("no status")?.parse()?;
    let is_whole = match head.split("content-length: ").nth(1) {
        Some(rest) => {
            let length = rest.split("\r\n").next().unwrap_or_default();
            body.len() >= length.trim().parse::<usize>()?
        }
        None => body.ends_with(b"0\r\n\r\n"),
    };
    Ok(is_whole.then_some(status))
}
