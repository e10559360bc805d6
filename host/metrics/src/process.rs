//! Metrics of this process from the system, under the names that Prometheus's own clients use. They
//! are read at each scrape; systems without `/proc` have fewer.

use super::table::Collected;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

const fn metric(name: &'static str, kind: &'static str, help: &'static str) -> Collected {
    Collected {
        name,
        kind,
        labels: "",
        help,
    }
}

/// A metric, and its reader, whose second argument is `/proc/self/status`.
type Read = (Collected, fn(&ProcessMetrics, &str) -> Option<f64>);

/// All metrics of the process.
pub(super) const METRICS: [Read; 6] = [
    (
        metric(
            "process_start_time_seconds",
            "gauge",
            "When the process started, in seconds since 1970",
        ),
        |process, _| {
            let since = process.start.duration_since(UNIX_EPOCH).ok()?;
            Some(since.as_secs_f64())
        },
    ),
    (
        metric(
            "process_cpu_seconds",
            "counter",
            "CPU time of the process, without that of compiler processes",
        ),
        |_, _| cpu_seconds(),
    ),
    (
        metric(
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory of the process",
        ),
        |_, status| number(status, "VmRSS:").map(|kib| kib as f64 * 1024.0),
    ),
    (
        metric("process_threads", "gauge", "Threads of the process"),
        |_, status| number(status, "Threads:").map(|n| n as f64),
    ),
    (
        metric(
            "process_open_fds",
            "gauge",
            "Open files and connections of the process",
        ),
        |_, _| {
            let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
            // Without the folder itself.
            Some(open.saturating_sub(1) as f64)
        },
    ),
    (
        metric(
            "process_max_fds",
            "gauge",
            "Maximum open files and connections of the process",
        ),
        |_, _| {
            let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
            number(&limits, "Max open files").map(|n| n as f64)
        },
    ),
];

/// Reads the metrics of the process.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    start: SystemTime,
}

impl ProcessMetrics {
    /// Must be created when the process starts.
    pub(super) fn new() -> ProcessMetrics {
        ProcessMetrics {
            start: SystemTime::now(),
        }
    }
}

/// Returns the first number after a name at the start of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(unix)]
fn cpu_seconds() -> Option<f64> {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

#[cfg(not(unix))]
fn cpu_seconds() -> Option<f64> {
    None
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (metric, read) in &METRICS {
            let Some(value) = read(self, &status) else {
                continue;
            };
            let kind = match metric.kind {
                "counter" => MetricType::Counter,
                _ => MetricType::Gauge,
            };
            let mut encoder = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            match kind {
                MetricType::Counter => {
                    encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)?
                }
                _ => encoder.encode_gauge(&value)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn every_process_metric_has_a_value() {
        let (process, status) = (
            ProcessMetrics::new(),
            std::fs::read_to_string("/proc/self/status").unwrap(),
        );
        for (metric, read) in &METRICS {
            let value = read(&process, &status);
            assert!(value.is_some_and(|v| v > 0.0), "{}: {value:?}", metric.name);
        }
    }

    #[test]
    fn proc_numbers_are_parsed_by_name() {
        let text = "VmRSS:\t   4096 kB\nMax open files            1024     4096   files\n";
        assert_eq!(number(text, "VmRSS:"), Some(4096));
        assert_eq!(number(text, "Max open files"), Some(1024));
        assert_eq!(number(text, "Threads:"), None);
        assert_eq!(number("Max open files  unlimited", "Max open files"), None);
    }
}
