//! Servers on loopback, a scripted resolver and permissions.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use async_trait::async_trait;
use bytes::Bytes;
use kvasm_core::{AppId, HttpOrigin, HttpUrl, NotPermitted, Use};
use kvasm_egress::{Egress, EgressConfig, Resolver};
use kvasm_metrics::Metrics;
use kvasm_service::{
    HttpPermissions, Outbound, OutboundCaller, OutboundError, OutboundRequest, OutboundResponse,
    ServiceError,
};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// More than any test needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Answers each question about a name with the next answer; the last one stays.
#[derive(Default)]
pub struct Script {
    answers: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    pub questions: AtomicUsize,
}

impl Script {
    pub fn new(answers: &[(&str, &[&[&str]])]) -> Arc<Script> {
        let address = |text: &&str| text.parse::<IpAddr>().unwrap();
        let of_name = |all: &[&[&str]]| {
            let answers = all.iter().map(|one| one.iter().map(address).collect());
            answers.collect()
        };
        let names = answers
            .iter()
            .map(|(name, all)| ((*name).to_owned(), of_name(all)));
        Arc::new(Script {
            answers: Mutex::new(names.collect()),
            questions: AtomicUsize::new(0),
        })
    }
}

#[async_trait]
impl Resolver for Script {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let mut answers = self.answers.lock().unwrap();
        let of_name = answers.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        let next = of_name.front().cloned().unwrap_or_default();
        if of_name.len() > 1 {
            of_name.pop_front();
        }
        Ok(next)
    }
}

/// Permits everything until it is revoked.
#[derive(Default)]
pub struct Permitted {
    pub revoked: AtomicBool,
    pub asked: Mutex<Vec<HttpOrigin>>,
}

#[async_trait]
impl HttpPermissions for Permitted {
    async fn allows_http(&self, origin: &HttpOrigin) -> Result<(), ServiceError> {
        self.asked.lock().unwrap().push(origin.clone());
        match self.revoked.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(NotPermitted::Ungranted(Use::Http(origin.to_string())).into()),
        }
    }
}

/// A client for one app.
pub struct Client {
    pub egress: Arc<Egress>,
    pub app: AppId,
    pub permissions: Arc<Permitted>,
    pub metrics: Metrics,
}

/// The configuration of most tests: loopback is allowed.
pub fn on_loopback() -> EgressConfig {
    EgressConfig {
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        timeout: PATIENCE,
        connect_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        per_second: 1_000_000,
        ..EgressConfig::default()
    }
}

impl Client {
    pub fn new(config: EgressConfig) -> Client {
        Client::resolving(config, &[("server.test", &[&["127.0.0.1"]])])
    }

    pub fn resolving(config: EgressConfig, answers: &[(&str, &[&[&str]])]) -> Client {
        let metrics = Metrics::default();
        let script = Script::new(answers);
        let egress = Egress::with_resolver(config, metrics.clone(), script);
        Client {
            egress: Arc::new(egress.expect("a client")),
            app: AppId::generate(),
            permissions: Arc::default(),
            metrics,
        }
    }

    /// The same client for another app.
    pub fn of_other_app(&self) -> Client {
        Client {
            egress: Arc::clone(&self.egress),
            app: AppId::generate(),
            permissions: Arc::default(),
            metrics: self.metrics.clone(),
        }
    }

    pub async fn send_within(
        &self,
        request: OutboundRequest,
        time: Duration,
    ) -> Result<OutboundResponse, OutboundError> {
        let caller = OutboundCaller {
            app: self.app,
            app_name: "demo",
            permissions: &*self.permissions,
            deadline: Instant::now() + time,
        };
        self.egress.fetch(caller, request).await
    }

    pub async fn send(&self, request: OutboundRequest) -> Result<OutboundResponse, OutboundError> {
        self.send_within(request, PATIENCE).await
    }

    pub async fn get(&self, url: &str) -> Result<OutboundResponse, OutboundError> {
        self.send(get(url)).await
    }

    /// The value of a metric, by the start of its line.
    pub fn metric(&self, start: &str) -> u64 {
        let text = self.metrics.encode();
        let line = text.lines().find(|line| line.starts_with(start));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value.map_or(0, |value| value.parse().unwrap())
    }

    pub async fn wait_for_metric(&self, start: &str, value: u64) {
        wait_until(start, || self.metric(start) == value).await;
    }
}

pub async fn wait_until(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn get(url: &str) -> OutboundRequest {
    request("GET", url, "")
}

pub fn request(method: &str, url: &str, body: &str) -> OutboundRequest {
    OutboundRequest {
        method: method.to_owned(),
        url: HttpUrl::parse(url).unwrap(),
        headers: Vec::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        timeout: None,
    }
}

/// A listening server, which counts its connections. It ends when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts a server, which passes each connection to `serve`.
    pub async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Server::start_on("127.0.0.1:0", serve).await
    }

    pub async fn start_on<F>(
        address: &str,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            // Connections end with the server.
            let mut running = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                running.spawn(serve(stream));
                while running.try_join_next().is_some() {}
            }
        });
        Server {
            address,
            connections,
            task,
        }
    }

    /// Starts a server that answers each request with the same bytes, and keeps the connection.
    pub async fn answering(answer: impl AsRef<[u8]>) -> Server {
        let answer: Arc<[u8]> = answer.as_ref().into();
        Server::start(move |mut stream| {
            let answer = Arc::clone(&answer);
            async move {
                while read_head(&mut stream).await.is_some() {
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://server.test:{}{path}", self.address.port())
    }

    pub fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Reads up to the end of a request's head; none at the end of the stream.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A response with a body.
pub fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
