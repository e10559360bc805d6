//! The overview of a store.

use kvasm_core::store::{MinuteCounts, StoreGauges};
use kvasm_service::{Concerns, Overview, OverviewHost, OverviewSum, OverviewWindow, quantile_us};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The hosts of a store, what they did, and what needs a person.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverviewView {
    /// The time of the store.
    pub now: i64,
    /// How far back the series goes: `1h` or `1d`.
    pub window: String,
    /// The duration of a part of the series, in milliseconds.
    pub part_ms: i64,
    /// What needs a person; absent until this host has sampled the store.
    pub attention: Option<AttentionView>,
    /// Background tasks that fail on the host that answers.
    pub failing_tasks: Vec<String>,
    /// The hosts.
    pub hosts: OverviewHosts,
    /// What all hosts did in the window.
    pub total: OverviewNumbers,
    /// The parts of the window, in the order of time. The last one is not over yet.
    pub series: Vec<OverviewPart>,
}

/// Hosts that were seen within a day.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverviewHosts {
    /// The number of hosts that were seen within a minute.
    pub alive: u64,
    /// The number of hosts that have been silent for longer, and have not stopped.
    pub gone: u64,
    /// The number of hosts that have stopped.
    pub stopped: u64,
    /// Those that are gone, then those that live, then those that have stopped; at most 50.
    pub list: Vec<OverviewHostView>,
}

/// A host process.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverviewHostView {
    /// Id of the process.
    pub id: String,
    /// Name, which several hosts may have.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// `alive`, `gone` or `stopped`.
    pub state: String,
    /// When it was first seen.
    pub started_at: i64,
    /// When it was last seen.
    pub seen_at: i64,
}

/// What all hosts did in some time.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverviewNumbers {
    /// Runs of functions: calls, handlers, and repetitions of transactions.
    pub calls: u64,
    /// Runs that failed.
    pub failed: u64,
    /// The median of their durations in microseconds, estimated from a histogram; `null` without a
    /// run.
    pub p50_us: Option<u64>,
    /// The duration that one run in a hundred exceeds, estimated likewise; at most 10 s.
    pub p99_us: Option<u64>,
    /// Attempts at deliveries that succeeded.
    pub delivered: u64,
    /// Attempts at deliveries that failed.
    pub undelivered: u64,
    /// How long after it was due the latest delivery began or was still waiting, in milliseconds.
    pub lag_ms: u64,
}

/// A part of the window.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverviewPart {
    /// When it begins.
    pub at: i64,
    /// What all hosts did in it.
    #[serde(flatten)]
    pub numbers: OverviewNumbers,
    /// The largest number of apps in this time; `null`, like the next four, if no host sampled the
    /// store.
    pub apps: Option<u64>,
    /// The largest number of outstanding deliveries.
    pub pending: Option<u64>,
    /// The largest number of dead letters.
    pub dead_letters: Option<u64>,
    /// The largest number of paused triggers.
    pub paused_triggers: Option<u64>,
    /// The largest size of the database, in bytes; also `null` if it is not on a disk.
    pub store_bytes: Option<u64>,
}

/// What needs a person, as of the last sample of the store by the host that answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AttentionView {
    /// When the sample was taken.
    pub sampled_at: i64,
    /// Apps with paused triggers; the amount is their number.
    pub paused_triggers: ConcernList,
    /// Apps with dead letters; the amount is their number.
    pub dead_letters: ConcernList,
    /// Quotas that are used for at least 90 %: `entries`, `bytes` or `deliveries`. The amount is the
    /// used part in percent.
    pub quotas: ConcernList,
    /// Schedules that are late by more than a minute; the amount is by how much, in milliseconds.
    pub late_schedules: ConcernList,
    /// Apps with deliveries that are due for more than a minute; the amount is for how long, in
    /// milliseconds.
    pub overdue: ConcernList,
}

/// Apps that need a person for the same reason.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConcernList {
    /// The number of all.
    pub total: u64,
    /// The worst ones, at most 20.
    pub worst: Vec<ConcernView>,
}

/// An app that needs a person.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConcernView {
    /// Name of the app.
    pub app: String,
    /// Name of the schedule or the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How bad it is.
    pub amount: u64,
}

impl From<&Concerns> for ConcernList {
    fn from(concerns: &Concerns) -> ConcernList {
        let worst = concerns.worst.iter().map(|concern| ConcernView {
            app: concern.app.to_string(),
            name: concern.name.clone(),
            amount: concern.amount,
        });
        ConcernList {
            total: concerns.total,
            worst: worst.collect(),
        }
    }
}

impl From<&MinuteCounts> for OverviewNumbers {
    fn from(counts: &MinuteCounts) -> OverviewNumbers {
        OverviewNumbers {
            calls: counts.calls(),
            failed: counts.failed,
            p50_us: quantile_us(&counts.durations, 0.5),
            p99_us: quantile_us(&counts.durations, 0.99),
            delivered: counts.delivered,
            undelivered: counts.undelivered,
            lag_ms: counts.lag_ms,
        }
    }
}

impl From<&OverviewSum> for OverviewPart {
    fn from(sum: &OverviewSum) -> OverviewPart {
        let gauge = |read: fn(&StoreGauges) -> u64| sum.gauges.as_ref().map(read);
        OverviewPart {
            at: sum.at.0,
            numbers: (&sum.counts).into(),
            apps: gauge(|gauges| gauges.apps),
            pending: gauge(|gauges| gauges.pending),
            dead_letters: gauge(|gauges| gauges.dead_letters),
            paused_triggers: gauge(|gauges| gauges.paused_triggers),
            store_bytes: sum.gauges.and_then(|gauges| gauges.store_bytes),
        }
    }
}

impl From<&OverviewHost> for OverviewHostView {
    fn from(host: &OverviewHost) -> OverviewHostView {
        let (record, beat) = (&host.record, &host.record.beat);
        OverviewHostView {
            id: beat.id.to_string(),
            name: beat.name.clone(),
            version: beat.version.clone(),
            state: host.state.as_str().to_owned(),
            started_at: record.started_at.0,
            seen_at: record.seen_at.0,
        }
    }
}

impl OverviewView {
    /// The JSON of an overview, with the failing tasks of the host that answers.
    pub fn new(overview: &Overview, failing_tasks: Vec<String>) -> OverviewView {
        let [alive, gone, stopped] = overview.hosts_total;
        let attention = overview.sample.as_ref().map(|sample| AttentionView {
            sampled_at: sample.at.0,
            paused_triggers: (&sample.attention.paused_triggers).into(),
            dead_letters: (&sample.attention.dead_letters).into(),
            quotas: (&sample.attention.quotas).into(),
            late_schedules: (&sample.attention.late_schedules).into(),
            overdue: (&sample.attention.overdue).into(),
        });
        OverviewView {
            now: overview.now.0,
            window: match overview.window {
                OverviewWindow::Hour => "1h".to_owned(),
                OverviewWindow::Day => "1d".to_owned(),
            },
            part_ms: overview.window.width() * 60_000,
            attention,
            failing_tasks,
            hosts: OverviewHosts {
                alive,
                gone,
                stopped,
                list: overview.hosts.iter().map(OverviewHostView::from).collect(),
            },
            total: (&overview.total()).into(),
            series: overview.sums.iter().map(OverviewPart::from).collect(),
        }
    }
}
