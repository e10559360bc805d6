//! New connections: the name's addresses, each of them checked, then TCP to one of those, then
//! TLS. There is no other way to a server.

use super::apps::AppRequests;
use super::config::EgressConfig;
use super::connection::Connection;
use super::guard::{AddressGuard, GuardRefusal};
use super::resolver::Resolver;
use hyper::Version;
use kvasm_core::{HostName, HttpOrigin, Scheme, display_truncated};
use kvasm_metrics::Metrics;
use kvasm_service::OutboundError;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

/// Name resolutions of all apps at once: each occupies a thread.
const LOOKUPS: usize = 64;
/// The number of addresses of a name that are tried.
const ADDRESSES_TRIED: usize = 8;
/// How much of another's error an error shows, in bytes.
const SHOWN_BYTES_MAX: usize = 256;

/// Why there is no connection. A refusal of the guard is logged, and reported to the plugin without
/// its details.
pub(crate) enum ConnectError {
    Refused(GuardRefusal, Option<IpAddr>),
    Other(OutboundError),
}

impl From<OutboundError> for ConnectError {
    fn from(error: OutboundError) -> ConnectError {
        ConnectError::Other(error)
    }
}

pub(crate) struct CheckedConnector {
    guard: AddressGuard,
    resolver: Arc<dyn Resolver>,
    tls: TlsConnector,
    lookups: Arc<Semaphore>,
    metrics: Metrics,
}

impl CheckedConnector {
    pub(crate) fn new(
        guard: AddressGuard,
        resolver: Arc<dyn Resolver>,
        tls: Arc<ClientConfig>,
        metrics: Metrics,
    ) -> CheckedConnector {
        CheckedConnector {
            guard,
            resolver,
            tls: tls.into(),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            metrics,
        }
    }

    /// Checks what needs no name resolution: the port, and an address in place of a name.
    pub(crate) fn check(&self, origin: &HttpOrigin) -> Result<(), ConnectError> {
        let port = self.guard.check_port(origin.port());
        port.map_err(|refusal| ConnectError::Refused(refusal, None))?;
        let address = match origin.host() {
            HostName::Name(_) => return Ok(()),
            HostName::V4(address) => IpAddr::V4(*address),
            HostName::V6(address) => IpAddr::V6(*address),
        };
        self.check_all([address]).map(drop)
    }

    /// Connects to an origin.
    pub(crate) async fn connect(
        &self,
        app: &AppRequests,
        origin: &HttpOrigin,
        config: &EgressConfig,
    ) -> Result<Connection, ConnectError> {
        let until = Instant::now() + config.connect_timeout;
        let timed_out = || OutboundError::Timeout {
            origin: origin.clone(),
            after: config.connect_timeout,
        };
        let addresses = timeout_at(until, self.addresses(app, origin)).await;
        let addresses = addresses.map_err(|_| timed_out())??;
        let stream = tcp(origin, &addresses, until).await?;
        let start = self.start(stream, origin, config);
        let connection = timeout_at(until, start).await;
        Ok(connection.map_err(|_| timed_out())??)
    }

    /// Returns the addresses of an origin, all of which the guard has passed.
    async fn addresses(
        &self,
        app: &AppRequests,
        origin: &HttpOrigin,
    ) -> Result<Vec<IpAddr>, ConnectError> {
        let name = match origin.host() {
            HostName::V4(address) => return self.check_all([IpAddr::V4(*address)]),
            HostName::V6(address) => return self.check_all([IpAddr::V6(*address)]),
            HostName::Name(name) => name.clone(),
        };
        let failed = |why: String| OutboundError::Name {
            origin: origin.clone(),
            why,
        };
        // A resolution continues after its request has timed out. The permits go with it, so that
        // neither the app nor all of them together start more than the limit.
        let of_app = Arc::clone(&app.lookups).acquire_owned().await;
        let in_all = Arc::clone(&self.lookups).acquire_owned().await;
        let resolver = Arc::clone(&self.resolver);
        let lookup = tokio::spawn(async move {
            let found = resolver.resolve(&name).await;
            drop((of_app, in_all));
            found
        });
        let found = lookup.await.map_err(|_| failed("interrupted".to_owned()))?;
        // The message of the system names no server, but it is not for plugins.
        let found = found.map_err(|error| failed(kind(&error)))?;
        if found.is_empty() {
            return Err(failed("the name has no address".to_owned()).into());
        }
        self.check_all(found)
    }

    fn check_all(
        &self,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Vec<IpAddr>, ConnectError> {
        let check = |address| {
            let checked = self.guard.check(address);
            checked.map_err(|refusal| ConnectError::Refused(refusal, Some(address)))
        };
        addresses.into_iter().map(check).collect()
    }

    /// Starts TLS, if the scheme says so, and HTTP.
    async fn start(
        &self,
        stream: TcpStream,
        origin: &HttpOrigin,
        config: &EgressConfig,
    ) -> Result<Connection, OutboundError> {
        let open = self.metrics.fetch_connection();
        let broken = |error: hyper::Error| OutboundError::Broken {
            origin: origin.clone(),
            why: display_truncated(&error, SHOWN_BYTES_MAX),
        };
        if origin.scheme() == Scheme::Http {
            let started = Connection::start(stream, Version::HTTP_11, config, open).await;
            return started.map_err(broken);
        }
        let failed = |error: &dyn std::fmt::Display| OutboundError::Tls {
            origin: origin.clone(),
            why: display_truncated(error, SHOWN_BYTES_MAX),
        };
        let name = server_name(origin.host()).map_err(|error| failed(&error))?;
        let stream = self.tls.connect(name, stream).await;
        let stream = stream.map_err(|error| failed(&tls_reason(&error)))?;
        let version = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Version::HTTP_2,
            _ => Version::HTTP_11,
        };
        let started = Connection::start(stream, version, config, open).await;
        started.map_err(broken)
    }
}

/// Returns the name that the certificate must have.
fn server_name(
    host: &HostName,
) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    match host {
        HostName::Name(name) => ServerName::try_from(name.clone()),
        HostName::V4(address) => Ok(ServerName::from(IpAddr::V4(*address))),
        HostName::V6(address) => Ok(ServerName::from(IpAddr::V6(*address))),
    }
}

/// Returns rustls's reason, which is about the certificate or the protocol, or the kind of the
/// error.
fn tls_reason(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(cause @ rustls::Error::InvalidCertificate(_)) => certificate_reason(cause),
        Some(cause) => cause.to_string(),
        None => kind(error),
    }
}

/// Returns the kind of a certificate's error, without the names and times in it.
fn certificate_reason(error: &rustls::Error) -> String {
    use rustls::CertificateError::*;
    let reason = match error {
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "the server's certificate has expired"
        }
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet"
        }
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "the server's certificate is for another name"
        }
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            "the server's certificate is not from a trusted authority"
        }
        other => return other.to_string(),
    };
    reason.to_owned()
}

/// Connects to the first address that answers. Each gets an equal share of the remaining time.
async fn tcp(
    origin: &HttpOrigin,
    addresses: &[IpAddr],
    until: Instant,
) -> Result<TcpStream, OutboundError> {
    let mut why = "timed out".to_owned();
    let tried = addresses.len().min(ADDRESSES_TRIED);
    for (at, address) in addresses.iter().take(tried).enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = u32::try_from(tried - at).unwrap_or(u32::MAX);
        let until = Instant::now() + left.checked_div(share).unwrap_or(Duration::ZERO);
        let connect = TcpStream::connect(SocketAddr::new(*address, origin.port()));
        match timeout_at(until, connect).await {
            Ok(Ok(stream)) => {
                // Without it, a small request waits for the acknowledgement of its start.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => why = kind(&error),
            Err(_) => why = "timed out".to_owned(),
        }
    }
    Err(OutboundError::Connect {
        origin: origin.clone(),
        why,
    })
}

/// Returns the kind of an error, without what the system adds.
fn kind(error: &io::Error) -> String {
    error.kind().to_string()
}
