//! Counters, gauges and histograms of the host, in the text format of Prometheus.
//!
//! Every label has few values: names from the code, or names of apps, of which at most [`APPS_MAX`]
//! have their own series; the others share one. A deleted app frees its series for another.
//!
//! `table` names and describes each metric, `sample` has measurements of the store by a background
//! task, and `process` has what the system reports about the process.
#![deny(missing_docs)]

mod app_logs;
mod exported_spans;
mod fetches;
mod in_use;
mod process;
mod sample;
mod table;
mod tasks;
mod totals;
mod watchers;

pub use in_use::InUse;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
pub use sample::{FULLEST_APPS, QuotaUse, Sample};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
pub use table::MetricRow;
pub use totals::{CallTotals, DURATION_BOUNDS_US};

/// The maximum number of apps that have their own series at once.
pub const APPS_MAX: usize = 1_000;
/// The label of all other apps.
const OTHER_APPS: &str = "_other";

/// Seconds, from 50 us to 10 s.
const SECONDS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
    10.0,
];
/// Seconds, up to a day, because a backlog can last.
const LAG: [f64; 14] = [
    0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0,
    86_400.0,
];
/// Requests in a commit.
const GROUP: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InvocationLabels {
    app: Arc<str>,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabel {
    name: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpRequest {
    route: Arc<str>,
    method: &'static str,
    status: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
    method: &'static str,
}

/// The source of a compiled module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleSource {
    /// Memory.
    Memory,
    /// The cache folder.
    Disk,
    /// Compilation.
    Compiled,
}

impl ModuleSource {
    fn name(self) -> &'static str {
        match self {
            ModuleSource::Memory => "memory",
            ModuleSource::Disk => "disk",
            ModuleSource::Compiled => "compiled",
        }
    }
}

/// The metrics of one host. Cheap to clone; clones share the counters.
#[derive(Clone)]
pub struct Metrics(Arc<MetricsInner>);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics(..)")
    }
}

/// A counter of an app, with an outcome.
type Series = (OfApp, &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OfApp {
    Invocations,
    Deliveries,
    Triggers,
    Fetches,
}

struct MetricsInner {
    registry: Registry,
    rows: Vec<MetricRow>,
    sample: sample::Sampled,
    totals: totals::LiveTotals,
    /// The apps that have their own series, with those series.
    apps: Mutex<HashMap<Arc<str>, Vec<Series>>>,
    invocations: Family<InvocationLabels, Counter>,
    invocation_seconds: Histogram,
    host_calls: Family<NameLabel, Counter>,
    instances: Gauge,
    instance_queue: Gauge,
    admission_queue: Gauge,
    modules: Family<NameLabel, Counter>,
    access: Family<NameLabel, Counter>,
    store_seconds: Family<NameLabel, Histogram>,
    commit_group: Histogram,
    transaction_locks: Gauge,
    transaction_reruns: Counter,
    transaction_wait_seconds: Histogram,
    cold_reads: Counter,
    http_requests: Family<HttpRequest, Counter>,
    http_seconds: Family<RouteLabels, Histogram>,
    connections: Gauge,
    connections_refused: Counter,
    bytes_in_flight: Gauge,
    deliveries: Family<InvocationLabels, Counter>,
    triggers: Family<InvocationLabels, Counter>,
    deliveries_running: Gauge,
    delivery_lag: Histogram,
    upkeep: Family<NameLabel, Counter>,
    task_restarts: Family<NameLabel, Counter>,
    task_failing: Family<NameLabel, Gauge>,
    task_skips: Family<NameLabel, Counter>,
    task_completed: Family<NameLabel, Gauge>,
    schedules_late: Gauge,
    store_writable: Gauge,
    log_lines_dropped: Counter,
    app_log_lines_lost: Family<NameLabel, Counter>,
    call_records_lost: Family<NameLabel, Counter>,
    watch: watchers::WatchMetrics,
    oldest_snapshot: Gauge,
    clock_trusted: Gauge,
    fetches: Family<InvocationLabels, Counter>,
    fetch: fetches::FetchMetrics,
    spans: Family<NameLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let inner = MetricsInner {
            rows: Vec::new(),
            sample: sample::Sampled::default(),
            totals: totals::LiveTotals::default(),
            apps: Mutex::default(),
            invocations: Family::default(),
            invocation_seconds: Histogram::new(SECONDS),
            host_calls: Family::default(),
            instances: Gauge::default(),
            instance_queue: Gauge::default(),
            admission_queue: Gauge::default(),
            modules: Family::default(),
            access: Family::default(),
            store_seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            commit_group: Histogram::new(GROUP),
            transaction_locks: Gauge::default(),
            transaction_reruns: Counter::default(),
            transaction_wait_seconds: Histogram::new(SECONDS),
            cold_reads: Counter::default(),
            http_requests: Family::default(),
            http_seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            bytes_in_flight: Gauge::default(),
            deliveries: Family::default(),
            triggers: Family::default(),
            deliveries_running: Gauge::default(),
            delivery_lag: Histogram::new(LAG),
            upkeep: Family::default(),
            task_restarts: Family::default(),
            task_failing: Family::default(),
            task_skips: Family::default(),
            task_completed: Family::default(),
            schedules_late: Gauge::default(),
            store_writable: Gauge::default(),
            log_lines_dropped: Counter::default(),
            app_log_lines_lost: Family::default(),
            call_records_lost: Family::default(),
            watch: watchers::WatchMetrics::default(),
            oldest_snapshot: Gauge::default(),
            clock_trusted: Gauge::default(),
            fetches: Family::default(),
            fetch: fetches::FetchMetrics::default(),
            spans: Family::default(),
            registry: Registry::default(),
        };
        // Until it is known otherwise.
        inner.store_writable.set(1);
        let (registry, rows) = table::register(&inner);
        Metrics(Arc::new(MetricsInner {
            registry,
            rows,
            ..inner
        }))
    }
}

impl Metrics {
    /// Returns the text that Prometheus scrapes, in the OpenMetrics format 1.0.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut out, &self.0.registry);
        out
    }

    /// Returns every metric that can exist, in the order of the text.
    pub fn rows(&self) -> &[MetricRow] {
        &self.0.rows
    }

    /// Sets whether the dispatcher trusts the host's clock.
    pub fn clock_trusted(&self, trusted: bool) {
        self.0.clock_trusted.set(i64::from(trusted));
    }

    /// Counts something of an app: under its name, unless there are too many apps.
    fn count_of_app(&self, what: OfApp, app: &str, outcome: &'static str) {
        self.count_of_app_and(what, app, outcome, |_| ());
    }

    /// Counts something of an app, and what `more` counts under the same name.
    fn count_of_app_and(
        &self,
        what: OfApp,
        app: &str,
        outcome: &'static str,
        more: impl FnOnce(&Arc<str>),
    ) {
        // Locked until it is counted, so that the app is not forgotten in between.
        let mut apps = self.0.apps.lock();
        if !apps.contains_key(app) && apps.len() < APPS_MAX {
            apps.insert(app.into(), Vec::new());
        }
        let app = match apps.get_key_value(app) {
            Some((name, _)) => Arc::clone(name),
            None => OTHER_APPS.into(),
        };
        if let Some(series) = apps.get_mut(&app)
            && !series.contains(&(what, outcome))
        {
            series.push((what, outcome));
        }
        more(&app);
        let label = InvocationLabels { app, outcome };
        self.family(what).get_or_create(&label).inc();
    }

    fn family(&self, what: OfApp) -> &Family<InvocationLabels, Counter> {
        match what {
            OfApp::Invocations => &self.0.invocations,
            OfApp::Deliveries => &self.0.deliveries,
            OfApp::Triggers => &self.0.triggers,
            OfApp::Fetches => &self.0.fetches,
        }
    }

    /// Returns the names of the apps that have their own series.
    pub fn apps(&self) -> Vec<Arc<str>> {
        self.0.apps.lock().keys().map(Arc::clone).collect()
    }

    /// Removes the series of a deleted app, which frees its place.
    pub fn forget_app(&self, app: &str) {
        let mut apps = self.0.apps.lock();
        let Some((app, series)) = apps.remove_entry(app) else {
            return;
        };
        self.0.fetch.forget(&app);
        for (what, outcome) in series {
            let app = Arc::clone(&app);
            self.family(what).remove(&InvocationLabels { app, outcome });
        }
    }

    /// Counts an invocation of an app, and observes its duration.
    pub fn invocation(&self, app: &str, outcome: &'static str, took: Duration) {
        self.count_of_app(OfApp::Invocations, app, outcome);
        self.0.invocation_seconds.observe(took.as_secs_f64());
        self.0.totals.call(outcome, took);
    }

    /// Counts calls of a host function.
    pub fn host_calls(&self, name: &'static str, count: u64) {
        self.0
            .host_calls
            .get_or_create(&NameLabel { name })
            .inc_by(count);
    }

    /// Counts a running instance while the value lives.
    pub fn instance(&self) -> InUse {
        InUse::new(&self.0.instances, 1)
    }

    /// Counts a call that waits for an instance while the value lives.
    pub fn waiting_for_instance(&self) -> InUse {
        InUse::new(&self.0.instance_queue, 1)
    }

    /// Counts a call that waits for others of its app while the value lives.
    pub fn waiting_for_admission(&self) -> InUse {
        InUse::new(&self.0.admission_queue, 1)
    }

    /// Counts a module that was needed, by where it was found.
    pub fn module(&self, source: ModuleSource) {
        let name = source.name();
        self.0.modules.get_or_create(&NameLabel { name }).inc();
    }

    /// Counts an access to an app or token: a `hit` or a `miss`, or a generation check (`look`).
    pub fn access(&self, name: &'static str) {
        self.0.access.get_or_create(&NameLabel { name }).inc();
    }

    /// Observes the duration of a store operation.
    pub fn store(&self, name: &'static str, took: Duration) {
        self.0
            .store_seconds
            .get_or_create(&NameLabel { name })
            .observe(took.as_secs_f64());
    }

    /// Counts the outcome of an attempt at a delivery.
    pub fn delivery(&self, app: &str, outcome: &'static str) {
        self.count_of_app(OfApp::Deliveries, app, outcome);
        self.0.totals.delivery(outcome);
    }

    /// Counts a pause of a trigger by failures, or the outcome of a probe.
    pub fn trigger(&self, app: &str, outcome: &'static str) {
        self.count_of_app(OfApp::Triggers, app, outcome);
    }

    /// Counts a running handler while the value lives.
    pub fn delivery_running(&self) -> InUse {
        InUse::new(&self.0.deliveries_running, 1)
    }

    /// Observes how long after it was due a delivery began.
    pub fn delivery_lag(&self, lag: Duration) {
        self.0.delivery_lag.observe(lag.as_secs_f64());
        self.0.totals.lag(lag);
    }

    /// Counts rows that the host has removed automatically.
    pub fn upkeep(&self, name: &'static str, rows: u64) {
        self.0
            .upkeep
            .get_or_create(&NameLabel { name })
            .inc_by(rows);
    }

    /// Observes the number of requests that were committed together.
    pub fn commit_group(&self, requests: usize) {
        self.0.commit_group.observe(requests as f64);
    }

    /// Counts a lock of a transaction as long as the result lives.
    pub fn transaction_lock(&self) -> InUse {
        InUse::new(&self.0.transaction_locks, 1)
    }

    /// Counts a run of a transactional function that was repeated.
    pub fn transaction_rerun(&self) {
        self.0.transaction_reruns.inc();
    }

    /// Observes how long a transaction waited for locks.
    pub fn transaction_waited(&self, took: Duration) {
        self.0.transaction_wait_seconds.observe(took.as_secs_f64());
    }

    /// Counts a read that waited for the disk.
    pub fn cold_read(&self) {
        self.0.cold_reads.inc();
    }

    /// Counts a request. `route` is a template, and `status` is reduced to few values, because a
    /// plugin chooses its own.
    pub fn http_request(&self, route: &str, method: &'static str, status: &str, took: Duration) {
        let route: Arc<str> = route.into();
        let seconds = RouteLabels {
            route: Arc::clone(&route),
            method,
        };
        let label = HttpRequest {
            route,
            method,
            status: status.into(),
        };
        self.0.http_requests.get_or_create(&label).inc();
        let took = took.as_secs_f64();
        self.0.http_seconds.get_or_create(&seconds).observe(took);
    }

    /// Counts an open connection while the value lives.
    pub fn connection(&self) -> InUse {
        InUse::new(&self.0.connections, 1)
    }

    /// Counts a connection that was refused.
    pub fn connection_refused(&self) {
        self.0.connections_refused.inc();
    }

    /// Counts bytes of bodies in memory while the value lives.
    pub fn bytes_in_flight(&self, bytes: usize) -> InUse {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        InUse::new(&self.0.bytes_in_flight, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_beyond_the_limit_share_a_label() {
        let metrics = Metrics::default();
        for n in 0..APPS_MAX + 5 {
            metrics.invocation(&format!("app-{n}"), "ok", Duration::ZERO);
        }
        let text = metrics.encode();
        let series = text
            .lines()
            .filter(|line| line.starts_with("kvasm_invocations_total{"));
        assert_eq!(series.count(), APPS_MAX + 1);
        assert!(text.contains("kvasm_invocations_total{app=\"_other\",outcome=\"ok\"} 5"));
    }

    #[test]
    fn series_of_a_deleted_app_are_freed_for_another() {
        let metrics = Metrics::default();
        for n in 0..2 * APPS_MAX {
            let app = format!("app-{n}");
            metrics.invocation(&app, "ok", Duration::ZERO);
            metrics.invocation(&app, "failed", Duration::ZERO);
            metrics.delivery(&app, "done");
            if n >= 5 {
                metrics.forget_app(&app);
            }
        }
        assert_eq!(metrics.apps().len(), 5);
        let text = metrics.encode();
        assert_eq!(text.matches("{app=\"app-").count(), 3 * 5, "{text}");
        assert!(!text.contains(OTHER_APPS));
        metrics.forget_app("app-5");
        metrics.invocation("app-5", "ok", Duration::ZERO);
        let again = "kvasm_invocations_total{app=\"app-5\",outcome=\"ok\"} 1";
        assert!(metrics.encode().contains(again));
    }

    #[test]
    fn in_use_gauge_counts_until_dropped() {
        let metrics = Metrics::default();
        let one = metrics.instance();
        assert!(metrics.encode().contains("kvasm_instances 1"));
        drop(one);
        assert!(metrics.encode().contains("kvasm_instances 0"));
    }
}
