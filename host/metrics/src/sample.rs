//! What a background task finds out about the store from time to time, as gauges. A
//! scrape shows the last sample and asks nobody.

use super::table::Collected;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The most apps of [`Sample::fullest`].
pub const FULLEST_APPS: usize = 10;

/// What was found out.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When.
    pub at: SystemTime,
    /// The number of apps.
    pub apps: u64,
    /// Outstanding deliveries, without runs of schedules.
    pub pending: u64,
    /// How long the delivery that has been due for longest has been so.
    pub overdue: Duration,
    /// The number of dead letters.
    pub dead_letters: u64,
    /// The number of paused triggers.
    pub paused_triggers: u64,
    /// The bytes of the database; `None` if the store has no place that could fill.
    pub database_bytes: Option<u64>,
    /// The bytes of the log beside the database, and how long a reader has held it.
    pub wal: Option<(u64, Duration)>,
    /// Of the fullest apps.
    pub fullest: Vec<Fullness>,
}

/// How much of a quota an app uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Fullness {
    /// The app's name.
    pub app: String,
    /// The name of what the quota limits.
    pub resource: &'static str,
    /// 1 is all of it.
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

/// All of them.
pub(super) const METRICS: [Gauge; 9] = [
    (
        gauge(
            "sample_time_seconds",
            "",
            "When the store was last asked for the gauges from here to kvasm_quota_used_ratio, in seconds since 1970",
        ),
        |sample| {
            let since = sample.at.duration_since(UNIX_EPOCH);
            one(since.unwrap_or_default().as_secs_f64())
        },
    ),
    (gauge("apps", "", "Apps that there are"), |sample| {
        one(sample.apps as f64)
    }),
    (
        gauge(
            "deliveries_pending",
            "",
            "Deliveries of changes that are outstanding: due, leased, waiting for a retry or behind another one, of paused triggers too",
        ),
        |sample| one(sample.pending as f64),
    ),
    (
        gauge(
            "deliveries_overdue_seconds",
            "",
            "How long the delivery that has been due for longest waits to be claimed, paused triggers left out; 0 if none waits",
        ),
        |sample| one(sample.overdue.as_secs_f64()),
    ),
    (
        gauge("dead_letters", "", "Dead letters that are kept"),
        |sample| one(sample.dead_letters as f64),
    ),
    (
        gauge(
            "triggers_paused",
            "",
            "Triggers that are paused, by an operator or after failures",
        ),
        |sample| one(sample.paused_triggers as f64),
    ),
    (
        gauge(
            "store_size_bytes",
            "part",
            "Size of the store: the database, and of SQLite the wal beside it",
        ),
        sizes,
    ),
    (
        gauge(
            "store_wal_held_seconds",
            "",
            "How long a reader has kept the WAL of SQLite from being folded into the database, while it is over 16 MiB; 0 if none does",
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
            "Used part of the quota of the 10 fullest apps: entries, bytes, or outstanding deliveries",
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

/// The last sample; none before the first one.
#[derive(Debug, Clone, Default)]
pub(super) struct Sampled(Arc<Mutex<Option<Sample>>>);

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
