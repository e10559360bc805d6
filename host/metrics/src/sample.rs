//! Samples of the store by a background task, as gauges. A scrape shows the last sample without
//! querying the store.

use super::Metrics;
use super::table::Collected;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The maximum number of apps in [`Sample::fullest`].
pub const FULLEST_APPS: usize = 10;

/// A sample of the store.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was taken.
    pub at: SystemTime,
    /// The number of apps.
    pub apps: u64,
    /// Outstanding deliveries, without runs of schedules.
    pub pending: u64,
    /// How long the oldest due delivery has been due.
    pub overdue: Duration,
    /// The number of dead letters.
    pub dead_letters: u64,
    /// The number of paused triggers.
    pub paused_triggers: u64,
    /// Size of the database, in bytes; `None` if the store is not on a disk.
    pub database_bytes: Option<u64>,
    /// Size of the log next to the database, in bytes, and how long a reader has blocked its
    /// checkpoint.
    pub wal: Option<(u64, Duration)>,
    /// Quota use of the fullest apps.
    pub fullest: Vec<QuotaUse>,
}

/// The used part of an app's quota.
#[derive(Debug, Clone, PartialEq)]
pub struct QuotaUse {
    /// The app's name.
    pub app: String,
    /// The name of what the quota limits.
    pub resource: &'static str,
    /// 1 means all of it.
    pub ratio: f64,
}

const fn gauge(name: &'static str, labels: &'static str, help: &'static str) -> Collected {
    Collected {
        name,
        kind: "gauge",
        labels,
        help,
    }
}

/// Values of a gauge, each with its labels.
type Values<'s> = Vec<(Vec<(&'static str, &'s str)>, f64)>;

/// A gauge, and its values in a sample.
type Gauge = (Collected, for<'s> fn(&'s Sample) -> Values<'s>);

fn one<'s>(value: f64) -> Values<'s> {
    vec![(Vec::new(), value)]
}

/// All gauges.
pub(super) const METRICS: [Gauge; 9] = [
    (
        gauge(
            "sample_time_seconds",
            "",
            "When the gauges from here to kvasm_quota_used_ratio were last sampled, in seconds since 1970",
        ),
        |sample| {
            let since = sample.at.duration_since(UNIX_EPOCH);
            one(since.unwrap_or_default().as_secs_f64())
        },
    ),
    (gauge("apps", "", "Apps"), |sample| one(sample.apps as f64)),
    (
        gauge(
            "deliveries_pending",
            "",
            "Outstanding deliveries of changes and timers: due, leased, waiting for their time or a retry or behind another one, including those of paused triggers",
        ),
        |sample| one(sample.pending as f64),
    ),
    (
        gauge(
            "deliveries_overdue_seconds",
            "",
            "How long the oldest due delivery has been waiting to be claimed, without paused triggers; 0 if none waits",
        ),
        |sample| one(sample.overdue.as_secs_f64()),
    ),
    (gauge("dead_letters", "", "Dead letters"), |sample| {
        one(sample.dead_letters as f64)
    }),
    (
        gauge(
            "triggers_paused",
            "",
            "Triggers that are paused, by an operator or by failures",
        ),
        |sample| one(sample.paused_triggers as f64),
    ),
    (
        gauge(
            "store_size_bytes",
            "part",
            "Size of the store: the database, and for SQLite its wal",
        ),
        sizes,
    ),
    (
        gauge(
            "store_wal_held_seconds",
            "",
            "How long a reader has blocked the checkpoint of the SQLite WAL while it is over 16 MiB; 0 if none does",
        ),
        |sample| {
            let held = sample.wal.map(|(_, held)| held.as_secs_f64());
            held.map(one).unwrap_or_default()
        },
    ),
    (
        gauge(
            "quota_used_ratio",
            "app, resource",
            "Used part of the quota of the 10 fullest apps: entries, bytes or outstanding deliveries",
        ),
        fullest,
    ),
];

fn sizes(sample: &Sample) -> Values<'_> {
    let wal = sample.wal.map(|(bytes, _)| bytes);
    let parts = [("database", sample.database_bytes), ("wal", wal)];
    let parts = parts
        .into_iter()
        .filter_map(|(part, bytes)| bytes.map(|bytes| (vec![("part", part)], bytes as f64)));
    parts.collect()
}

fn fullest(sample: &Sample) -> Values<'_> {
    let fullest = sample.fullest.iter().take(3 * FULLEST_APPS).map(|full| {
        let labels = vec![("app", full.app.as_str()), ("resource", full.resource)];
        (labels, full.ratio)
    });
    fullest.collect()
}

/// The last sample, if there is one.
#[derive(Debug, Clone, Default)]
pub(super) struct Sampled(Arc<Mutex<Option<Sample>>>);

impl Metrics {
    /// Replaces the last sample of the store.
    pub fn sampled(&self, sample: Sample) {
        self.0.sample.set(sample);
    }

    /// Sets the age of the oldest snapshot that a Postgres session holds, in seconds.
    pub fn oldest_snapshot(&self, seconds: i64) {
        self.0.oldest_snapshot.set(seconds);
    }
}

impl Sampled {
    pub(super) fn set(&self, sample: Sample) {
        *self.0.lock() = Some(sample);
    }
}

impl Collector for Sampled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(sample) = self.0.lock().clone() else {
            return Ok(());
        };
        for (metric, values) in &METRICS {
            let values = values(&sample);
            if values.is_empty() {
                continue;
            }
            let mut encoder =
                encoder.encode_descriptor(metric.name, metric.help, None, MetricType::Gauge)?;
            for (labels, value) in values {
                match labels.is_empty() {
                    true => encoder.encode_gauge(&value)?,
                    false => encoder.encode_family(&labels)?.encode_gauge(&value)?,
                }
            }
        }
        Ok(())
    }
}
