//! HTTP servers in the test process, and their clients.

use axum::Router;
use kvasm::model::{App, AppName, Scope, Timestamp};
use kvasm::server::{AdminAddress, ServerOptions, router, routers, serve};
use kvasm::service::{Keyring, TokenSpec};
use kvasm::store::{SqliteOptions, SqliteStore, Store};
use kvasm::{Host, HostBuilder};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The timeout of a wait.
const PATIENCE: Duration = Duration::from_secs(180);

/// A server over a host. Dropping it stops it; [`stop`](Server::stop) also waits for the end.
pub struct Server {
    /// The host behind it.
    pub host: Host,
    /// The address on which it listens.
    pub address: SocketAddr,
    /// A client with every scope for every app.
    pub root: ApiClient,
    stop: CancellationToken,
    task: Option<JoinHandle<bool>>,
}

impl Server {
    /// Starts a server over a store in memory, with the defaults.
    pub async fn start() -> Server {
        Server::with(|builder| builder).await
    }

    /// Starts a server whose host the builder configures, by default over a store in memory.
    pub async fn with(set_up: impl FnOnce(HostBuilder) -> HostBuilder) -> Server {
        Server::build(set_up, ServerOptions::default(), None).await
    }

    /// Starts a server with other limits.
    pub async fn with_options(options: ServerOptions) -> Server {
        Server::build(|builder| builder, options, None).await
    }

    /// Starts a server over a SQLite file. Only the first server of a file creates its token;
    /// later ones need the secret.
    pub async fn sqlite(
        file: &Path,
        secret: Option<String>,
        set_up: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> Server {
        let store = open(file).await;
        let set_up = |builder: HostBuilder| set_up(builder.store(store));
        Server::build(set_up, ServerOptions::default(), secret).await
    }

    /// Starts a server over any store. Only the first server of a store creates its token;
    /// later ones need the secret.
    pub async fn over(store: Arc<dyn Store>, secret: Option<String>) -> Server {
        let set_up = |builder: HostBuilder| builder.shared_store(store);
        Server::build(set_up, ServerOptions::default(), secret).await
    }

    /// Starts a server that serves only the administration address, over a store in memory.
    pub async fn admin(address: AdminAddress) -> Server {
        let of_admin = |host, options, stop| routers(host, options, address, stop).1;
        Server::build_with(|builder| builder, ServerOptions::default(), None, of_admin).await
    }

    async fn build(
        set_up: impl FnOnce(HostBuilder) -> HostBuilder,
        options: ServerOptions,
        secret: Option<String>,
    ) -> Server {
        Server::build_with(set_up, options, secret, router).await
    }

    async fn build_with(
        set_up: impl FnOnce(HostBuilder) -> HostBuilder,
        options: ServerOptions,
        secret: Option<String>,
        routes: impl FnOnce(Host, ServerOptions, CancellationToken) -> Router,
    ) -> Server {
        // Tests build many hosts at once, so each reserves room for few instances.
        let host = set_up(
            Host::builder()
                .instances(16)
                .secrets(Keyring::ephemeral().unwrap()),
        )
        .build()
        .unwrap();
        let secret = match host.admin().bootstrap().await.unwrap() {
            Some(token) => token.reveal(),
            None => secret.expect("the store already has its first token; pass its secret"),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let routes = routes(host.clone(), options.clone(), stop.clone());
        let metrics = host.metrics().clone();
        let task = tokio::spawn(serve(listener, routes, options, metrics, stop.clone()));
        Server {
            host,
            address,
            root: ApiClient::new(address, Some(secret)),
            stop,
            task: Some(task),
        }
    }

    /// Starts a stop without waiting for it.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the server. Returns whether all requests ended in time.
    pub async fn stop(mut self) -> bool {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap()
    }

    /// A client without a token.
    pub fn anonymous(&self) -> ApiClient {
        self.root.with_token(None)
    }

    /// A client with a new token that has these scopes, for one app or for all.
    pub async fn client(&self, app: Option<&App>, scopes: &[Scope]) -> ApiClient {
        let secret = self.token(app, scopes, None).await;
        self.root.with_token(Some(secret))
    }

    /// Creates a token and returns its secret.
    pub async fn token(
        &self,
        app: Option<&App>,
        scopes: &[Scope],
        expires_at: Option<Timestamp>,
    ) -> String {
        let new = TokenSpec {
            name: "test".to_owned(),
            scopes: scopes.to_vec(),
            expires_at: expires_at.into(),
        };
        let actor = self.host.operator("test");
        let made = self.host.admin().create_token(&actor, app, new).await;
        made.unwrap().1.reveal()
    }

    /// Creates an app, bypassing the server.
    pub async fn app(&self, name: &str, public: bool) -> App {
        let actor = self.host.operator("test");
        let name = AppName::parse(name).unwrap();
        let app = self.host.admin().create_app(&actor, name, public).await;
        app.unwrap()
    }

    /// Creates a public app with a plugin, through the server.
    pub async fn deployed(&self, name: &str, wasm: impl Into<Vec<u8>>) -> App {
        let app = self.app(name, true).await;
        self.root.upload(name, wasm).await.expect(201);
        app
    }

    /// Sends raw bytes on a new connection, and reads until the server closes it or a response
    /// of the announced length is complete.
    pub async fn raw(&self, request: &[u8]) -> ApiResponse {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        read_answer(&mut stream).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Opens a file that the previous host may still be closing.
async fn open(file: &Path) -> SqliteStore {
    let mut store = None;
    eventually("the file is free", async || {
        let opened = SqliteStore::open(SqliteOptions::new(file)).await;
        store = Some(opened);
        matches!(store, Some(Ok(_)))
    })
    .await;
    let store = store.unwrap().unwrap();
    store.ping().await.unwrap();
    store
}

/// Polls until `is_so` holds. Panics after a timeout.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read_answer(stream: &mut TcpStream) -> ApiResponse {
    let mut bytes = Vec::new();
    loop {
        if let Some(answer) = parse(&bytes) {
            return answer;
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut bytes)).await;
        let read = read.expect("the server answers").unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(read > 0, "truncated response: {text}");
    }
}

/// Parses a response, if it is complete.
fn parse(bytes: &[u8]) -> Option<ApiResponse> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        let name: reqwest::header::HeaderName = name.parse().unwrap();
        headers.append(name, value.trim().parse().unwrap());
    }
    let length = headers.get("content-length");
    let length: usize = length.map_or(0, |length| length.to_str().unwrap().parse().unwrap());
    let body = bytes[end + 4..].get(..length)?.to_vec();
    let place = "a raw request".to_owned();
    Some(ApiResponse {
        request: place,
        status,
        headers,
        body,
    })
}

/// A client.
#[derive(Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl ApiClient {
    fn new(address: SocketAddr, token: Option<String>) -> ApiClient {
        // Fails only if another test was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([])
            .timeout(PATIENCE)
            .build()
            .unwrap();
        ApiClient {
            http,
            base: format!("http://{address}"),
            token,
        }
    }

    /// A client of the same server with another token.
    pub fn with_token(&self, token: Option<String>) -> ApiClient {
        ApiClient {
            token,
            ..self.clone()
        }
    }

    /// The secret of its token.
    pub fn secret(&self) -> &str {
        self.token.as_deref().unwrap()
    }

    /// Builds a request without sending it.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request without a body.
    pub async fn send(&self, method: &str, path: &str) -> ApiResponse {
        answer(self.request(method, path)).await
    }

    /// Sends a GET request.
    pub async fn get(&self, path: &str) -> ApiResponse {
        self.send("GET", path).await
    }

    /// Sends a request with a JSON body.
    pub async fn json(&self, method: &str, path: &str, body: Value) -> ApiResponse {
        answer(self.request(method, path).json(&body)).await
    }

    /// Sends a request with a body of this content type.
    pub async fn bytes(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> ApiResponse {
        let request = self
            .request(method, path)
            .header("content-type", content_type);
        answer(request.body(body)).await
    }

    /// Uploads a module and activates it.
    pub async fn upload(&self, app: &str, wasm: impl Into<Vec<u8>>) -> ApiResponse {
        let path = format!("/v1/apps/{app}/plugins");
        let wasm = wasm.into();
        self.bytes("POST", &path, "application/wasm", wasm).await
    }

    /// Calls a function.
    pub async fn call(&self, app: &str, function: &str, input: impl Into<Vec<u8>>) -> ApiResponse {
        let path = format!("/v1/apps/{app}/call/{function}");
        answer(self.request("POST", &path).body(input.into())).await
    }

    /// Lists the keys of a collection of an app.
    pub async fn keys(&self, app: &str, collection: &str) -> Vec<String> {
        let path = format!("/v1/apps/{app}/kv/list?collection={collection}");
        let page = self.get(&path).await.expect(200).json();
        let entries = page["entries"].as_array().unwrap().iter();
        entries
            .map(|entry| entry["key"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// Sends a request.
pub async fn answer(request: RequestBuilder) -> ApiResponse {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let place = format!("{} {}", request.method(), request.url().path());
    let response = client.execute(request).await;
    let response = response.unwrap_or_else(|error| panic!("{place}: {error:?}"));
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await;
    let body = body.unwrap_or_else(|error| panic!("{place}: {error:?}"));
    ApiResponse {
        request: place,
        status,
        headers,
        body: body.to_vec(),
    }
}

/// A response.
#[derive(Debug, Clone)]
pub struct ApiResponse {
    /// The request's method and path, for messages.
    pub request: String,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl ApiResponse {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        let json = serde_json::from_slice(&self.body);
        json.unwrap_or_else(|error| panic!("{}: {error}: {}", self.request, self.text()))
    }

    /// The body as JSON Lines.
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.body.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    /// The value of a header; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// Panics unless the response has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> ApiResponse {
        let (place, text) = (&self.request, self.text());
        assert_eq!(self.status, status, "{place}: {text}");
        self
    }

    /// The slug of the problem, after checking its form.
    #[track_caller]
    pub fn problem(&self) -> String {
        let place = format!("{}: {} {}", self.request, self.status, self.text());
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{place}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{place}");
        assert_eq!(
            problem["request_id"],
            self.header("x-request-id"),
            "{place}"
        );
        assert!(
            Uuid::try_parse(self.header("x-request-id")).is_ok(),
            "{place}"
        );
        for field in ["title", "detail"] {
            assert!(
                problem[field].as_str().is_some_and(|t| !t.is_empty()),
                "{place}"
            );
        }
        let kind = problem["type"].as_str().unwrap();
        let kind = kind.strip_prefix("urn:kvasm:problem:");
        kind.unwrap_or_else(|| panic!("{place}")).to_owned()
    }

    /// Panics unless the response is this problem with this status.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, kind: &str) {
        let found = (self.status, self.problem());
        let (place, text) = (&self.request, self.text());
        assert_eq!(found, (status, kind.to_owned()), "{place}: {text}");
    }
}
