//! The client of the collector.

use super::otlp_target::OtlpTarget;
use super::otlp_tls::with_tls;
use crate::client::http_client;
use crate::failure::Failure;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use reqwest::StatusCode;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use std::io::Write;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often an export is tried.
const TRIES: u32 = 5;
/// The wait after the first failure. It doubles.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait that a collector may ask for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The time from one line of the log about a failure to the next: a collector may fail often.
const QUIET: Duration = Duration::from_secs(60);

/// Sends exports of one signal, one at a time. A failure and its end are logged once,
/// not each request that fails.
pub(super) struct OtlpClient {
    http: reqwest::Client,
    url: reqwest::Url,
    headers: HeaderMap,
    /// The timeout of a request.
    timeout: Duration,
    /// Whether bodies are compressed.
    gzip: bool,
    /// What it sends, for the log.
    what: &'static str,
    /// Whether the log has a line of the current failure.
    is_reported: bool,
    last_report: Option<Instant>,
}

/// Why an export was not taken.
struct Untaken {
    why: String,
    /// The wait before the next try, if one makes sense.
    retry: Option<Duration>,
}

impl OtlpClient {
    pub(super) fn new(what: &'static str, target: &OtlpTarget) -> Result<OtlpClient, Failure> {
        let mut headers = HeaderMap::new();
        for (name, value) in &target.headers {
            // The value is a secret, so it is not part of the message.
            let invalid = || Failure::user("OTEL_EXPORTER_OTLP_HEADERS has an invalid header");
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| invalid())?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        if target.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let builder = http_client().connect_timeout(target.timeout);
        let http = with_tls(builder, &target.tls)?.build();
        let http = http.map_err(|error| {
            let why = kvasm::service::error_chain(&error);
            match target.tls.first() {
                None => Failure::host(why),
                Some(file) => Failure::user(format!("{}: {why}", file.variable)),
            }
        })?;
        Ok(OtlpClient {
            http,
            url: target.url.clone(),
            headers,
            timeout: target.timeout,
            gzip: target.gzip,
            what,
            is_reported: false,
            last_report: None,
        })
    }

    /// Builds and encodes a message for [`send`](OtlpClient::send), on a thread for such work: it can
    /// be large. Returns `None` if that failed.
    pub(super) async fn encode<M: Message>(
        &self,
        build: impl FnOnce() -> M + Send + 'static,
    ) -> Option<Bytes> {
        let gzip = self.gzip;
        let encode = move || {
            let body = build().encode_to_vec();
            match gzip {
                true => compressed(&body),
                false => Ok(body),
            }
        };
        let body = tokio::task::spawn_blocking(encode).await.ok()?;
        body.ok().map(Bytes::from)
    }

    /// Sends an export, with retries until `stop`, for at most `limit`. Returns whether the collector
    /// has taken it.
    pub(super) async fn send(
        &mut self,
        body: Bytes,
        limit: Option<Duration>,
        stop: &CancellationToken,
    ) -> bool {
        let (start, mut backoff) = (Instant::now(), BACKOFF);
        let left = || limit.map_or(Duration::MAX, |limit| limit.saturating_sub(start.elapsed()));
        for at in 1..=TRIES {
            let timeout = self.timeout.min(left());
            let Err(retry) = self.send_once(body.clone(), timeout).await else {
                return true;
            };
            let wait = retry.map(|wait| wait.max(backoff).min(WAIT_MAX));
            let Some(wait) = wait.filter(|wait| at < TRIES && *wait < left()) else {
                break;
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
            backoff *= 2;
        }
        false
    }

    /// Sends an export once. Returns whether the collector has taken it.
    pub(super) async fn send_without_retry(&mut self, body: Bytes) -> bool {
        self.send_once(body, self.timeout).await.is_ok()
    }

    /// Sends an export. If the collector has not taken it, returns the wait before the next try, if
    /// one makes sense.
    async fn send_once(&mut self, body: Bytes, timeout: Duration) -> Result<(), Option<Duration>> {
        let what = self.what;
        match self.post(body, timeout).await {
            Ok(()) => {
                if std::mem::take(&mut self.is_reported) {
                    tracing::info!("the OpenTelemetry collector takes {what} again");
                }
                Ok(())
            }
            Err(Untaken { why, retry }) => {
                let is_recent = |at: Instant| at.elapsed() < QUIET;
                if !self.is_reported && !self.last_report.is_some_and(is_recent) {
                    self.is_reported = true;
                    self.last_report = Some(Instant::now());
                    tracing::warn!(error = why, "the OpenTelemetry collector takes no {what}");
                }
                Err(retry)
            }
        }
    }

    async fn post(&self, body: Bytes, timeout: Duration) -> Result<(), Untaken> {
        let request = self.http.post(self.url.clone()).timeout(timeout);
        let sent = request.headers(self.headers.clone()).body(body).send();
        // Its text has the URL, which may contain what the operator does not want in a log.
        let response = sent.await.map_err(|error| Untaken {
            why: kvasm::service::error_chain(&error.without_url()),
            retry: Some(Duration::ZERO),
        })?;
        // The body is not read: however long it is, it costs nothing.
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let is_temporary = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ]
        .contains(&status);
        let wait = response.headers().get(RETRY_AFTER);
        let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok());
        Err(Untaken {
            why: format!("it answered with status {}", status.as_u16()),
            retry: is_temporary.then(|| Duration::from_secs(wait.unwrap_or(0))),
        })
    }
}

/// Compresses a body, at the fastest level: it competes with calls for the CPU.
fn compressed(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}
