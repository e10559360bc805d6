//! The configuration of outbound HTTP.

use super::network::EgressNetwork;
use kvasm_abi::limits;
use std::time::Duration;

/// The bounds of outbound HTTP, which no permission of an app exceeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressConfig {
    /// Networks that are refused, in addition to those that are not public. Default none.
    pub deny: Vec<EgressNetwork>,
    /// Networks that are allowed although they are not public. Default none.
    pub allow_networks: Vec<EgressNetwork>,
    /// Ports that are refused. Default 25, so that no plugin sends mail.
    pub deny_ports: Vec<u16>,
    /// Certificates in PEM that are trusted in addition to the web's authorities. Default none.
    pub roots_pem: Option<Vec<u8>>,
    /// Size of a request's body, in bytes. Default 1 MiB.
    pub request_bytes: usize,
    /// Size of a response's body, in bytes. Default 4 MiB.
    pub response_bytes: usize,
    /// Size of the headers of a request, or of a response, in bytes. Default 64 KiB.
    pub header_bytes: usize,
    /// Headers of a request, or of a response. Default 128.
    pub headers: usize,
    /// Time for finding the address, connecting and TLS. Default 5 s.
    pub connect_timeout: Duration,
    /// Time for a request in all, and the maximum that a plugin can set. Default 30 s.
    pub timeout: Duration,
    /// Requests of an app at once. Further ones wait. Default 16.
    pub at_once_per_app: u32,
    /// Requests of all apps at once, shared fairly among them. Default 64.
    pub at_once: u32,
    /// Requests of an app per second. Default 100.
    pub per_second: u32,
    /// Idle connections of an app. Default 8.
    pub idle_per_app: usize,
    /// Idle connections of all apps. Default 128.
    pub idle: usize,
    /// Time after which an idle connection is closed. Default 30 s.
    pub idle_timeout: Duration,
}

impl EgressConfig {
    /// Returns how many connections can be open at once, in use or idle.
    pub fn connections_max(&self) -> u64 {
        u64::from(self.at_once).saturating_add(self.idle as u64)
    }
}

impl Default for EgressConfig {
    fn default() -> EgressConfig {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        EgressConfig {
            deny: Vec::new(),
            allow_networks: Vec::new(),
            deny_ports: vec![25],
            roots_pem: None,
            request_bytes: limits::FETCH_BODY_BYTES,
            response_bytes: 4 * MIB,
            header_bytes: limits::FETCH_HEADER_BYTES,
            headers: limits::FETCH_HEADERS,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            at_once_per_app: 16,
            at_once: 64,
            per_second: 100,
            idle_per_app: 8,
            idle: 128,
            idle_timeout: Duration::from_secs(30),
        }
    }
}
