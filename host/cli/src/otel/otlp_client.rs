//! The client of the collector.

use super::otel_variables::OtlpTarget;
use crate::client::http_client;
use crate::failure::Failure;
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
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
        let http = http_client()
            .connect_timeout(target.timeout)
            .timeout(target.timeout)
            .build()
            .map_err(|error| Failure::host(error.to_string()))?;
        Ok(OtlpClient {
            http,
            url: target.url.clone(),
            headers,
            what,
            is_reported: false,
            last_report: None,
        })
    }

    /// Sends an export, with retries until `stop`. Returns whether the collector has taken it.
    pub(super) async fn send(&mut self, body: Bytes, stop: &CancellationToken) -> bool {
        let mut backoff = BACKOFF;
        for at in 1..=TRIES {
            let Err(retry) = self.send_once(body.clone()).await else {
                return true;
            };
            let Some(wait) = retry.filter(|_| at < TRIES) else {
                break;
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait.max(backoff).min(WAIT_MAX)) => {}
            }
            backoff *= 2;
        }
        false
    }

    /// Sends an export. If the collector has not taken it, returns the wait before the next try, if
    /// one makes sense.
    pub(super) async fn send_once(&mut self, body: Bytes) -> Result<(), Option<Duration>> {
        let what = self.what;
        match self.post(body).await {
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

    async fn post(&self, body: Bytes) -> Result<(), Untaken> {
        let request = self.http.post(self.url.clone());
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
