//! Accepts and serves connections: their limits, timeouts and shutdown.

use super::ServerOptions;
use super::client_address::Remote;
use super::idle::IdleTracked;
use super::stream::{Peer, Stream};
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use kvasm_metrics::Metrics;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Maximum size of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Maximum number of headers of a request.
const HEADERS_MAX: usize = 100;
/// Bytes of responses that the kernel buffers for a connection before it sends them.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES_MAX: u32 = 32 * 1024;
/// The pause after a failed accept, such as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP/1.1 until `stop` is cancelled. Then it accepts no more connections, lets running
/// requests finish within [`ServerOptions::drain_timeout`], and returns.
///
/// # Returns
/// Whether all requests finished in time.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServerOptions,
    metrics: Metrics,
    stop: CancellationToken,
) -> bool {
    let places = options.connections.min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(places));
    let addresses = ConnectionsByAddress::new(options.connections_of_address);
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    // The stream has its own timers for heads and idle connections.
    http.timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        // A client may close its side once it has sent its request.
        .half_close(true);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, address, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(of_address) = addresses.open(address) else {
            metrics.connection_refused();
            continue;
        };
        let stream = Stream::new(stream, &options);
        let (service, peer) = (service.clone(), stream.peer());
        let with_peer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(Remote(address));
            handle(service.clone(), peer.clone(), request)
        });
        let connection = http.serve_connection(TokioIo::new(stream), with_peer);
        let connection = graceful.watch(connection);
        let open = metrics.connection();
        tokio::spawn(async move {
            // A client that disconnects or is too slow does not concern the operator.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended early");
            }
            drop((place, of_address, open));
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => true,
        () = tokio::time::sleep(options.drain_timeout) => false,
    }
}

/// Handles a request. Also reads the rest of a short body that its handler has not read, so that
/// the connection can be reused.
async fn handle(
    service: TowerToHyperService<Router>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<IdleTracked<Body>>, Infallible> {
    // Such a client sends its body only when it is read.
    let waits = request.headers().contains_key(EXPECT);
    let (parts, body) = request.into_parts();
    let (body, rest) = peer.body(body);
    let answered = service.call(Request::from_parts(parts, body));
    let mut response = answered.await?;
    let is_kept = match waits {
        true => rest.abandon(),
        false => rest.discard().await,
    };
    if !is_kept {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response.map(|body| peer.answer(body)))
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    // A permit is acquired before accepting: further connections wait in the backlog.
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    // So that small responses are sent immediately.
    stream.set_nodelay(true)?;
    // Otherwise the socket becomes writable only once a third of its buffer is free, which can be a
    // megabyte: a client at the minimum rate would seem to read nothing.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    Ok((stream, address.ip(), place))
}

/// The number of open connections of each client address.
struct ConnectionsByAddress {
    limit: Option<usize>,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// An open connection of an address.
struct AddressPermit {
    addresses: Arc<ConnectionsByAddress>,
    address: IpAddr,
}

impl ConnectionsByAddress {
    fn new(limit: Option<usize>) -> Arc<ConnectionsByAddress> {
        let open = Mutex::default();
        Arc::new(ConnectionsByAddress { limit, open })
    }

    /// Counts a connection, unless its address already has the maximum.
    fn open(self: &Arc<ConnectionsByAddress>, address: IpAddr) -> Option<AddressPermit> {
        let address = client(address);
        let mut open = self.open.lock();
        let count = open.get(&address).copied().unwrap_or(0);
        if self.limit.is_some_and(|limit| count >= limit) {
            return None;
        }
        open.insert(address, count + 1);
        let addresses = Arc::clone(self);
        Some(AddressPermit { addresses, address })
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// The address that identifies a client. With IPv6, a client has a network of 64 bits.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_limit_is_per_client() {
        let addresses = ConnectionsByAddress::new(Some(2));
        let open = |address: &str| addresses.open(address.parse().unwrap());
        let first = open("2001:db8::1").unwrap();
        let second = open("2001:db8::ffff:1").unwrap();
        assert!(open("2001:db8::2").is_none());
        let neighbour = open("2001:db8:0:1::1").unwrap();
        drop(first);
        let third = open("2001:db8::3").unwrap();
        let v4 = [
            open("192.0.2.1").unwrap(),
            open("::ffff:192.0.2.1").unwrap(),
        ];
        assert!(open("192.0.2.1").is_none());
        let other = open("192.0.2.2").unwrap();
        drop((second, third, neighbour));
        assert_eq!(addresses.open.lock().len(), 2);
        drop((v4, other));
        assert!(addresses.open.lock().is_empty());
    }
}
