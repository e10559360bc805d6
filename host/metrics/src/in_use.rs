//! Gauges of what is in use.

use prometheus_client::metrics::gauge::Gauge;

/// Counts something in a gauge as long as it lives.
pub struct InUse {
    gauge: Gauge,
    count: i64,
}

impl InUse {
    pub(super) fn new(gauge: &Gauge, count: i64) -> InUse {
        gauge.inc_by(count);
        InUse {
            gauge: gauge.clone(),
            count,
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.gauge.dec_by(self.count);
    }
}
