//! One way to every host: requests of the HTTP API, to a server, or to the same
//! routes over a store that this process has opened itself. So each command
//! means the same with and without a server.

use super::failure::Failure;
use super::open::CacheDir;
use super::{Global, open, profile};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use kvasm::HostBuilder;
use kvasm::http::{Body, Request, Response, Router, StatusCode, operator_router};
use kvasm::model::AppName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tower::ServiceExt;

/// How long a server may take to be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of an answer that is kept in memory.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where requests go.
pub(super) enum Client {
    Server {
        http: reqwest::Client,
        base: String,
        token: Option<String>,
    },
    Store(Router),
}

/// A server and what is shown to it.
pub(super) struct Target {
    pub(super) server: String,
    pub(super) token: Option<String>,
}

/// Instances that a command needs which runs a plugin, or deploys one.
const INSTANCES: u32 = 1;

/// The host that was asked for: a server, or a store. Over a store it has neither
/// room for instances nor a cache folder.
pub(super) async fn connect(global: &Global) -> Result<Client, Failure> {
    open(global, HostBuilder::unpooled).await
}

/// As [`connect`], for a command that loads a plugin.
pub(super) async fn connect_to_load(global: &Global) -> Result<Client, Failure> {
    let prepare = |builder: HostBuilder| {
        let folder = std::env::var("KVASM_CACHE_DIR").ok();
        let folder = folder.map_or(CacheDir::Default, |text| match text.parse() {
            Ok(folder) => folder,
            Err(never) => match never {},
        });
        folder.apply(builder.instances(INSTANCES))
    };
    open(global, prepare).await
}

async fn open(
    global: &Global,
    prepare: impl FnOnce(HostBuilder) -> HostBuilder,
) -> Result<Client, Failure> {
    match profile::target(global)? {
        Some(target) => Client::server(target),
        None => {
            let host = prepare(open::builder(global).await?).build()?;
            Ok(Client::Store(operator_router(host, "command line")))
        }
    }
}

impl Client {
    fn server(target: Target) -> Result<Client, Failure> {
        // Fails only if another provider was installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = target.server.trim_end_matches('/').to_owned();
        let valid =
            reqwest::Url::parse(&base).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !valid {
            return Err(Failure::user(format!(
                "the server is {base:?}; it must be like http://127.0.0.1:7180"
            )));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Failure::host(e.to_string()))?;
        let token = target.token;
        Ok(Client::Server { http, base, token })
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self, Client::Server { .. })
    }

    /// Sends a request, whatever its answer.
    async fn exchange(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        match self {
            Client::Store(router) => match router.clone().oneshot(request).await {
                Ok(response) => Ok(response),
                Err(never) => match never {},
            },
            Client::Server { http, base, token } => {
                let (parts, body) = request.into_parts();
                let url = format!("{base}{}", parts.uri);
                let mut sent = http.request(parts.method, url).headers(parts.headers);
                if let Some(token) = token {
                    sent = sent.bearer_auth(token);
                }
                let body = reqwest::Body::wrap_stream(body.into_data_stream());
                let answer = sent
                    .body(body)
                    .send()
                    .await
                    .map_err(|e| unreachable(base, &e))?;
                let mut response = Response::new(Body::empty());
                *response.status_mut() = answer.status();
                *response.headers_mut() = answer.headers().clone();
                *response.body_mut() = Body::from_stream(answer.bytes_stream());
                Ok(response)
            }
        }
    }

    /// Sends a request. An answer that is an error is a failure.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let app = app_of(&request);
        let response = self.exchange(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = bytes(response).await?;
        let failure = Failure::from_problem(status, &body);
        Err(match app {
            Some(app) if failure.is_kind("app-not-found") => Failure::no_app(&app),
            Some(_) | None => failure,
        })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &Path) -> Result<T, Failure> {
        json(self.send(path.request("GET", Body::empty())?).await?).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &Path,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let text = serde_json::to_string(body).map_err(|e| Failure::host(e.to_string()))?;
        let mut request = path.request(method, Body::from(text))?;
        set(&mut request, "content-type", "application/json");
        json(self.send(request).await?).await
    }

    pub(super) async fn delete(&self, path: &Path) -> Result<(), Failure> {
        self.send(path.request("DELETE", Body::empty())?)
            .await
            .map(drop)
    }
}

/// The app that a request names.
fn app_of(request: &Request<Body>) -> Option<AppName> {
    let rest = request.uri().path().strip_prefix("/v1/apps/")?;
    AppName::parse(rest.split('/').next()?).ok()
}

fn unreachable(base: &str, error: &reqwest::Error) -> Failure {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Failure::host(format!("the server {base} cannot be reached: {cause}"))
}

/// Sets a header of the program's own, which is valid.
pub(super) fn set(request: &mut Request<Body>, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        request.headers_mut().insert(name, value);
    }
}

/// A path, with its variable parts percent-encoded, and a query.
#[derive(Clone)]
pub(super) struct Path {
    path: String,
    /// A part that clients and proxies would resolve.
    has_dots: bool,
    query: String,
}

impl Path {
    /// Of these segments.
    pub(super) fn new(segments: &[&str]) -> Path {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            path.extend(
                url::form_urlencoded::byte_serialize(segment.as_bytes()).map(|part| {
                    // That is for forms, where a space is a plus.
                    if part == "+" { "%20" } else { part }
                }),
            );
        }
        Path {
            path,
            has_dots: segments.iter().any(|part| matches!(*part, "." | "..")),
            query: String::new(),
        }
    }

    /// Of an app.
    pub(super) fn app(app: &AppName, rest: &[&str]) -> Path {
        let mut segments = vec!["v1", "apps", app.as_str()];
        segments.extend(rest);
        Path::new(&segments)
    }

    /// With a parameter, if it has a value.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: Option<impl ToString>) -> Path {
        if let Some(value) = value {
            let mut query = url::form_urlencoded::Serializer::new(self.query);
            query.append_pair(name, &value.to_string());
            self.query = query.finish();
        }
        self
    }

    pub(super) fn request(&self, method: &str, body: Body) -> Result<Request<Body>, Failure> {
        if self.has_dots {
            return Err(Failure::user("\".\" and \"..\" cannot be part of a path"));
        }
        let uri = match self.query.as_str() {
            "" => self.path.clone(),
            query => format!("{}?{query}", self.path),
        };
        let request = Request::builder().method(method).uri(uri).body(body);
        request.map_err(|e| Failure::user(format!("this cannot be asked of a server: {e}")))
    }
}

/// All of an answer.
pub(super) async fn bytes(response: Response<Body>) -> Result<Vec<u8>, Failure> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let collected = body.collect().await;
    let collected = collected.map_err(|e| Failure::host(format!("the answer broke off: {e}")))?;
    Ok(collected.to_bytes().to_vec())
}

async fn json<T: DeserializeOwned>(response: Response<Body>) -> Result<T, Failure> {
    let mut body = bytes(response).await?;
    if body.is_empty() {
        body = b"null".to_vec();
    }
    serde_json::from_slice(&body)
        .map_err(|e| Failure::host(format!("the answer is not what it must be: {e}")))
}

/// Hands the parts of an answer on as they come.
pub(super) async fn stream(
    response: Response<Body>,
    mut part: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut parts = response.into_body().into_data_stream();
    while let Some(next) = parts.next().await {
        let bytes = next.map_err(|e| Failure::host(format!("the answer broke off: {e}")))?;
        part(&bytes)?;
    }
    Ok(())
}

/// Whether an error says that what was asked for is not there.
pub(super) fn is_absent(failure: &Failure) -> bool {
    failure.status() == Some(StatusCode::NOT_FOUND) && failure.is_kind("entry-not-found")
}
