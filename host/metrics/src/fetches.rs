//! Outbound requests of plugins.

use super::{InUse, Metrics, OfApp};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FetchBytes {
    app: Arc<str>,
    direction: &'static str,
}

/// The directions of the bytes.
const DIRECTIONS: [&str; 2] = ["sent", "received"];

pub(super) struct FetchMetrics {
    pub(super) seconds: Histogram,
    pub(super) bytes: Family<FetchBytes, Counter>,
    pub(super) running: Gauge,
    pub(super) connections: Gauge,
}

impl Default for FetchMetrics {
    fn default() -> FetchMetrics {
        FetchMetrics {
            seconds: Histogram::new(super::SECONDS),
            bytes: Family::default(),
            running: Gauge::default(),
            connections: Gauge::default(),
        }
    }
}

impl FetchMetrics {
    /// Removes the series of a deleted app.
    pub(super) fn forget(&self, app: &Arc<str>) {
        for direction in DIRECTIONS {
            let app = Arc::clone(app);
            self.bytes.remove(&FetchBytes { app, direction });
        }
    }
}

impl Metrics {
    /// Counts an outbound request of an app, observes its duration, and counts the bytes of both
    /// bodies.
    pub fn fetch(
        &self,
        app: &str,
        outcome: &'static str,
        took: Duration,
        sent: usize,
        received: usize,
    ) {
        let fetches = &self.0.fetch;
        self.count_of_app_and(OfApp::Fetches, app, outcome, |app| {
            for (direction, bytes) in DIRECTIONS.into_iter().zip([sent, received]) {
                let app = Arc::clone(app);
                let label = FetchBytes { app, direction };
                fetches.bytes.get_or_create(&label).inc_by(bytes as u64);
            }
        });
        fetches.seconds.observe(took.as_secs_f64());
    }

    /// Counts an outbound request while the value lives.
    pub fn fetch_running(&self) -> InUse {
        InUse::new(&self.0.fetch.running, 1)
    }

    /// Counts an open connection to another server while the value lives.
    pub fn fetch_connection(&self) -> InUse {
        InUse::new(&self.0.fetch.connections, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_fetches_go_with_their_app() {
        let metrics = Metrics::default();
        let running = (metrics.fetch_running(), metrics.fetch_connection());
        metrics.fetch("shop", "ok", Duration::from_millis(1), 3, 5);
        metrics.fetch("shop", "denied", Duration::ZERO, 0, 0);
        let text = metrics.encode();
        for line in [
            "kvasm_fetches_total{app=\"shop\",outcome=\"ok\"} 1",
            "kvasm_fetches_total{app=\"shop\",outcome=\"denied\"} 1",
            "kvasm_fetch_bytes_total{app=\"shop\",direction=\"sent\"} 3",
            "kvasm_fetch_bytes_total{app=\"shop\",direction=\"received\"} 5",
            "kvasm_fetches_running 1",
            "kvasm_fetch_connections 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        drop(running);
        metrics.forget_app("shop");
        let text = metrics.encode();
        assert!(!text.contains("\"shop\""), "{text}");
        assert!(text.contains("kvasm_fetches_running 0"), "{text}");
    }
}
