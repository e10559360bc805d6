//! One connection to a server. It carries one request at a time.

use super::config::EgressConfig;
use super::outgoing::Outgoing;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kvasm_metrics::InUse;
use kvasm_service::OutboundError;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// The smallest read buffer that hyper accepts, in bytes.
const BUFFER_BYTES_MIN: usize = 8 * 1024;
/// How long an idle connection may take to be ready. One whose server answered before it had read
/// the whole request is not.
const READY_TIMEOUT: Duration = Duration::from_millis(100);
/// How much of a response over HTTP/2 is in flight, in bytes.
const WINDOW_BYTES: u32 = 256 * 1024;

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// An open connection, closed on drop.
pub(crate) struct Connection {
    sender: Sender,
    /// The task that reads and writes.
    task: AbortHandle,
    _open: InUse,
}

impl Drop for Connection {
    /// Closes the socket at once: a server that does not read could keep an orderly end waiting.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a request has no head of a response.
pub(crate) enum SendError {
    /// The connection had ended before the request was sent.
    NotSent,
    /// The connection ended before the response.
    Closed(hyper::Error),
    /// Anything else.
    Failed(hyper::Error),
    /// The request could not be built.
    Invalid(OutboundError),
}

impl Connection {
    /// Starts HTTP on a new stream.
    pub(crate) async fn start<S>(
        stream: S,
        version: Version,
        config: &EgressConfig,
        open: InUse,
    ) -> Result<Connection, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let (sender, task) = if version == Version::HTTP_2 {
            let header_bytes = u32::try_from(config.header_bytes).unwrap_or(u32::MAX);
            let (sender, driver) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .max_header_list_size(header_bytes)
                .handshake(io)
                .await?;
            (Sender::Http2(sender), tokio::spawn(driver).abort_handle())
        } else {
            let (sender, driver) = http1::Builder::new()
                .max_headers(config.headers)
                .max_buf_size(config.header_bytes.max(BUFFER_BYTES_MIN))
                .handshake(io)
                .await?;
            (Sender::Http1(sender), tokio::spawn(driver).abort_handle())
        };
        Ok(Connection {
            sender,
            task,
            _open: open,
        })
    }

    /// Returns whether it can carry no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Waits until it can carry a request, for a moment. Returns whether it can.
    pub(crate) async fn is_ready(&mut self) -> bool {
        let ready = async {
            match &mut self.sender {
                Sender::Http1(sender) => sender.ready().await,
                Sender::Http2(sender) => sender.ready().await,
            }
        };
        matches!(timeout(READY_TIMEOUT, ready).await, Ok(Ok(())))
    }

    /// Sends a request, and returns the head of the response.
    pub(crate) async fn send(
        &mut self,
        request: &Outgoing,
    ) -> Result<Response<Incoming>, SendError> {
        let version = match &self.sender {
            Sender::Http1(_) => Version::HTTP_11,
            Sender::Http2(_) => Version::HTTP_2,
        };
        let request = request.to_request(version).map_err(SendError::Invalid)?;
        let result = match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        result.map_err(|mut error| match error.take_message() {
            Some(_) => SendError::NotSent,
            None => {
                let error = error.into_error();
                match error.is_closed() || error.is_canceled() || error.is_incomplete_message() {
                    true => SendError::Closed(error),
                    false => SendError::Failed(error),
                }
            }
        })
    }
}
