//! The HTTP server: public calls of plugins, and the administration API.
//!
//! Handlers decode a request, call the host, and encode the response. Authorisation is in the layer
//! below, `service`.
#![deny(missing_docs)]

mod access_again;
mod access_log;
mod apps;
mod audit;
mod auth;
mod batch;
mod body;
mod budget;
mod call_problem;
mod call_records;
mod calls;
mod client_address;
mod console;
mod constraints;
mod cost;
mod counted;
mod dead_letters;
mod deliveries;
mod direct;
mod document;
mod door;
mod endless;
mod export;
mod grants;
mod health;
mod idempotency;
mod idle;
mod import;
mod kv;
mod layer;
mod limits;
mod logs;
mod offload;
mod overview;
mod pages;
mod param_types;
mod params;
mod plugin_headers;
mod plugins;
mod preconditions;
mod problem;
mod request_ids;
mod request_span;
mod router;
mod sandbox;
mod serve;
mod settings;
mod stream;
mod timers;
mod tokens;
mod triggers;
mod try_handler;
mod uri;
mod watch;

use axum::Router;
use door::Door;
use kvasm_host::Host;
use router::Routes;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "fuzzing")]
pub use calls::fuzz_answer;
pub use client_address::Network;
#[cfg(feature = "fuzzing")]
pub use client_address::address as fuzz_address;
pub use direct::{handler_input, handler_response};
pub use document::openapi;
#[cfg(feature = "fuzzing")]
pub use import::{Lines, fuzz_line, fuzz_lines};
pub use pages::{Domain, PageOptions};
#[cfg(feature = "fuzzing")]
pub use preconditions::fuzz_tags;
pub use sandbox::Sandbox;
pub use serve::serve;
#[cfg(feature = "fuzzing")]
pub use uri::decode as fuzz_percent;

/// The prefix of the `type` of problems.
pub const PROBLEMS: &str = "urn:kvasm:problem:";

/// Limits of the server. Limits of calls, values and modules are the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// Maximum number of open connections; further ones wait to be accepted. Default 20,000.
    pub connections: usize,
    /// Maximum number of open connections to the administration address of [`routers`]. Default
    /// 8,192. Half of an address's connections are for requests that end: the others may watch
    /// changes and follow logs.
    pub admin_connections: usize,
    /// Maximum number of open connections of one client address, or of one IPv6 network of 64 bits;
    /// further ones are closed. `None` for no limit, as behind a proxy, where all clients have its
    /// address. Default 5,000.
    pub connections_of_address: Option<usize>,
    /// The proxies in front of the server. Only their forwarding headers (`X-Forwarded-For`,
    /// `Forwarded`) are trusted; the client address is shown in the log. Connections are always
    /// counted by peer address. Default none.
    pub trusted_proxies: Vec<Network>,
    /// Where plugins answer HTTP requests.
    pub pages: PageOptions,
    /// Maximum bytes of requests and responses in memory: bodies that are arriving or being
    /// handled, and responses that are being sent. Default 256 MiB.
    pub bytes_in_flight: usize,
    /// The minimum rate, in bytes per second, at which a client must read a response or send a
    /// body. Default 1 KiB.
    pub min_rate: usize,
    /// Timeout of a request's head. Default 30 s.
    pub head_timeout: Duration,
    /// Timeout of a connection that is idle between requests. It should be longer than a load
    /// balancer keeps its connections (mostly 60 s), or that sends requests on connections that the
    /// server is closing. Default 75 s.
    pub idle_timeout: Duration,
    /// Timeout of a request's body. Its sender may be behind `min_rate` for a third of it. An
    /// import has no timeout, and its sender may be behind for the whole of it. Default 30 s.
    pub body_timeout: Duration,
    /// How far behind `min_rate` a client that reads a response may fall, and so the longest time
    /// that it may read nothing. Default 30 s.
    pub write_timeout: Duration,
    /// How long running requests may take to finish after the server is stopped. Default 10 s.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            connections: 20_000,
            admin_connections: 8_192,
            connections_of_address: Some(5_000),
            trusted_proxies: Vec::new(),
            pages: PageOptions::default(),
            bytes_in_flight: 256 * 1024 * 1024,
            min_rate: 1024,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// The authority of requests.
#[derive(Debug, Clone)]
enum Authority {
    /// That of the token's principal; none without a token.
    Tokens,
    /// Always the operator's, with this name.
    Operator(Arc<str>),
}

/// The state shared by all handlers.
#[derive(Clone)]
struct SharedServer(Arc<ServerState>);

struct ServerState {
    host: Host,
    budget: Arc<budget::Budget>,
    aside: Arc<offload::Offload>,
    endless: endless::EndlessResponses,
    options: ServerOptions,
    trust: Authority,
    door: Door,
    /// Whether metrics, and the reasons for not being ready, need no token.
    open: bool,
    /// Cancelled when the server stops; ends endless streams.
    stop: CancellationToken,
}

impl SharedServer {
    fn new(
        host: Host,
        options: ServerOptions,
        trust: Authority,
        stop: CancellationToken,
    ) -> SharedServer {
        let metrics = host.metrics().clone();
        SharedServer(Arc::new(ServerState {
            budget: budget::Budget::new(options.bytes_in_flight, metrics),
            aside: Arc::new(offload::Offload::new()),
            endless: endless::EndlessResponses::new(options.connections),
            host,
            options,
            trust,
            door: Door::Public,
            open: false,
            stop,
        }))
    }

    /// The state for the administration address.
    fn of_admin(&self, address: AdminAddress) -> SharedServer {
        SharedServer(Arc::new(ServerState {
            host: self.host.clone(),
            budget: Arc::clone(&self.budget),
            aside: Arc::clone(&self.aside),
            endless: endless::EndlessResponses::new(self.options.admin_connections),
            options: self.options.clone(),
            trust: self.trust.clone(),
            door: Door::Admin {
                local: address.local,
            },
            open: address.open,
            stop: self.stop.clone(),
        }))
    }
}

impl std::ops::Deref for SharedServer {
    type Target = ServerState;

    fn deref(&self) -> &ServerState {
        &self.0
    }
}

/// Returns the server's routes over a host. Pass it to [`serve`], which also limits connections,
/// or nest it in your own server.
pub fn router(host: Host, options: ServerOptions, stop: CancellationToken) -> Router {
    let shared = SharedServer::new(host, options, Authority::Tokens, stop);
    router::build(shared, Routes::All)
}

/// The administration address of a server. It serves `/healthz`, `/readyz` and `/metrics`, and
/// with [`api`](AdminAddress::api) the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdminAddress {
    /// Whether the API is served here instead of at the public address, which then serves only
    /// calls, `/healthz` and `/readyz`. Pages of plugins are never served here: they would share
    /// the browser's origin with the API.
    pub api: bool,
    /// Whether `/metrics`, and the reasons in `/readyz`, need no token here. They name apps and
    /// causes, so only operators should be able to reach the address.
    pub open: bool,
    /// Whether it is a loopback address. Then a request must name it as `localhost` or by its IP
    /// address, or is refused with 421: a page whose host name resolves to a loopback address
    /// could otherwise read `/metrics`.
    pub local: bool,
    /// Whether the operator's console is served at `/`. It needs [`api`](AdminAddress::api), and
    /// is not served without it.
    pub console: bool,
}

/// Returns the routes of a server with two addresses: the public ones, and those of
/// administration. Both share the bytes in flight. Pass each to a separate [`serve`], so that
/// they have separate connection limits.
pub fn routers(
    host: Host,
    options: ServerOptions,
    admin: AdminAddress,
    stop: CancellationToken,
) -> (Router, Router) {
    let shared = SharedServer::new(host, options, Authority::Tokens, stop);
    let of_admin = shared.of_admin(admin);
    let of_api = match admin.console {
        true => Routes::Console,
        false => Routes::Api,
    };
    match admin.api {
        true => (
            router::build(shared, Routes::Calls),
            router::build(of_admin, of_api),
        ),
        false => (
            router::build(shared, Routes::All),
            router::build(of_admin, Routes::Health),
        ),
    }
}

/// Returns the same routes with the operator's authority, without a token: for programs that
/// have direct access to the store. **Never expose this to a network.** `name` is recorded in
/// the audit log.
pub fn operator_router(host: Host, name: &str) -> Router {
    let options = ServerOptions {
        // The sender of an import may pause.
        body_timeout: Duration::from_secs(24 * 60 * 60),
        // The only client is the operator.
        bytes_in_flight: usize::MAX,
        ..ServerOptions::default()
    };
    let trust = Authority::Operator(name.into());
    let shared = SharedServer::new(host, options, trust, CancellationToken::new());
    router::build(shared, Routes::All)
}
