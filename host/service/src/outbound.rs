//! Outbound HTTP: requests of plugins to other servers.
//!
//! The client is behind a trait, because not every host has one. Each request carries its app's
//! permissions, so that no implementation can be called without them.

use super::{ServiceError, SettingsSnapshot};
use async_trait::async_trait;
use bytes::Bytes;
use kvasm_core::{AppId, HttpOrigin, HttpUrl, NotPermitted};
use std::time::{Duration, Instant};
use thiserror::Error;

/// What an app may reach.
#[async_trait]
pub trait HttpPermissions: Send + Sync {
    /// Checks that the app may send requests to an origin now. It is called for each request, so
    /// that a revocation takes effect at once.
    ///
    /// # Errors
    /// [`ServiceError::NotPermitted`] if it may not; any other if that cannot be found out.
    async fn allows_http(&self, origin: &HttpOrigin) -> Result<(), ServiceError>;
}

#[async_trait]
impl HttpPermissions for SettingsSnapshot {
    async fn allows_http(&self, origin: &HttpOrigin) -> Result<(), ServiceError> {
        Ok(self.current_permissions().await?.allows_http(origin)?)
    }
}

/// On whose behalf a request is sent, and until when.
#[derive(Clone, Copy)]
pub struct OutboundCaller<'c> {
    /// The app.
    pub app: AppId,
    /// Its name, for the log and the metrics.
    pub app_name: &'c str,
    /// What it may reach.
    pub permissions: &'c dyn HttpPermissions,
    /// When the call ends that sends the request.
    pub deadline: Instant,
}

/// A request to another server. Nothing in it was checked, except the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundRequest {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: HttpUrl,
    /// Names and values of headers. A name may occur more than once.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// The maximum duration, if it is less than the host's.
    pub timeout: Option<Duration>,
}

/// The response of another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundResponse {
    /// The status, from 200 to 999.
    pub status: u16,
    /// Names, in lower case, and values of headers. Those about the connection are removed, and
    /// those whose value is not UTF-8.
    pub headers: Vec<(String, String)>,
    /// The body, as it was sent: it is not decompressed.
    pub body: Bytes,
}

/// Who is responsible for a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutboundBlame {
    /// The plugin, or the app's limits.
    Guest,
    /// The operator of this host, or who grants permissions.
    Operator,
    /// The other server, or the way to it.
    Remote,
    /// This host.
    Host,
}

/// Why a request has no response. Messages are for the plugin: none has an address or a name that
/// the plugin did not name.
#[derive(Debug, Error)]
pub enum OutboundError {
    /// The request is malformed.
    #[error("{0}")]
    Invalid(String),
    /// The request exceeds a limit.
    #[error("the request's {what} has {len} bytes; the limit is {limit} bytes")]
    RequestTooLarge {
        /// The part.
        what: &'static str,
        /// Its size in bytes.
        len: usize,
        /// The maximum, in bytes.
        limit: usize,
    },
    /// The plugin does not declare the origin, or the app does not grant it.
    #[error(transparent)]
    Denied(NotPermitted),
    /// The app sends too many requests.
    #[error("the app has sent {limit} requests within a second, its limit; retry later")]
    Rate {
        /// The maximum number per second.
        limit: u32,
    },
    /// The app, or the host, waits for too many requests.
    #[error("too many outbound requests at once; the request was not sent within its time")]
    Busy,
    /// This host sends no requests.
    #[error("outbound HTTP is off on this host; its operator can set egress.enabled")]
    Off,
    /// The host's configuration does not allow the address or the port.
    #[error("this host does not connect to {origin}: its {what} is not allowed by the operator")]
    Refused {
        /// The origin.
        origin: HttpOrigin,
        /// What is not allowed: an address or a port.
        what: &'static str,
    },
    /// The name has no address.
    #[error("cannot find the address of {origin}: {why}")]
    Name {
        /// The origin.
        origin: HttpOrigin,
        /// What went wrong.
        why: String,
    },
    /// There is no connection.
    #[error("cannot connect to {origin}: {why}")]
    Connect {
        /// The origin.
        origin: HttpOrigin,
        /// What went wrong.
        why: String,
    },
    /// The TLS handshake failed.
    #[error("cannot establish TLS with {origin}: {why}")]
    Tls {
        /// The origin.
        origin: HttpOrigin,
        /// What went wrong.
        why: String,
    },
    /// There was no complete response within the time limit.
    #[error("no complete response from {origin} within {} ms", .after.as_millis())]
    Timeout {
        /// The origin.
        origin: HttpOrigin,
        /// The time limit.
        after: Duration,
    },
    /// The response exceeds a limit.
    #[error("the {what} of the response from {origin} is larger than {limit} bytes, the limit")]
    ResponseTooLarge {
        /// The origin.
        origin: HttpOrigin,
        /// The part.
        what: &'static str,
        /// The maximum, in bytes.
        limit: usize,
    },
    /// The connection ended, or the response is malformed.
    #[error("the response from {origin} is incomplete or malformed: {why}")]
    Broken {
        /// The origin.
        origin: HttpOrigin,
        /// What went wrong.
        why: String,
    },
    /// The permissions cannot be read.
    #[error(transparent)]
    Permissions(ServiceError),
}

impl From<ServiceError> for OutboundError {
    fn from(error: ServiceError) -> OutboundError {
        match error {
            ServiceError::NotPermitted(why) => OutboundError::Denied(why),
            other => OutboundError::Permissions(other),
        }
    }
}

impl OutboundError {
    /// Returns who is responsible.
    pub fn blame(&self) -> OutboundBlame {
        match self {
            OutboundError::Invalid(_)
            | OutboundError::RequestTooLarge { .. }
            | OutboundError::Rate { .. }
            | OutboundError::Busy => OutboundBlame::Guest,
            OutboundError::Denied(_) | OutboundError::Off | OutboundError::Refused { .. } => {
                OutboundBlame::Operator
            }
            OutboundError::Name { .. }
            | OutboundError::Connect { .. }
            | OutboundError::Tls { .. }
            | OutboundError::Timeout { .. }
            | OutboundError::ResponseTooLarge { .. }
            | OutboundError::Broken { .. } => OutboundBlame::Remote,
            OutboundError::Permissions(_) => OutboundBlame::Host,
        }
    }

    /// Returns whether the other server may have received the request, and may have acted on it.
    pub fn may_have_been_sent(&self) -> bool {
        match self {
            OutboundError::Timeout { .. }
            | OutboundError::ResponseTooLarge { .. }
            | OutboundError::Broken { .. } => true,
            OutboundError::Invalid(_)
            | OutboundError::RequestTooLarge { .. }
            | OutboundError::Denied(_)
            | OutboundError::Rate { .. }
            | OutboundError::Busy
            | OutboundError::Off
            | OutboundError::Refused { .. }
            | OutboundError::Name { .. }
            | OutboundError::Connect { .. }
            | OutboundError::Tls { .. }
            | OutboundError::Permissions(_) => false,
        }
    }

    /// Returns the name of the outcome, for metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            OutboundError::Invalid(_) => "invalid",
            OutboundError::RequestTooLarge { .. } => "request_too_large",
            OutboundError::Denied(_) => "denied",
            OutboundError::Rate { .. } => "rate",
            OutboundError::Busy => "busy",
            OutboundError::Off => "off",
            OutboundError::Refused { .. } => "refused",
            OutboundError::Name { .. } => "name",
            OutboundError::Connect { .. } => "connect",
            OutboundError::Tls { .. } => "tls",
            OutboundError::Timeout { .. } => "timeout",
            OutboundError::ResponseTooLarge { .. } => "response_too_large",
            OutboundError::Broken { .. } => "broken",
            OutboundError::Permissions(_) => "permissions",
        }
    }
}

/// A client of other HTTP servers.
#[async_trait]
pub trait Outbound: Send + Sync {
    /// Sends a request, if its origin is permitted, and returns the response. Redirects are
    /// responses too.
    ///
    /// # Errors
    /// [`OutboundError`]. It says whether the server [may have received
    /// it](OutboundError::may_have_been_sent).
    async fn fetch(
        &self,
        caller: OutboundCaller<'_>,
        request: OutboundRequest,
    ) -> Result<OutboundResponse, OutboundError>;
}
