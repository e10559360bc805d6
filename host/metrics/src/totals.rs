//! What this host did since its start, for the history of hosts in the store.

use super::Metrics;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of all buckets of durations but the last, in microseconds.
pub const DURATION_BOUNDS_US: [u64; 15] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// The number of buckets: the last one has what is beyond all bounds.
const BUCKETS: usize = DURATION_BOUNDS_US.len() + 1;

/// Totals since the start of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallTotals {
    /// Runs of functions, by duration: the last bucket has those beyond all bounds.
    pub durations: [u64; BUCKETS],
    /// Runs that failed. A run that is repeated because of a conflict has not.
    pub failed: u64,
    /// Attempts at deliveries that succeeded, or were put off by their handler.
    pub delivered: u64,
    /// Attempts at deliveries that failed.
    pub undelivered: u64,
}

/// The totals, as they are counted.
#[derive(Debug, Default)]
pub(super) struct LiveTotals {
    durations: [AtomicU64; BUCKETS],
    failed: AtomicU64,
    delivered: AtomicU64,
    undelivered: AtomicU64,
    /// The longest lag of a delivery since it was last taken, in ms.
    lag_ms: AtomicU64,
}

impl LiveTotals {
    pub(super) fn call(&self, outcome: &str, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = DURATION_BOUNDS_US.partition_point(|bound| us > *bound);
        if let Some(bucket) = self.durations.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        if !matches!(outcome, "ok" | "conflict") {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn delivery(&self, outcome: &str) {
        let counter = match outcome {
            "done" | "deferred" => &self.delivered,
            _ => &self.undelivered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lag(&self, lag: Duration) {
        let ms = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
        self.lag_ms.fetch_max(ms, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Returns what this host did since its start.
    pub fn totals(&self) -> CallTotals {
        let live = &self.0.totals;
        let mut durations = [0; BUCKETS];
        for (total, bucket) in durations.iter_mut().zip(&live.durations) {
            *total = bucket.load(Ordering::Relaxed);
        }
        CallTotals {
            durations,
            failed: live.failed.load(Ordering::Relaxed),
            delivered: live.delivered.load(Ordering::Relaxed),
            undelivered: live.undelivered.load(Ordering::Relaxed),
        }
    }

    /// Returns the longest time that a delivery was due before it began, of those since the last
    /// call.
    pub fn take_lag(&self) -> Duration {
        Duration::from_millis(self.0.totals.lag_ms.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_by_duration_and_outcome() {
        let metrics = Metrics::default();
        let run = |outcome, us| metrics.invocation("app", outcome, Duration::from_micros(us));
        for (outcome, us) in [("ok", 0), ("ok", 250), ("trap", 251), ("conflict", 2_000)] {
            run(outcome, us);
        }
        run("deadline", 10_000_001);
        for outcome in ["done", "deferred", "retry", "dead", "lost"] {
            metrics.delivery("app", outcome);
        }
        let totals = metrics.totals();
        let mut durations = [0; 16];
        (durations[0], durations[1], durations[3], durations[15]) = (2, 1, 1, 1);
        assert_eq!((totals.durations, totals.failed), (durations, 2));
        assert_eq!((totals.delivered, totals.undelivered), (2, 3));
        for ms in [5, 9, 7] {
            metrics.delivery_lag(Duration::from_millis(ms));
        }
        assert_eq!(metrics.take_lag(), Duration::from_millis(9));
        assert_eq!(metrics.take_lag(), Duration::ZERO);
    }
}
