//! A client of the HTTP API: sends requests to a server, or to the same routes over a store that
//! this process has opened, so that each command means the same with and without a server.

use super::config::Config;
use super::failure::Failure;
use super::global::{Destination, Global};
use super::server_timeout::ServerTimeout;
use super::{call, open, profile};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use kvasm::HostBuilder;
use kvasm::model::AppName;
use kvasm::server::operator_router;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::time::Duration;
use tower::ServiceExt;

/// Timeout for connecting to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a response that is kept in memory. It guards against an endless response and is
/// independent of the server's limits.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Where requests go.
pub(super) enum Client {
    Server {
        http: reqwest::Client,
        base: String,
        token: Option<HeaderValue>,
        timeout: Option<Duration>,
    },
    Store(Router),
}

/// A server and the token to use.
pub(super) struct ServerTarget {
    pub(super) server: String,
    pub(super) token: Option<String>,
}

/// Instances for a command that runs or deploys a plugin.
const INSTANCES: u32 = 1;

/// Connects to the selected server or store. A store is opened without instances and without a
/// cache folder.
pub(super) async fn connect(global: &Global) -> Result<Client, Failure> {
    open(global, |builder, _| builder.unpooled()).await
}

/// Like [`connect`], for a command that loads a plugin.
pub(super) async fn connect_to_load(global: &Global) -> Result<Client, Failure> {
    let prepare = |builder: HostBuilder, config: &Config| {
        config.cache_dir.apply(builder.instances(INSTANCES))
    };
    open(global, prepare).await
}

async fn open(
    global: &Global,
    prepare: impl FnOnce(HostBuilder, &Config) -> HostBuilder,
) -> Result<Client, Failure> {
    // A command that names a server does not read the server's configuration.
    if let Destination::Server(_) | Destination::Profile(_) = global.place()
        && let Some(target) = profile::target(global, &Config::default())?
    {
        return Client::server(target, global.timeout()?);
    }
    let config = open::config(global)?;
    match profile::target(global, &config)? {
        Some(target) => Client::server(target, global.timeout()?),
        None => {
            let host = prepare(open::builder(global, &config).await?, &config).build()?;
            Ok(Client::Store(operator_router(host, "command line")))
        }
    }
}

/// The base of a server's URLs.
fn base(server: &str) -> Result<String, Failure> {
    let why = match reqwest::Url::parse(server) {
        // The URL standard drops line breaks.
        Ok(_) if server.contains(|c: char| c.is_control() || c.is_whitespace()) => {
            "; it contains blanks or line breaks"
        }
        Ok(url) if !matches!(url.scheme(), "http" | "https") => "",
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "; pass the token with --token"
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            "; a query or fragment is not allowed"
        }
        Ok(_) => return Ok(server.trim_end_matches('/').to_owned()),
        Err(_) => "",
    };
    // The invalid part may be a secret.
    let shown = server.split(['?', '#']).next().unwrap_or_default();
    let shown = shown.rsplit('@').next().unwrap_or_default();
    Err(Failure::user(format!(
        "invalid server {shown:?}; expected a URL like http://127.0.0.1:7181{why}"
    )))
}

/// The `authorization` header for a token.
fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    let header = HeaderValue::from_str(&format!("Bearer {token}"));
    let is_one_word = !token.contains(|c: char| c.is_whitespace() || !c.is_ascii_graphic());
    match header {
        Ok(mut header) if is_one_word => {
            header.set_sensitive(true);
            Ok(header)
        }
        Ok(_) | Err(_) => Err(Failure::user(
            "invalid token: it contains blanks, line breaks or other characters; \
             a token is kvasm_ and hexadecimal digits",
        )),
    }
}

/// A builder of clients that follow no redirects, since their requests have secrets.
pub(super) fn http_client() -> reqwest::ClientBuilder {
    // Fails only if another provider is already installed, which works too.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none())
}

impl Client {
    /// A client of a server. `timeout` is the longest time without any data from the server.
    ///
    /// # Errors
    /// A user error: an invalid URL or token.
    pub(super) fn server(
        target: ServerTarget,
        timeout: Option<Duration>,
    ) -> Result<Client, Failure> {
        let base = base(&target.server)?;
        let token = target.token.as_deref().map(bearer).transpose()?;
        let http = http_client()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|e| Failure::host(e.to_string()))?;
        Ok(Client::Server {
            http,
            base,
            token,
            timeout,
        })
    }

    /// The same client without a timeout.
    pub(super) fn without_timeout(mut self) -> Client {
        if let Client::Server { timeout, .. } = &mut self {
            *timeout = None;
        }
        self
    }

    /// The same client with this timeout.
    pub(super) fn with_timeout(mut self, longest: Duration) -> Client {
        if let Client::Server { timeout, .. } = &mut self {
            *timeout = Some(longest);
        }
        self
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self, Client::Server { .. })
    }

    /// Sends a request and returns the response, whatever its status.
    async fn exchange(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        match self {
            Client::Store(router) => match router.clone().oneshot(request).await {
                Ok(response) => Ok(response),
                Err(never) => match never {},
            },
            Client::Server {
                http,
                base,
                token,
                timeout,
            } => {
                let (parts, body) = request.into_parts();
                let url = format!("{base}{}", parts.uri);
                let mut sent = http.request(parts.method, url).headers(parts.headers);
                if let Some(token) = token {
                    sent = sent.header("authorization", token);
                }
                let watch = ServerTimeout::new(*timeout);
                let sent = sent.body(reqwest::Body::wrap(watch.body(body)));
                let answer = watch.wait(sent.send()).await?;
                let answer = answer.map_err(|e| unreachable(base, &e))?;
                let mut response = Response::new(Body::empty());
                *response.status_mut() = answer.status();
                *response.headers_mut() = answer.headers().clone();
                let parts = watch.parts(Box::pin(answer.bytes_stream()));
                *response.body_mut() = Body::from_stream(parts);
                Ok(response)
            }
        }
    }

    /// Sends a request. An error response is a failure.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let app = app_of(&request);
        let response = self.exchange(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, cost) = (response.status(), call::cost_of(response.headers()));
        let body = bytes(response).await?;
        let failure = Failure::from_problem(status, &body).with_cost(cost);
        Err(match app {
            Some(app) if failure.is_kind("app-not-found") => Failure::no_app(&app),
            Some(_) | None => failure,
        })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &RequestPath) -> Result<T, Failure> {
        json(self.send(path.request("GET", Body::empty())?).await?).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &RequestPath,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let text = serde_json::to_string(body).map_err(|e| Failure::host(e.to_string()))?;
        let mut request = path.request(method, Body::from(text))?;
        set(&mut request, "content-type", "application/json");
        json(self.send(request).await?).await
    }

    pub(super) async fn delete(&self, path: &RequestPath) -> Result<(), Failure> {
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

/// The first cause of an error.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn unreachable(base: &str, error: &reqwest::Error) -> Failure {
    let cause = root_cause(error);
    match error.is_builder() {
        true => Failure::user(format!("cannot send this request to {base}: {cause}")),
        false => Failure::host(format!("cannot reach the server {base}: {cause}")),
    }
}

/// A response that was cut off.
pub(super) fn truncated_response(error: &dyn std::error::Error) -> Failure {
    Failure::host(format!("the response was cut off: {}", root_cause(error)))
}

/// Sets a header; the value comes from this program and is valid.
pub(super) fn set(request: &mut Request<Body>, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        request.headers_mut().insert(name, value);
    }
}

/// A path, with its variable parts percent-encoded, and a query.
#[derive(Clone)]
pub(super) struct RequestPath {
    path: String,
    /// Whether a part is empty, or a dot segment that clients and proxies would resolve.
    is_bad: bool,
    query: String,
}

impl RequestPath {
    /// A path of these segments.
    pub(super) fn new(segments: &[&str]) -> RequestPath {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            path.extend(
                url::form_urlencoded::byte_serialize(segment.as_bytes()).map(|part| {
                    // Form encoding writes a space as a plus.
                    if part == "+" { "%20" } else { part }
                }),
            );
        }
        RequestPath {
            path,
            is_bad: segments.iter().any(|part| matches!(*part, "" | "." | "..")),
            query: String::new(),
        }
    }

    /// A path below an app.
    pub(super) fn app(app: &AppName, rest: &[&str]) -> RequestPath {
        let mut segments = vec!["v1", "apps", app.as_str()];
        segments.extend(rest);
        RequestPath::new(&segments)
    }

    /// Adds a query parameter, if it has a value.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: Option<impl ToString>) -> RequestPath {
        if let Some(value) = value {
            let mut query = url::form_urlencoded::Serializer::new(self.query);
            query.append_pair(name, &value.to_string());
            self.query = query.finish();
        }
        self
    }

    pub(super) fn request(&self, method: &str, body: Body) -> Result<Request<Body>, Failure> {
        if self.is_bad {
            return Err(Failure::user(
                "a name or id must not be empty, \".\" or \"..\"",
            ));
        }
        let uri = match self.query.as_str() {
            "" => self.path.clone(),
            query => format!("{}?{query}", self.path),
        };
        let request = Request::builder().method(method).uri(uri).body(body);
        request.map_err(|e| Failure::user(format!("cannot send this request to a server: {e}")))
    }
}

/// The whole body of a response.
pub(super) async fn bytes(response: Response<Body>) -> Result<Vec<u8>, Failure> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let collected = body.collect().await;
    let collected = collected.map_err(|e| truncated_response(&*e))?;
    Ok(collected.to_bytes().to_vec())
}

async fn json<T: DeserializeOwned>(response: Response<Body>) -> Result<T, Failure> {
    let mut body = bytes(response).await?;
    if body.is_empty() {
        body = b"null".to_vec();
    }
    serde_json::from_slice(&body)
        .map_err(|e| Failure::host(format!("the server sent an invalid response: {e}")))
}

/// Passes on the parts of a response body as they arrive.
pub(super) async fn stream(
    response: Response<Body>,
    mut part: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut parts = response.into_body().into_data_stream();
    while let Some(next) = parts.next().await {
        let bytes = next.map_err(|e| truncated_response(&e))?;
        part(&bytes)?;
    }
    Ok(())
}

/// Whether the failure is an entry that does not exist.
pub(super) fn is_absent(failure: &Failure) -> bool {
    failure.status() == Some(StatusCode::NOT_FOUND) && failure.is_kind("entry-not-found")
}

/// The cursors of a paged list. A server that repeats one would otherwise cause an endless loop.
#[derive(Default)]
pub(super) struct Pages(HashSet<String>);

impl Pages {
    /// The cursor of the next page, if there is one.
    ///
    /// # Errors
    /// A host error: the server repeated a cursor.
    pub(super) fn next<T: ToString>(&mut self, cursor: Option<T>) -> Result<Option<T>, Failure> {
        match &cursor {
            Some(cursor) if !self.0.insert(cursor.to_string()) => Err(Failure::host(format!(
                "the server repeated the cursor {:?}",
                cursor.to_string()
            ))),
            Some(_) | None => Ok(cursor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_must_be_one_ascii_word() {
        assert!(bearer("kvasm_0_1").is_ok());
        for bad in ["kvasm_0\n_1", "kvasm_0 1", "kvasm_\u{e9}", "kvasm_\u{1b}"] {
            assert!(bearer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn server_url_must_be_plain() {
        assert_eq!(base("http://x/kvasm/").ok().unwrap(), "http://x/kvasm");
        for bad in [
            "x",
            "ftp://x",
            "http://",
            "http://x:port",
            "http://user:secret@x",
            "http://x?token=secret",
            "http://x#secret",
            "http://x\ny",
        ] {
            assert!(base(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn repeated_cursor_is_an_error() {
        let mut pages = Pages::default();
        for cursor in ["a", "b"] {
            assert_eq!(pages.next(Some(cursor)).ok().unwrap(), Some(cursor));
        }
        assert!(pages.next(Some("a")).is_err());
        assert_eq!(pages.next(None::<String>).ok().unwrap(), None);
    }
}
