//! Watchers of changes.

use super::{InUse, Metrics, NameLabel};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Default)]
pub(super) struct WatchMetrics {
    pub(super) watchers: Gauge,
    pub(super) gaps: Counter,
    pub(super) ends: Family<NameLabel, Counter>,
}

impl Metrics {
    /// Counts a watcher of an app's changes until the guard is dropped.
    pub fn watcher(&self) -> InUse {
        InUse::new(&self.0.watch.watchers, 1)
    }

    /// Counts a gap: changes that a watcher asked for are not kept any more.
    pub fn watch_gap(&self) {
        self.0.watch.gaps.inc();
    }

    /// Counts a watcher that the host has ended, with the reason.
    pub fn watch_ended(&self, name: &'static str) {
        let ends = &self.0.watch.ends;
        ends.get_or_create(&NameLabel { name }).inc();
    }
}
