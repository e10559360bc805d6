//! The HTTP server: public calls of plugins, and the API of administrators.
//!
//! Handlers decode a request, call the host, and encode the answer. What is
//! allowed is decided below, in `service`.
#![deny(missing_docs)]

mod apps;
mod aside;
mod audit;
mod auth;
mod batch;
mod body;
mod budget;
mod calls;
mod client;
mod counted;
mod deliveries;
mod document;
mod forwarded;
mod health;
mod idle;
mod import;
mod kv;
mod layer;
mod limits;
mod logs;
mod outstanding;
mod params;
mod plugins;
mod preconditions;
mod problem;
mod requests;
mod router;
mod serve;
mod stream;
mod takes;
mod target;
mod tokens;
mod transfer;
mod triggers;

use axum::Router;
use kvasm_host::Host;
use router::Routes;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "fuzzing")]
pub use calls::fuzz_answer;
pub use client::Network;
#[cfg(feature = "fuzzing")]
pub use client::address as fuzz_address;
pub use document::openapi;
#[cfg(feature = "fuzzing")]
pub use import::{Lines, fuzz_line, fuzz_lines};
#[cfg(feature = "fuzzing")]
pub use preconditions::fuzz_tags;
pub use serve::serve;
#[cfg(feature = "fuzzing")]
pub use target::decode as fuzz_percent;

/// What the `type` of a problem begins with.
pub const PROBLEMS: &str = "urn:kvasm:problem:";

/// Bounds of the server. Those of calls, values and modules are the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// Connections that are open at once; further ones wait to be taken. Default 20,000.
    pub connections: usize,
    /// Connections of one client address that are open at once, of an IPv6 network of
    /// 64 bits together; further ones are closed. `None` for no limit, as behind a
    /// proxy, where all clients have its address. Default 5,000.
    pub connections_of_address: Option<usize>,
    /// The proxies before the server. Only of these is it believed for whom they
    /// forward a request (`X-Forwarded-For`, `Forwarded`), which is shown in the log.
    /// Connections are always counted by the address at their other end. Default none.
    pub trusted_proxies: Vec<Network>,
    /// Bytes of requests and responses that the server holds at once: bodies that
    /// arrive or are being handled, and answers that are being sent. Default 256 MiB.
    pub bytes_in_flight: usize,
    /// The bytes a second that a client takes of a response, or sends of a body, at
    /// the least. Default 1 KiB.
    pub min_rate: usize,
    /// The longest that a request's head may take to arrive. Default 30 s.
    pub head_timeout: Duration,
    /// The longest that a connection may be idle between requests. Longer than a
    /// balancer keeps its connections (60 s with most), or it sends requests on those
    /// that the server is closing. Default 75 s.
    pub idle_timeout: Duration,
    /// The longest that a request's body may take to arrive. Its sender may be behind
    /// `min_rate` for a third of it; that of an import, which has no such limit, for all
    /// of it. Default 30 s.
    pub body_timeout: Duration,
    /// How far behind `min_rate` a client that takes a response may be, and so the
    /// longest that it may take nothing. Default 30 s.
    pub write_timeout: Duration,
    /// How long requests that run may go on after the server is stopped.
    /// Default 10 s.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            connections: 20_000,
            connections_of_address: Some(5_000),
            trusted_proxies: Vec::new(),
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

/// Who stands behind a request.
#[derive(Debug, Clone)]
enum Trust {
    /// The principal of the token; nobody without one.
    Tokens,
    /// Always the operator, by this name.
    Operator(Arc<str>),
}

/// What every handler has.
#[derive(Clone)]
struct Shared(Arc<State>);

struct State {
    host: Host,
    budget: Arc<budget::Budget>,
    aside: Arc<aside::Aside>,
    options: ServerOptions,
    trust: Trust,
    /// Whether metrics, and the reasons for not being ready, need no token.
    open: bool,
    /// Cancelled when the server stops: streams without an end then end.
    stop: CancellationToken,
}

impl Shared {
    fn new(host: Host, options: ServerOptions, trust: Trust, stop: CancellationToken) -> Shared {
        let metrics = host.metrics().clone();
        Shared(Arc::new(State {
            budget: budget::Budget::new(options.bytes_in_flight, metrics),
            aside: Arc::new(aside::Aside::new()),
            host,
            options,
            trust,
            open: false,
            stop,
        }))
    }

    /// The same, for an address where metrics need no token.
    fn open(&self) -> Shared {
        Shared(Arc::new(State {
            host: self.host.clone(),
            budget: Arc::clone(&self.budget),
            aside: Arc::clone(&self.aside),
            options: self.options.clone(),
            trust: self.trust.clone(),
            open: true,
            stop: self.stop.clone(),
        }))
    }
}

impl std::ops::Deref for Shared {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

/// The server's routes over a host. Give it to [`serve`], which also bounds
/// connections, or nest it into a server of your own.
pub fn router(host: Host, options: ServerOptions, stop: CancellationToken) -> Router {
    let shared = Shared::new(host, options, Trust::Tokens, stop);
    router::build(shared, Routes::All)
}

/// What the administration address of a server serves: `/healthz`, `/readyz` and
/// `/metrics`, and with [`api`](AdminAddress::api) the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdminAddress {
    /// Whether the API is served here, and no longer at the public address, which then
    /// has calls, `/healthz` and `/readyz` alone. Pages of plugins are never served
    /// here: they would share the browser's origin with the API.
    pub api: bool,
    /// Whether `/metrics`, and the reasons that `/readyz` gives, need no token here.
    /// They name apps and causes; let only operators reach the address.
    pub open: bool,
}

/// The routes of a server with two addresses: the public ones, and those of
/// administration. Both share the bytes in flight. Give each to a [`serve`] of its own,
/// so that connections to one never take the places of the other.
pub fn routers(
    host: Host,
    options: ServerOptions,
    admin: AdminAddress,
    stop: CancellationToken,
) -> (Router, Router) {
    let shared = Shared::new(host, options, Trust::Tokens, stop);
    let of_admin = match admin.open {
        true => shared.open(),
        false => shared.clone(),
    };
    match admin.api {
        true => (
            router::build(shared, Routes::Calls),
            router::build(of_admin, Routes::Api),
        ),
        false => (
            router::build(shared, Routes::All),
            router::build(of_admin, Routes::Health),
        ),
    }
}

/// The same routes for the operator alone, who needs no token: for programs that
/// have the store in their hands. **Never give this to a network.** `name` goes to
/// the audit log.
pub fn operator_router(host: Host, name: &str) -> Router {
    let options = ServerOptions {
        // The sender of an import may pause.
        body_timeout: Duration::from_secs(24 * 60 * 60),
        // There is no client but the operator's.
        bytes_in_flight: usize::MAX,
        ..ServerOptions::default()
    };
    let trust = Trust::Operator(name.into());
    let shared = Shared::new(host, options, trust, CancellationToken::new());
    router::build(shared, Routes::All)
}
