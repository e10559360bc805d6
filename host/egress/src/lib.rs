//! Outbound HTTP: a client for plugins, which connects only to addresses that it has checked.
//!
//! [`Egress::fetch`](Outbound::fetch) checks the request, asks for the app's permission, waits for
//! its turn, and sends the request over an idle connection of the same app, or over a new one.
//! `connect` is the only place that opens connections: it resolves the name, passes every address
//! to the [`AddressGuard`], and connects to one of these addresses. It follows no redirect, uses no proxy,
//! keeps no cookies and decompresses nothing.
#![deny(missing_docs)]

mod address;
mod apps;
mod config;
mod connect;
mod connection;
mod exchange;
mod guard;
mod network;
mod outgoing;
mod pool;
mod resolver;
mod tls;

use apps::{AppRequests, FetchingApps};
use async_trait::async_trait;
use connect::{CheckedConnector, ConnectError};
use kvasm_metrics::Metrics;
use kvasm_service::{
    FairSemaphore, Outbound, OutboundCaller, OutboundError, OutboundRequest, OutboundResponse,
    Share, admit_app_line,
};
use outgoing::Outgoing;
use pool::ConnectionPool;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use address::{AddressClass, address_class, embedded_v4};
pub use config::EgressConfig;
pub use guard::{AddressGuard, GuardRefusal};
pub use network::{EgressNetwork, EgressNetworkError};
#[cfg(feature = "fuzzing")]
pub use outgoing::{RequestHead, fuzz_outgoing};
pub use resolver::{Resolver, SystemResolver};
pub use tls::RootsError;

/// The client. It needs a tokio runtime with its timer and I/O enabled.
pub struct Egress {
    config: EgressConfig,
    connector: CheckedConnector,
    apps: FetchingApps,
    in_all: Arc<FairSemaphore>,
    pool: Arc<ConnectionPool>,
    metrics: Metrics,
}

impl Egress {
    /// Creates a client, which resolves names by the operating system.
    ///
    /// # Errors
    /// [`RootsError`] if the operator's certificates cannot be used.
    pub fn new(config: EgressConfig, metrics: Metrics) -> Result<Egress, RootsError> {
        Egress::with_resolver(config, metrics, Arc::new(SystemResolver))
    }

    /// Creates a client with another resolver.
    ///
    /// # Errors
    /// As [`Egress::new`].
    pub fn with_resolver(
        config: EgressConfig,
        metrics: Metrics,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Egress, RootsError> {
        let guard = AddressGuard {
            deny: config.deny.clone(),
            allow: config.allow_networks.clone(),
            deny_ports: config.deny_ports.clone(),
        };
        let tls = tls::client_config(config.roots_pem.as_deref())?;
        Ok(Egress {
            connector: CheckedConnector::new(guard, resolver, tls, metrics.clone()),
            apps: FetchingApps::default(),
            in_all: FairSemaphore::new(config.at_once, Share::All),
            pool: ConnectionPool::new(config.idle_per_app, config.idle, config.idle_timeout),
            metrics,
            config,
        })
    }

    /// Does everything except counting.
    async fn checked(
        &self,
        caller: OutboundCaller<'_>,
        request: OutboundRequest,
        began: Instant,
    ) -> Result<OutboundResponse, OutboundError> {
        let (origin, own_timeout) = (request.url.origin().clone(), request.timeout);
        let outgoing = Outgoing::new(request, &self.config)?;
        caller.permissions.allows_http(&origin).await?;
        let refused = |error| self.explained(caller, &origin, error);
        self.connector.check(&origin).map_err(refused)?;
        let app = self.apps.of(caller.app, self.config.at_once_per_app, began);
        if !app.admit(self.config.per_second, began) {
            let limit = self.config.per_second;
            return Err(OutboundError::Rate { limit });
        }
        let timeout = own_timeout.unwrap_or(self.config.timeout);
        let until_deadline = caller.deadline.saturating_duration_since(began);
        let after = timeout.min(self.config.timeout).min(until_deadline);
        let until = tokio::time::Instant::from_std(began + after);
        let turn = tokio::time::timeout_at(until, self.turn(&app, caller)).await;
        let _turn = turn.map_err(|_| OutboundError::Busy)?;
        let exchange = self.exchange(caller.app, &app, &origin, &outgoing);
        match tokio::time::timeout_at(until, exchange).await {
            Ok(result) => result.map_err(refused),
            Err(_) => Err(OutboundError::Timeout { origin, after }),
        }
    }

    /// Waits until the app and the host may send another request.
    async fn turn(&self, app: &AppRequests, caller: OutboundCaller<'_>) -> impl Sized + use<> {
        let of_app = Arc::clone(&app.at_once).acquire_owned().await;
        let in_all = self.in_all.acquire(caller.app, 1, 0).await;
        (of_app, in_all, self.metrics.fetch_running())
    }

    /// Logs a refusal of the guard, with the details that the plugin does not get.
    fn explained(
        &self,
        caller: OutboundCaller<'_>,
        origin: &kvasm_core::HttpOrigin,
        error: ConnectError,
    ) -> OutboundError {
        let (refusal, address) = match error {
            ConnectError::Other(error) => return error,
            ConnectError::Refused(refusal, address) => (refusal, address),
        };
        if let Some(suppressed) = admit_app_line(caller.app) {
            tracing::warn!(
                app = caller.app_name,
                %origin,
                address = address.map(tracing::field::display::<IpAddr>),
                reason = refusal.as_str(),
                suppressed,
                "outbound request refused: the address or port is not allowed"
            );
        }
        let what = match refusal {
            GuardRefusal::Port => "port",
            GuardRefusal::Class(_) | GuardRefusal::DeniedNetwork => "address",
        };
        let origin = origin.clone();
        OutboundError::Refused { origin, what }
    }
}

/// Counts a request, also if it is dropped.
struct FetchCounter<'c> {
    metrics: &'c Metrics,
    app_name: &'c str,
    began: Instant,
    outcome: &'static str,
    sent: usize,
    received: usize,
}

impl Drop for FetchCounter<'_> {
    fn drop(&mut self) {
        let took: Duration = self.began.elapsed();
        let (app, outcome) = (self.app_name, self.outcome);
        self.metrics
            .fetch(app, outcome, took, self.sent, self.received);
    }
}

#[async_trait]
impl Outbound for Egress {
    async fn fetch(
        &self,
        caller: OutboundCaller<'_>,
        request: OutboundRequest,
    ) -> Result<OutboundResponse, OutboundError> {
        let began = Instant::now();
        let mut counting = FetchCounter {
            metrics: &self.metrics,
            app_name: caller.app_name,
            began,
            outcome: "interrupted",
            sent: request.body.len(),
            received: 0,
        };
        let origin = request.url.origin().clone();
        let result = self.checked(caller, request, began).await;
        match &result {
            Ok(response) => {
                counting.outcome = "ok";
                counting.received = response.body.len();
            }
            Err(error) => {
                counting.outcome = error.outcome();
                if !error.may_have_been_sent() {
                    counting.sent = 0;
                }
            }
        }
        if let Err(OutboundError::Denied(_)) = &result
            && let Some(suppressed) = admit_app_line(caller.app)
        {
            let app = caller.app_name;
            tracing::warn!(app, %origin, suppressed, "outbound request refused: not permitted");
        }
        result
    }
}
