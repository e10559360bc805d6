//! The hosts of a store: their heartbeats, and what they did in each minute.

use super::StoreError;
use super::signed::signed;
use crate::Timestamp;
use async_trait::async_trait;
use uuid::Uuid;

/// The number of buckets of a histogram of durations. The host defines their bounds; a store only
/// adds them up.
pub const DURATION_BUCKETS: usize = 16;

/// A host process, as it introduces itself with each heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBeat {
    /// The identity of the process.
    pub id: Uuid,
    /// Its name, for people. Several hosts may have the same.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// Whether it is about to stop: this is its last heartbeat.
    pub stopped: bool,
}

/// A host process, as a store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// What it said last.
    pub beat: HostBeat,
    /// When it was first seen.
    pub started_at: Timestamp,
    /// When it was last seen.
    pub seen_at: Timestamp,
}

/// What a host did in a minute. The numbers of several hosts and minutes can be added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MinuteCounts {
    /// Runs of functions, by duration.
    pub durations: [u64; DURATION_BUCKETS],
    /// Runs of functions that failed.
    pub failed: u64,
    /// Attempts at deliveries that succeeded.
    pub delivered: u64,
    /// Attempts at deliveries that failed.
    pub undelivered: u64,
    /// How long after it was due the latest delivery began, or was still waiting, in ms. Not added
    /// up: the sum is the maximum.
    pub lag_ms: u64,
}

impl MinuteCounts {
    /// Returns the number of runs of functions.
    pub fn calls(&self) -> u64 {
        self.durations
            .iter()
            .fold(0, |sum: u64, one| sum.saturating_add(*one))
    }

    /// Adds others.
    pub fn add(&mut self, other: &MinuteCounts) {
        for (own, other) in self.durations.iter_mut().zip(other.durations) {
            *own = own.saturating_add(other);
        }
        self.failed = self.failed.saturating_add(other.failed);
        self.delivered = self.delivered.saturating_add(other.delivered);
        self.undelivered = self.undelivered.saturating_add(other.undelivered);
        self.lag_ms = self.lag_ms.max(other.lag_ms);
    }
}

/// The state of a whole store, as a host saw it. The value of a longer time is the maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreGauges {
    /// Apps.
    pub apps: u64,
    /// Outstanding deliveries, without runs of schedules.
    pub pending: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Paused triggers.
    pub paused_triggers: u64,
    /// Size of the database, in bytes; `None` if it is in memory only.
    pub store_bytes: Option<u64>,
}

impl StoreGauges {
    /// Returns the maximum of each value.
    #[must_use]
    pub fn max(&self, other: &StoreGauges) -> StoreGauges {
        StoreGauges {
            apps: self.apps.max(other.apps),
            pending: self.pending.max(other.pending),
            dead_letters: self.dead_letters.max(other.dead_letters),
            paused_triggers: self.paused_triggers.max(other.paused_triggers),
            store_bytes: self.store_bytes.max(other.store_bytes),
        }
    }
}

/// A minute of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostMinute {
    /// Minutes since 1970.
    pub minute: i64,
    /// What the host did.
    pub counts: MinuteCounts,
    /// What it saw of the store, if it has sampled it yet.
    pub gauges: Option<StoreGauges>,
}

impl HostMinute {
    /// Returns what follows the minute and the host in a row, in the order of the columns: the counts,
    /// and the gauges, `None` if the host has not sampled the store.
    pub fn columns(&self) -> impl Iterator<Item = Option<i64>> {
        let (counts, gauges) = (self.counts, self.gauges);
        let others = [
            counts.failed,
            counts.delivered,
            counts.undelivered,
            counts.lag_ms,
        ];
        let counts = counts.durations.into_iter().chain(others).map(Some);
        let gauges = [
            gauges.map(|gauges| gauges.apps),
            gauges.map(|gauges| gauges.pending),
            gauges.map(|gauges| gauges.dead_letters),
            gauges.map(|gauges| gauges.paused_triggers),
            gauges.and_then(|gauges| gauges.store_bytes),
        ];
        counts.chain(gauges).map(|value| value.map(signed))
    }

    /// Reads the same columns, whose first is number 0. Gauges may be NULL.
    ///
    /// # Errors
    /// Those of reading a column.
    pub fn from_columns<E>(
        minute: i64,
        count: impl Fn(usize) -> Result<i64, E>,
        gauge: impl Fn(usize) -> Result<Option<i64>, E>,
    ) -> Result<HostMinute, E> {
        let count = |column| count(column).map(i64::unsigned_abs);
        let gauge = |column| gauge(column).map(|value| value.map(i64::unsigned_abs));
        let mut durations = [0; DURATION_BUCKETS];
        for (column, bucket) in durations.iter_mut().enumerate() {
            *bucket = count(column)?;
        }
        let rest = DURATION_BUCKETS;
        Ok(HostMinute {
            minute,
            counts: MinuteCounts {
                durations,
                failed: count(rest)?,
                delivered: count(rest + 1)?,
                undelivered: count(rest + 2)?,
                lag_ms: count(rest + 3)?,
            },
            gauges: match gauge(rest + 4)? {
                None => None,
                Some(apps) => Some(StoreGauges {
                    apps,
                    pending: gauge(rest + 5)?.unwrap_or(0),
                    dead_letters: gauge(rest + 6)?.unwrap_or(0),
                    paused_triggers: gauge(rest + 7)?.unwrap_or(0),
                    store_bytes: gauge(rest + 8)?,
                }),
            },
        })
    }
}

/// Minutes to read, summed up over hosts and over `width` minutes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinuteRange {
    /// The first minute.
    pub from: i64,
    /// The minute after the last one.
    pub to: i64,
    /// Minutes of a sum, at least 1. A sum begins at a multiple of it.
    pub width: i64,
}

/// What of the history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptMinutes {
    /// The first minute.
    pub from: i64,
    /// The last minute. Later ones were written by a wrong clock.
    pub to: i64,
    /// The maximum number of rows. The rows of the oldest minutes are removed.
    pub rows_max: u64,
}

/// The methods of a store for its hosts. They touch no app, so they lock nothing that a call needs.
#[async_trait]
pub trait HostStore: Send + Sync {
    /// Records that a host is alive, and minutes of it, each of which replaces an earlier record of
    /// the same minute. Returns the time by which it was seen: that of the database if it has a
    /// clock, otherwise `now`. Can be repeated after a lost answer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Full`] or [`StoreError::Failed`]. Some of it may
    /// be recorded.
    async fn beat(
        &self,
        host: &HostBeat,
        minutes: &[HostMinute],
        now: Timestamp,
    ) -> Result<Timestamp, StoreError>;

    /// Returns up to `limit` hosts, the last seen first.
    async fn hosts(&self, limit: u32) -> Result<Vec<HostRecord>, StoreError>;

    /// Returns the sums that have rows, in the order of time; `minute` is the first of each.
    async fn history(&self, range: MinuteRange) -> Result<Vec<HostMinute>, StoreError>;

    /// Removes up to `limit` minutes that are not kept. Returns the number removed.
    async fn prune_history(&self, kept: KeptMinutes, limit: u32) -> Result<u64, StoreError>;

    /// Removes hosts that were last seen before a time or after another one, and all but the `keep`
    /// last seen. Returns the number removed.
    async fn prune_hosts(
        &self,
        before: Timestamp,
        after: Timestamp,
        keep: u32,
    ) -> Result<u64, StoreError>;
}
