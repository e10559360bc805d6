//! Finished spans that wait for their export.

use super::sampler::Sampler;
use kvasm::metrics::Metrics;
use kvasm::service::{Span, SpanArrival, SpanSink};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A bounded queue. A span that does not fit is dropped and counted; nothing ever waits for room.
pub(super) struct SpanQueue {
    sampler: Sampler,
    metrics: Metrics,
    spans: Mutex<VecDeque<Span>>,
    limit: usize,
    batch: usize,
    full_batch: Notify,
}

impl SpanQueue {
    pub(super) fn new(
        sampler: Sampler,
        metrics: Metrics,
        limit: usize,
        batch: usize,
    ) -> Arc<SpanQueue> {
        Arc::new(SpanQueue {
            sampler,
            metrics,
            spans: Mutex::default(),
            limit,
            batch: batch.min(limit),
            full_batch: Notify::new(),
        })
    }

    /// Waits until a batch is full, or for this time.
    pub(super) async fn wait(&self, delay: Duration) {
        if self.spans.lock().len() < self.batch {
            let _ = tokio::time::timeout(delay, self.full_batch.notified()).await;
        }
    }

    /// Takes the oldest spans, at most a batch.
    pub(super) fn take(&self) -> Vec<Span> {
        let mut spans = self.spans.lock();
        let count = spans.len().min(self.batch);
        spans.drain(..count).collect()
    }
}

impl SpanSink for SpanQueue {
    fn samples(&self, arrival: &SpanArrival<'_>) -> bool {
        self.sampler.samples(arrival)
    }

    fn record(&self, span: Span) {
        self.sampler.count(&span.app);
        let mut spans = self.spans.lock();
        if spans.len() >= self.limit {
            drop(spans);
            return self.metrics.spans("dropped", 1);
        }
        spans.push_back(span);
        if spans.len() >= self.batch {
            self.full_batch.notify_one();
        }
    }
}
