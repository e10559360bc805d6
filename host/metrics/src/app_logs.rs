//! Lines that do not reach a log, and calls that are not recorded.

use super::{Metrics, NameLabel};

impl Metrics {
    /// Counts discarded lines of the host's own log.
    pub fn log_lines_dropped(&self, lines: u64) {
        self.0.log_lines_dropped.inc_by(lines);
    }

    /// Counts lines of apps' logs that are not stored: `flood`, because an app writes too many,
    /// `queue`, because too many bytes were waiting, or `store`, because the store failed.
    pub fn app_log_lines_lost(&self, name: &'static str, lines: u64) {
        self.0
            .app_log_lines_lost
            .get_or_create(&NameLabel { name })
            .inc_by(lines);
    }

    /// Counts calls that are not recorded: `flood`, because an app makes too many, `queue`,
    /// because too many bytes were waiting, or `store`, because the store failed.
    pub fn call_records_lost(&self, name: &'static str, calls: u64) {
        self.0
            .call_records_lost
            .get_or_create(&NameLabel { name })
            .inc_by(calls);
    }
}
