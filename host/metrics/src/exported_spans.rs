//! Spans for the collector.

use super::{Metrics, NameLabel};

impl Metrics {
    /// Counts spans by what became of them: `exported`, `dropped` because the queue was full, or
    /// `failed` because the collector did not take them.
    pub fn spans(&self, name: &'static str, count: u64) {
        let label = NameLabel { name };
        self.0.spans.get_or_create(&label).inc_by(count);
    }
}
