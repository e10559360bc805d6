//! A collector of OpenTelemetry that answers as a test wants.

use super::otlp_certificates::TlsListener;
use super::otlp_reader::{ReadSpan, resource_of, series_of, series_of_text, spans_of};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use flate2::read::GzDecoder;
use kvasm_tests::program::process::{Home, Server, eventually};
use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// What the collector does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Healthy,
    /// It never answers.
    Silent,
    /// Status 200, with bytes that are no message.
    Garbage,
    /// A status, with an answer of this size.
    Fails(u16, usize),
    /// A redirect to another path of its own.
    Redirects,
    /// It closes the connection.
    Hangs,
}

/// What the collector got.
#[derive(Default)]
struct Heard {
    /// Paths, headers and decompressed bodies of requests that it accepted.
    accepted: Vec<(String, HeaderMap, Bytes)>,
    /// The number of the others.
    refused: usize,
}

/// A collector on loopback. It ends when it is dropped.
pub struct Collector {
    pub address: SocketAddr,
    scheme: &'static str,
    mood: Arc<Mutex<Mood>>,
    heard: Arc<Mutex<Heard>>,
    runtime: Runtime,
}

impl Collector {
    pub fn start() -> Collector {
        Collector::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts it at an address.
    pub fn at(address: SocketAddr) -> Collector {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        Collector::on(runtime, listener, "http")
    }

    /// Starts it with TLS.
    pub fn with_tls(config: Arc<ServerConfig>) -> Collector {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TlsListener::bind(config));
        Collector::on(runtime, listener, "https")
    }

    fn on(
        runtime: Runtime,
        listener: impl Listener<Addr = SocketAddr>,
        scheme: &'static str,
    ) -> Collector {
        let address = listener.local_addr().unwrap();
        let mood = Arc::new(Mutex::new(Mood::Healthy));
        let heard = Arc::<Mutex<Heard>>::default();
        let (of_task, hears) = (Arc::clone(&mood), Arc::clone(&heard));
        let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: Bytes| {
            let mood = *of_task.lock().unwrap();
            let mut heard = hears.lock().unwrap();
            match mood {
                Mood::Healthy | Mood::Garbage => {
                    let body = decompressed(&headers, body);
                    heard.accepted.push((uri.to_string(), headers, body))
                }
                _ => heard.refused += 1,
            }
            answer(mood)
        });
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Collector {
            address,
            scheme,
            mood,
            heard,
            runtime,
        }
    }

    /// Stops it; its address then refuses connections.
    pub fn stop(self) -> SocketAddr {
        let address = self.address;
        drop(self.runtime);
        address
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Starts a server that exports to it, with these variables.
    pub fn server(&self, home: &Home, arguments: &[&str], variables: &[(&str, &str)]) -> Server {
        let endpoint = format!("otel.endpoint={}://{}", self.scheme, self.address);
        let serve = kvasm_tests::program::process::SERVE_ARGUMENTS;
        let mut command = home.command(&[&serve[..], &["--set", &endpoint], arguments].concat());
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50");
        command.envs(variables.iter().copied());
        home.spawn(command)
    }

    /// The number of requests that it did not accept.
    pub fn refused(&self) -> usize {
        self.heard.lock().unwrap().refused
    }

    /// The accepted requests of a path.
    pub fn accepted(&self, path: &str) -> Vec<(HeaderMap, Bytes)> {
        let heard = self.heard.lock().unwrap();
        let of_path = heard.accepted.iter().filter(|(found, ..)| found == path);
        of_path
            .map(|(_, headers, body)| (headers.clone(), body.clone()))
            .collect()
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<ReadSpan> {
        let exports = self.accepted("/v1/traces");
        exports
            .iter()
            .flat_map(|(_, body)| spans_of(body))
            .collect()
    }

    /// Waits for a span of a name in a trace.
    #[track_caller]
    pub fn wait_for(&self, trace: &str, name: &str) -> ReadSpan {
        eventually(name, || {
            let mut spans = self.spans().into_iter();
            spans.find(|span| span.trace_id == trace && span.name == name)
        })
    }

    /// The resource of the first export.
    pub fn resource(&self) -> BTreeMap<String, String> {
        resource_of(&self.accepted("/v1/traces")[0].1)
    }

    /// Waits for an export of metrics that began after this call. Returns what a scrape shows
    /// before and after it, and what it has.
    pub fn metrics_between_scrapes(
        &self,
        server: &Server,
    ) -> [BTreeMap<super::otlp_reader::SeriesKey, f64>; 3] {
        let scrape = || {
            series_of_text(
                &server
                    .admin("GET", "/metrics", "text/plain", b"")
                    .ok()
                    .text(),
            )
        };
        let before = scrape();
        let count = || self.accepted("/v1/metrics").len();
        let earlier = count();
        // The next one may have been on its way.
        eventually("metrics", || (count() >= earlier + 2).then_some(()));
        let exports = self.accepted("/v1/metrics");
        [before, series_of(&exports[earlier + 1].1), scrape()]
    }
}

fn decompressed(headers: &HeaderMap, body: Bytes) -> Bytes {
    match headers.get(header::CONTENT_ENCODING) {
        None => body,
        Some(encoding) => {
            assert_eq!(encoding, "gzip");
            let mut whole = Vec::new();
            GzDecoder::new(&body[..]).read_to_end(&mut whole).unwrap();
            whole.into()
        }
    }
}

async fn answer(mood: Mood) -> Response {
    match mood {
        Mood::Healthy => StatusCode::OK.into_response(),
        Mood::Silent => std::future::pending().await,
        Mood::Garbage => (StatusCode::OK, vec![0xff; 100]).into_response(),
        Mood::Fails(status, len) => {
            let status = StatusCode::from_u16(status).unwrap();
            (status, vec![b'x'; len]).into_response()
        }
        Mood::Redirects => {
            let to = [(header::LOCATION, "/elsewhere")];
            (StatusCode::TEMPORARY_REDIRECT, to).into_response()
        }
        Mood::Hangs => {
            let broken = std::io::Error::other("gone");
            let stream = futures_util::stream::iter([Ok(Bytes::from_static(b"x")), Err(broken)]);
            let mut response = Body::from_stream(stream).into_response();
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    }
}
