//! The history of hosts: each one writes a heartbeat, and what it did in each minute, to the store.
//! An overview adds up those of all hosts.

mod attention;
mod estimate;
mod overview;

pub use attention::{AppConcern, Attention, CONCERNS_MAX, Concerns};
pub use estimate::quantile_us;
pub use overview::{
    HOSTS_SHOWN_MAX, HostState, Overview, OverviewHost, OverviewSum, OverviewWindow,
};

use crate::logs::within;
use kvasm_core::Timestamp;
use kvasm_core::store::{
    HostBeat, HostMinute, KeptMinutes, MinuteCounts, Store, StoreClock, StoreError, StoreGauges,
};
use kvasm_metrics::{CallTotals, Metrics};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Minutes that are kept while the store takes none. Older ones are added to the first of these.
const UNSENT_MAX: usize = 60;
/// A clock that is set back by more minutes than this starts a new row.
const STEP_MINUTES: i64 = 5;
/// How long hosts that do not live any more are shown.
const HOST_AGE_MS: i64 = 24 * 60 * 60 * 1_000;
/// The number of hosts that are kept, for a host that crashes whenever it starts.
const HOSTS_KEPT: u32 = 1_000;
/// Minutes by which clocks of hosts may be ahead.
const AHEAD_MINUTES: i64 = 60;
/// The longest name of a host, in characters.
pub const HOST_NAME_CHARS_MAX: usize = 64;

const MINUTE_MS: i64 = 60_000;

/// What of the history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRetention {
    /// The maximum age of a minute.
    pub age: Duration,
    /// The maximum number of rows: one for each host and minute.
    pub rows: u64,
}

/// A sample of the whole store by this host.
#[derive(Debug, Clone)]
pub struct StoreSample {
    /// When it was taken.
    pub at: Timestamp,
    /// How long the oldest due delivery has been waiting.
    pub overdue: Duration,
    /// Totals of all apps.
    pub gauges: StoreGauges,
    /// The apps that need a person.
    pub attention: Attention,
}

/// Writes the history of this host, and reads that of all hosts.
pub struct HostHistory {
    id: Uuid,
    store: Arc<dyn Store>,
    metrics: Metrics,
    keeper: Mutex<HistoryKeeper>,
    sample: parking_lot::Mutex<Option<Arc<StoreSample>>>,
}

impl HostHistory {
    /// Creates the history of a host process. It does nothing until it is called.
    pub fn new(id: Uuid, store: Arc<dyn Store>, metrics: Metrics) -> HostHistory {
        HostHistory {
            id,
            store,
            metrics,
            keeper: Mutex::default(),
            sample: parking_lot::Mutex::default(),
        }
    }

    /// Replaces the last sample of the store.
    pub fn sampled(&self, sample: StoreSample) {
        *self.sample.lock() = Some(Arc::new(sample));
    }

    fn sample(&self) -> Option<Arc<StoreSample>> {
        self.sample.lock().clone()
    }

    /// Writes a heartbeat, and what this host did since the last one. With `stopped`, it is the
    /// last: a host that stops and has written it is not reported as gone.
    ///
    /// # Errors
    /// Those of [`HostStore::beat`](kvasm_core::store::HostStore::beat). What was not written is
    /// tried again with the next heartbeat.
    pub async fn beat(&self, name: &str, stopped: bool) -> Result<(), StoreError> {
        let mut keeper = self.keeper.lock().await;
        if keeper.unsent.is_empty() {
            // The first one, which must not write into a minute of another clock.
            let clock = within(self.store.clock()).await?;
            if let StoreClock::Database(at) = clock {
                keeper.ahead_ms = at.0.saturating_sub(Timestamp::now().0);
            }
        }
        let now = Timestamp::now();
        let minute = now.0.saturating_add(keeper.ahead_ms).div_euclid(MINUTE_MS);
        let sample = self.sample();
        let lag = self.metrics.take_lag();
        keeper.collect(minute, self.metrics.totals(), lag, sample.as_deref());
        let beat = HostBeat {
            id: self.id,
            name: name.chars().take(HOST_NAME_CHARS_MAX).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stopped,
        };
        let minutes = keeper.unsent.make_contiguous();
        let seen = within(self.store.beat(&beat, minutes, now)).await?;
        keeper.ahead_ms = seen.0.saturating_sub(now.0);
        let complete = keeper.unsent.len().saturating_sub(1);
        keeper.unsent.drain(..complete);
        Ok(())
    }

    /// Returns how long it takes until the next minute begins, by the clock of the store.
    pub async fn until_next_minute(&self) -> Duration {
        let now = Timestamp::now().0;
        let now = now.saturating_add(self.keeper.lock().await.ahead_ms);
        let left = MINUTE_MS - now.rem_euclid(MINUTE_MS);
        Duration::from_millis(left.unsigned_abs())
    }

    /// Removes up to `limit` minutes that are too old or too many, and hosts that have not been seen
    /// for a day. Returns the number of minutes.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn prune(
        &self,
        now: Timestamp,
        retention: &HistoryRetention,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let this = now.0.div_euclid(MINUTE_MS);
        let age = i64::try_from(retention.age.as_secs() / 60).unwrap_or(i64::MAX);
        let kept = KeptMinutes {
            from: this.saturating_sub(age),
            to: this.saturating_add(AHEAD_MINUTES),
            rows_max: retention.rows,
        };
        let pruned = self.store.prune_history(kept, limit).await?;
        self.metrics.upkeep("host_minutes", pruned);
        let (before, after) = (
            now.0.saturating_sub(HOST_AGE_MS),
            now.0.saturating_add(AHEAD_MINUTES * MINUTE_MS),
        );
        let hosts = self
            .store
            .prune_hosts(Timestamp(before), Timestamp(after), HOSTS_KEPT)
            .await?;
        self.metrics.upkeep("hosts", hosts);
        Ok(pruned)
    }
}

/// What this host has not written yet.
#[derive(Debug, Default)]
struct HistoryKeeper {
    /// By how much the store's clock is ahead of this host's.
    ahead_ms: i64,
    /// The totals when the last of `unsent` began.
    base: CallTotals,
    /// Minutes to write. The last one is not over, and is written again.
    unsent: VecDeque<HostMinute>,
}

impl HistoryKeeper {
    /// Adds what happened since the last call. It counts for the minute of the last call, which
    /// ends now if this is another one.
    fn collect(
        &mut self,
        minute: i64,
        totals: CallTotals,
        lag: Duration,
        sample: Option<&StoreSample>,
    ) {
        let start = HostMinute {
            minute,
            gauges: sample.map(|sample| sample.gauges),
            ..HostMinute::default()
        };
        if self.unsent.is_empty() {
            self.unsent.push_back(start);
        }
        let Some(current) = self.unsent.back_mut() else {
            return;
        };
        let overdue = sample.map_or(Duration::ZERO, |sample| sample.overdue);
        let lag = u64::try_from(lag.max(overdue).as_millis()).unwrap_or(u64::MAX);
        let lag_ms = lag.max(current.counts.lag_ms);
        current.counts = MinuteCounts {
            lag_ms,
            ..since(&self.base, &totals)
        };
        current.gauges = start.gauges;
        // A clock that was set back a little has no second row for a minute.
        if minute > current.minute || minute < current.minute - STEP_MINUTES {
            self.base = totals;
            self.unsent.push_back(start);
        }
        while self.unsent.len() > UNSENT_MAX {
            let oldest = self.unsent.pop_front();
            if let (Some(oldest), Some(next)) = (oldest, self.unsent.front_mut()) {
                next.counts.add(&oldest.counts);
            }
        }
    }
}

/// The difference of totals.
fn since(base: &CallTotals, totals: &CallTotals) -> MinuteCounts {
    let mut durations = totals.durations;
    for (bucket, base) in durations.iter_mut().zip(base.durations) {
        *bucket = bucket.saturating_sub(base);
    }
    MinuteCounts {
        durations,
        failed: totals.failed.saturating_sub(base.failed),
        delivered: totals.delivered.saturating_sub(base.delivered),
        undelivered: totals.undelivered.saturating_sub(base.undelivered),
        lag_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(calls: u64) -> CallTotals {
        let mut totals = CallTotals::default();
        totals.durations[3] = calls;
        totals.failed = calls / 2;
        totals
    }

    fn rows(keeper: &HistoryKeeper) -> Vec<(i64, u64)> {
        let rows = keeper.unsent.iter();
        rows.map(|row| (row.minute, row.counts.calls())).collect()
    }

    #[test]
    fn minutes_add_up_to_the_totals_whatever_the_clock_does() {
        let mut keeper = HistoryKeeper::default();
        let mut collect = |minute, calls| {
            keeper.collect(minute, totals(calls), Duration::from_millis(calls), None);
            rows(&keeper)
        };
        assert_eq!(collect(10, 3), [(10, 3)]);
        assert_eq!(collect(10, 4), [(10, 4)]);
        assert_eq!(collect(11, 6), [(10, 6), (11, 0)]);
        assert_eq!(collect(11, 9), [(10, 6), (11, 3)]);
        // A little back, and forth again.
        assert_eq!(collect(9, 10), [(10, 6), (11, 4)]);
        assert_eq!(collect(14, 12), [(10, 6), (11, 6), (14, 0)]);
        assert_eq!(collect(1, 13), [(10, 6), (11, 6), (14, 1), (1, 0)]);
        let all: u64 = collect(2, 20).iter().map(|(_, calls)| calls).sum();
        assert_eq!(all, 20);
        assert_eq!(keeper.unsent[0].counts.lag_ms, 6);
    }

    #[test]
    fn unsent_minutes_are_bounded_and_lose_no_calls() {
        let mut keeper = HistoryKeeper::default();
        for minute in 0..200 {
            keeper.collect(minute, totals(minute as u64 * 2), Duration::ZERO, None);
        }
        let rows = rows(&keeper);
        assert_eq!(rows.len(), UNSENT_MAX);
        let calls: u64 = rows.iter().map(|(_, calls)| calls).sum();
        assert_eq!(calls, 199 * 2);
    }
}
