//! The name and description of each metric. `docs/operating.md` has the same table.

use super::{MetricsInner, process, sample};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

/// A metric, as documented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricRow {
    /// The name that a query uses: that of a counter ends with `_total`, and that of a histogram is
    /// the prefix of its `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// The type: counter, gauge, histogram or info.
    pub kind: &'static str,
    /// The labels, separated by commas.
    pub labels: &'static str,
    /// The description.
    pub help: &'static str,
}

/// A metric that a collector computes at each scrape.
pub(super) struct Collected {
    /// Without the common prefix.
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) labels: &'static str,
    pub(super) help: &'static str,
}

/// The prefix of every name, except those of the process, which are standard.
const PREFIX: &str = "kvasm";

struct Table<'r> {
    registry: &'r mut Registry,
    rows: Vec<MetricRow>,
}

impl Table<'_> {
    fn row(&mut self, name: String, kind: &'static str, labels: &'static str, help: &'static str) {
        let name = format!("{PREFIX}_{name}");
        self.rows.push(MetricRow {
            name,
            kind,
            labels,
            help,
        });
    }

    fn counter(
        &mut self,
        name: &str,
        labels: &'static str,
        help: &'static str,
        metric: impl Metric,
    ) {
        self.row(format!("{name}_total"), "counter", labels, help);
        self.registry.register(name, help, metric);
    }

    fn gauge(&mut self, name: &str, labels: &'static str, help: &'static str, metric: impl Metric) {
        self.row(name.to_owned(), "gauge", labels, help);
        self.registry.register(name, help, metric);
    }

    fn histogram(
        &mut self,
        name: &str,
        labels: &'static str,
        help: &'static str,
        metric: impl Metric,
    ) {
        self.row(name.to_owned(), "histogram", labels, help);
        self.registry.register(name, help, metric);
    }

    /// Registers a histogram of seconds, whose name ends with that.
    fn timed(&mut self, name: &str, labels: &'static str, help: &'static str, metric: impl Metric) {
        self.row(format!("{name}_seconds"), "histogram", labels, help);
        self.registry
            .register_with_unit(name, help, Unit::Seconds, metric);
    }
}

/// Registers all metrics, and returns their table.
pub(super) fn register(inner: &MetricsInner) -> (Registry, Vec<MetricRow>) {
    let mut registry = Registry::default();
    let mut table = Table {
        registry: registry.sub_registry_with_prefix(PREFIX),
        rows: Vec::new(),
    };
    let help = "Build information: always 1, with the version as a label";
    table.row("build_info".to_owned(), "info", "version", help);
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    table.registry.register("build", help, build);
    of_calls(inner, &mut table);
    of_http(inner, &mut table);
    of_fetches(inner, &mut table);
    of_background(inner, &mut table);
    for (metric, _) in sample::METRICS {
        table.row(
            metric.name.to_owned(),
            metric.kind,
            metric.labels,
            metric.help,
        );
    }
    let sampled = Box::new(inner.sample.clone());
    table.registry.register_collector(sampled);
    let mut rows = table.rows;
    rows.extend(process::METRICS.iter().map(|(metric, _)| MetricRow {
        name: match metric.kind {
            "counter" => format!("{}_total", metric.name),
            _ => metric.name.to_owned(),
        },
        kind: metric.kind,
        labels: metric.labels,
        help: metric.help,
    }));
    registry.register_collector(Box::new(process::ProcessMetrics::new()));
    (registry, rows)
}

fn of_calls(inner: &MetricsInner, table: &mut Table<'_>) {
    table.counter(
        "invocations",
        "app, outcome",
        "Calls of plugin functions, by app and outcome",
        inner.invocations.clone(),
    );
    table.timed(
        "invocation",
        "",
        "Duration of calls of plugin functions, including the wait for an instance",
        inner.invocation_seconds.clone(),
    );
    table.counter(
        "host_calls",
        "name",
        "Calls of host functions by plugins, by name",
        inner.host_calls.clone(),
    );
    table.gauge(
        "instances",
        "",
        "Current instances",
        inner.instances.clone(),
    );
    table.gauge(
        "instance_queue",
        "",
        "Calls that are waiting for an instance",
        inner.instance_queue.clone(),
    );
    table.gauge(
        "admission_queue",
        "",
        "Calls that are waiting for other calls of their app to end",
        inner.admission_queue.clone(),
    );
    table.counter(
        "modules",
        "name",
        "Module loads, by source",
        inner.modules.clone(),
    );
    table.counter(
        "access",
        "name",
        "Lookups of apps and tokens, in memory (hit) or in the store (miss), and checks whether those in memory are current (look)",
        inner.access.clone(),
    );
    table.timed(
        "store",
        "name",
        "Duration of store operations, by name",
        inner.store_seconds.clone(),
    );
    table.histogram(
        "commit_group_size",
        "",
        "Writes per SQLite commit",
        inner.commit_group.clone(),
    );
    table.gauge(
        "transaction_locks",
        "",
        "Entries that are locked by transactions",
        inner.transaction_locks.clone(),
    );
    table.counter(
        "transaction_reruns",
        "",
        "Runs of transactions that were discarded because of conflicts with others",
        inner.transaction_reruns.clone(),
    );
    table.timed(
        "transaction_wait",
        "",
        "Time that transactions waited for an entry locked by another one",
        inner.transaction_wait_seconds.clone(),
    );
    table.counter(
        "cold_reads",
        "",
        "SQLite reads that had to wait for the disk, on a separate thread",
        inner.cold_reads.clone(),
    );
}

fn of_http(inner: &MetricsInner, table: &mut Table<'_>) {
    table.counter(
            "http_requests",
            "route, method, status",
            "HTTP requests, by route, method and status; a status that HTTP does not define is counted by its class, such as 2xx",
            inner.http_requests.clone(),
        );
    table.timed(
        "http_request",
        "route, method",
        "Duration of HTTP requests until the head of the response",
        inner.http_seconds.clone(),
    );
    table.gauge(
        "http_connections",
        "",
        "Open HTTP connections",
        inner.connections.clone(),
    );
    table.counter(
        "http_connections_refused",
        "",
        "HTTP connections that were refused because their address had too many",
        inner.connections_refused.clone(),
    );
    table.gauge(
        "http_bytes_in_flight",
        "",
        "Bytes of requests and responses that the server holds",
        inner.bytes_in_flight.clone(),
    );
}

fn of_fetches(inner: &MetricsInner, table: &mut Table<'_>) {
    table.counter(
        "fetches",
        "app, outcome",
        "Outbound requests of plugins, by app and outcome: ok, or why there was no response",
        inner.fetches.clone(),
    );
    table.timed(
        "fetch",
        "",
        "Duration of outbound requests, including the wait for others",
        inner.fetch.seconds.clone(),
    );
    table.counter(
        "fetch_bytes",
        "app, direction",
        "Bytes of the bodies of outbound requests (sent) and of their responses (received)",
        inner.fetch.bytes.clone(),
    );
    table.gauge(
        "fetches_running",
        "",
        "Current outbound requests",
        inner.fetch.running.clone(),
    );
    table.gauge(
        "fetch_connections",
        "",
        "Open connections for outbound requests, in use or idle",
        inner.fetch.connections.clone(),
    );
}

fn of_watchers(inner: &MetricsInner, table: &mut Table<'_>) {
    table.gauge(
        "watchers",
        "",
        "Watchers of changes on this host",
        inner.watch.watchers.clone(),
    );
    table.counter(
        "watch_gaps",
        "",
        "Gaps: changes that a watcher asked for, or this host had not read yet, are not kept any more",
        inner.watch.gaps.clone(),
    );
    table.counter(
        "watch_ends",
        "name",
        "Watchers that the host has ended, by the reason",
        inner.watch.ends.clone(),
    );
}

fn of_background(inner: &MetricsInner, table: &mut Table<'_>) {
    table.counter(
        "deliveries",
        "app, outcome",
        "Attempts at deliveries, by app and outcome: done, retry, deferred, dead or lost",
        inner.deliveries.clone(),
    );
    table.counter(
        "triggers",
        "app, outcome",
        "Pauses of triggers by failures, and their probes, by app and outcome: paused, probe_failed or resumed",
        inner.triggers.clone(),
    );
    table.gauge(
        "deliveries_running",
        "",
        "Running handlers",
        inner.deliveries_running.clone(),
    );
    table.timed(
        "delivery_lag",
        "",
        "Time from the event, or from when a timer or a deferred delivery was due, to the start of its first attempt",
        inner.delivery_lag.clone(),
    );
    table.counter(
        "upkeep",
        "name",
        "Rows that the host has removed automatically, by kind",
        inner.upkeep.clone(),
    );
    table.counter(
        "task_restarts",
        "name",
        "Restarts of background tasks after a panic or an error, by task",
        inner.task_restarts.clone(),
    );
    table.gauge(
        "task_failing",
        "name",
        "Whether a background task is failing (1) or works (0), by task",
        inner.task_failing.clone(),
    );
    table.counter(
        "task_skips",
        "name",
        "Items, each of one app, that a background task has skipped after an error, by task",
        inner.task_skips.clone(),
    );
    table.gauge(
        "task_completed_time_seconds",
        "name",
        "When a background task last completed a round, in seconds since 1970, by task",
        inner.task_completed.clone(),
    );
    table.gauge(
        "schedules_late_seconds",
        "",
        "By how much the latest schedule was late when the schedules were last run",
        inner.schedules_late.clone(),
    );
    table.gauge(
        "store_writable",
        "",
        "Whether the last probe could write to the store (1) or not (0)",
        inner.store_writable.clone(),
    );
    table.counter(
        "spans",
        "name",
        "Spans for the OpenTelemetry collector: exported, dropped because the queue was full, or failed because the collector did not take them",
        inner.spans.clone(),
    );
    table.counter(
        "log_lines_dropped",
        "",
        "Lines of the host's own log that were dropped because they were not read in time",
        inner.log_lines_dropped.clone(),
    );
    table.counter(
        "app_log_lines_lost",
        "name",
        "Lines of apps' logs that are not stored, because the app writes too many (flood), too many bytes were waiting to be stored (queue) or the store failed (store)",
        inner.app_log_lines_lost.clone(),
    );
    table.counter(
        "call_records_lost",
        "name",
        "Calls that are not recorded, because the app makes too many (flood), too many bytes were waiting to be stored (queue) or the store failed (store)",
        inner.call_records_lost.clone(),
    );
    of_watchers(inner, table);
    table.gauge(
        "postgres_oldest_snapshot_seconds",
        "",
        "Age of the oldest snapshot that a Postgres session holds",
        inner.oldest_snapshot.clone(),
    );
    table.gauge(
        "clock_trusted",
        "",
        "Whether the dispatcher trusts this host's clock (1) or not (0)",
        inner.clock_trusted.clone(),
    );
}

#[cfg(test)]
mod tests {
    use crate::Metrics;
    use std::collections::BTreeSet;

    #[test]
    fn operating_guide_lists_exactly_the_metrics() {
        let docs = include_str!("../../../docs/operating.md");
        let is_row = |line: &&str| line.starts_with("| `kvasm_") || line.starts_with("| `process_");
        let documented: Vec<_> = docs.lines().filter(is_row).map(str::to_owned).collect();
        let metrics = Metrics::default();
        let rows = metrics.rows().iter().map(|row| {
            let (name, kind, labels, help) = (&row.name, row.kind, row.labels, row.help);
            format!("| `{name}` | {kind} | {labels} | {help} |")
        });
        let rows: Vec<_> = rows.collect();
        assert_eq!(documented, rows, "it should be:\n{}", rows.join("\n"));
        let names: BTreeSet<_> = metrics.rows().iter().map(|row| &row.name).collect();
        assert_eq!(names.len(), rows.len(), "two metrics have one name");
    }
}
