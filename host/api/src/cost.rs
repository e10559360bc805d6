//! The cost of a call, in the JSON of a log line and in the headers of a response.

use kvasm_core::Cost;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The largest integer of a structured field (RFC 9651).
const FIELD_MAX: u64 = 999_999_999_999_999;
/// The name of the CPU time in `Server-Timing`.
const CPU: &str = "cpu";

/// What a call of a plugin used, over all its runs. In `Kvasm-Cost` the members have the same
/// names, except for the CPU time, which is in `Server-Timing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct CostView {
    /// Number of runs; more than 1 if a transaction was rerun after a conflict.
    pub runs: u64,
    /// CPU time of the plugin, in microseconds; up to 10 ms too much for each run.
    pub cpu_us: u64,
    /// Largest total size of the memories of an instance.
    pub memory_bytes: u64,
    /// Number of keys looked up and of entries listed.
    pub entries_read: u64,
    /// Number of sets, deletions and increments.
    pub entries_written: u64,
    /// Size of the values read.
    pub bytes_read: u64,
    /// Size of the values set.
    pub bytes_written: u64,
    /// Number of calls of host functions.
    pub host_calls: u64,
    /// Number of outbound HTTP requests.
    #[serde(default)]
    pub fetches: u64,
}

impl From<&Cost> for CostView {
    fn from(cost: &Cost) -> CostView {
        CostView {
            runs: cost.runs.into(),
            cpu_us: u64::try_from(cost.cpu.as_micros()).unwrap_or(u64::MAX),
            memory_bytes: cost.memory_bytes,
            entries_read: cost.entries_read,
            entries_written: cost.entries_written,
            bytes_read: cost.bytes_read,
            bytes_written: cost.bytes_written,
            host_calls: cost.host_calls,
            fetches: cost.fetches,
        }
    }
}

impl CostView {
    /// Returns the value of the header `Server-Timing`: the CPU time in milliseconds.
    pub fn server_timing(&self) -> String {
        let (ms, us) = (self.cpu_us / 1_000, self.cpu_us % 1_000);
        format!("{CPU};dur={ms}.{us:03}")
    }

    /// Returns the value of the header `Kvasm-Cost`: a dictionary of structured fields.
    pub fn field(&self) -> String {
        let members = [
            ("runs", self.runs),
            ("memory_bytes", self.memory_bytes),
            ("entries_read", self.entries_read),
            ("entries_written", self.entries_written),
            ("bytes_read", self.bytes_read),
            ("bytes_written", self.bytes_written),
            ("host_calls", self.host_calls),
            ("fetches", self.fetches),
        ];
        let members = members.map(|(name, value)| format!("{name}={}", value.min(FIELD_MAX)));
        members.join(", ")
    }

    /// Reads the values of the headers `Kvasm-Cost` and `Server-Timing`, which a proxy may have
    /// extended. Unknown members are ignored. Returns `None` if the number of runs is missing.
    pub fn parse<'t>(
        field: &str,
        server_timing: impl IntoIterator<Item = &'t str>,
    ) -> Option<CostView> {
        let member = |name: &str| {
            let mut members = field.split(',').filter_map(|member| member.split_once('='));
            let found = members.find(|(found, _)| found.trim() == name)?.1;
            found.trim().parse::<u64>().ok()
        };
        let of = |name| member(name).unwrap_or(0);
        let mut timings = server_timing.into_iter().flat_map(|value| value.split(','));
        Some(CostView {
            runs: member("runs")?,
            cpu_us: timings.find_map(cpu_us).unwrap_or(0),
            memory_bytes: of("memory_bytes"),
            entries_read: of("entries_read"),
            entries_written: of("entries_written"),
            bytes_read: of("bytes_read"),
            bytes_written: of("bytes_written"),
            host_calls: of("host_calls"),
            fetches: of("fetches"),
        })
    }
}

/// Returns the CPU time in microseconds, if the metric is that.
fn cpu_us(metric: &str) -> Option<u64> {
    let mut parts = metric.split(';').map(str::trim);
    if parts.next() != Some(CPU) {
        return None;
    }
    let ms: f64 = parts
        .find_map(|part| part.strip_prefix("dur="))?
        .parse()
        .ok()?;
    // A conversion to an integer saturates.
    Some((ms * 1_000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: CostView = CostView {
        runs: 2,
        cpu_us: 12_034,
        memory_bytes: 65_536,
        entries_read: 3,
        entries_written: 4,
        bytes_read: 5,
        bytes_written: 6,
        host_calls: 7,
        fetches: 8,
    };

    #[test]
    fn cost_round_trips_through_headers() {
        let (field, timing) = (COST.field(), COST.server_timing());
        assert_eq!(timing, "cpu;dur=12.034");
        assert_eq!(
            field,
            "runs=2, memory_bytes=65536, entries_read=3, entries_written=4, bytes_read=5, \
             bytes_written=6, host_calls=7, fetches=8"
        );
        assert_eq!(CostView::parse(&field, [timing.as_str()]), Some(COST));
    }

    #[test]
    fn metrics_of_proxies_are_ignored() {
        let timings = [
            "cdn;dur=1, hit",
            "db;desc=\"x\";dur=2,cpu;desc=x;dur=12.034",
        ];
        assert_eq!(CostView::parse(&COST.field(), timings), Some(COST));
        assert_eq!(CostView::parse("x=1", timings), None);
        let new = CostView::parse("runs=1, unknown=4, a;b", []).unwrap();
        assert_eq!((new.runs, new.cpu_us), (1, 0));
    }

    #[test]
    fn field_values_do_not_exceed_their_type() {
        let huge = CostView {
            memory_bytes: u64::MAX,
            ..COST
        };
        assert!(huge.field().contains("memory_bytes=999999999999999,"));
    }
}
