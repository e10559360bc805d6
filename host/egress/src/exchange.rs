//! One request and its response.

use super::Egress;
use super::apps::AppRequests;
use super::connect::ConnectError;
use super::connection::{Connection, SendError};
use super::outgoing::{Outgoing, is_connection_header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::CONNECTION;
use hyper::{HeaderMap, Response};
use kvasm_core::{AppId, HttpOrigin, display_truncated};
use kvasm_service::{OutboundError, OutboundResponse};

/// How much of the client's error an error shows, in bytes.
const SHOWN_BYTES_MAX: usize = 256;

impl Egress {
    /// Sends a request over an idle connection, or over a new one if there is none or it has
    /// ended.
    pub(super) async fn exchange(
        &self,
        app: AppId,
        requests: &AppRequests,
        origin: &HttpOrigin,
        outgoing: &Outgoing,
    ) -> Result<OutboundResponse, ConnectError> {
        while let Some(mut connection) = self.pool.take(app, origin) {
            if !connection.is_ready().await {
                continue;
            }
            match connection.send(outgoing).await {
                Ok(response) => {
                    return Ok(self.finish(app, origin, connection, response).await?);
                }
                Err(SendError::NotSent) => {}
                // The server closed the idle connection while the request was on its way. It may
                // have acted on it, so only what may be repeated is.
                Err(SendError::Closed(_)) if outgoing.is_idempotent() => break,
                Err(error) => return Err(self.failed(origin, error).into()),
            }
        }
        let connected = self.connector.connect(requests, origin, &self.config);
        let mut connection = connected.await?;
        match connection.send(outgoing).await {
            Ok(response) => Ok(self.finish(app, origin, connection, response).await?),
            Err(error) => Err(self.failed(origin, error).into()),
        }
    }

    /// Reads the body, and keeps the connection if it can be used again.
    async fn finish(
        &self,
        app: AppId,
        origin: &HttpOrigin,
        connection: Connection,
        response: Response<Incoming>,
    ) -> Result<OutboundResponse, OutboundError> {
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        if status < 200 {
            return Err(OutboundError::Broken {
                origin: origin.clone(),
                why: format!("the status {status} is not that of a response"),
            });
        }
        let headers = self.headers(origin, &head.headers)?;
        let body = self.body(origin, body).await?;
        if !connection.is_closed() {
            self.pool.put(app, origin.clone(), connection);
        }
        Ok(OutboundResponse {
            status,
            headers,
            body,
        })
    }

    /// Returns the headers for the plugin. The limits hold for HTTP/2 too, which compresses them.
    fn headers(
        &self,
        origin: &HttpOrigin,
        all: &HeaderMap,
    ) -> Result<Vec<(String, String)>, OutboundError> {
        let sizes = all.iter().map(|(n, v)| n.as_str().len() + v.len());
        let limit = self.config.header_bytes;
        if all.len() > self.config.headers || sizes.sum::<usize>() > limit {
            return Err(self.too_large(origin, "list of headers", limit));
        }
        // What the connection names is about the connection too.
        let named: Vec<String> = all
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|name| name.trim().to_ascii_lowercase())
            .collect();
        let is_for_plugin =
            |name: &str| !is_connection_header(name) && !named.iter().any(|named| named == name);
        let of_plugin = all.iter().filter(|(name, _)| is_for_plugin(name.as_str()));
        let text = of_plugin.filter_map(|(name, value)| {
            let value = std::str::from_utf8(value.as_bytes()).ok()?;
            Some((name.as_str().to_owned(), value.to_owned()))
        });
        Ok(text.collect())
    }

    async fn body(&self, origin: &HttpOrigin, mut body: Incoming) -> Result<Bytes, OutboundError> {
        let limit = self.config.response_bytes;
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > limit {
            return Err(self.too_large(origin, "body", limit));
        }
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(origin, &error))?;
            // Trailers are ignored.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if data.len() > limit - read.len() {
                return Err(self.too_large(origin, "body", limit));
            }
            read.extend_from_slice(&data);
        }
        Ok(read.freeze())
    }

    fn failed(&self, origin: &HttpOrigin, error: SendError) -> OutboundError {
        match error {
            SendError::Invalid(error) => error,
            SendError::NotSent => OutboundError::Broken {
                origin: origin.clone(),
                why: "the connection was closed before the request".to_owned(),
            },
            SendError::Closed(error) | SendError::Failed(error) if error.is_parse_too_large() => {
                self.too_large(origin, "list of headers", self.config.header_bytes)
            }
            SendError::Closed(error) | SendError::Failed(error) => self.broken(origin, &error),
        }
    }

    fn broken(&self, origin: &HttpOrigin, error: &hyper::Error) -> OutboundError {
        OutboundError::Broken {
            origin: origin.clone(),
            why: display_truncated(error, SHOWN_BYTES_MAX),
        }
    }

    fn too_large(&self, origin: &HttpOrigin, what: &'static str, limit: usize) -> OutboundError {
        OutboundError::ResponseTooLarge {
            origin: origin.clone(),
            what,
            limit,
        }
    }
}
