//! Background tasks, and what they look after.

use super::{Metrics, NameLabel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

impl Metrics {
    /// Counts a restart of a background task.
    pub fn task_restart(&self, name: &'static str) {
        self.0
            .task_restarts
            .get_or_create(&NameLabel { name })
            .inc();
    }

    /// Sets whether a background task is failing.
    pub fn task_failing(&self, name: &'static str, failing: bool) {
        let gauge = self.0.task_failing.get_or_create(&NameLabel { name });
        gauge.set(i64::from(failing));
    }

    /// Records that a background task has completed a round now.
    pub fn task_completed(&self, name: &'static str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.unwrap_or_default().as_secs();
        let gauge = self.0.task_completed.get_or_create(&NameLabel { name });
        gauge.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Sets by how much the latest schedule is late.
    pub fn schedules_late(&self, late: Duration) {
        let seconds = i64::try_from(late.as_secs()).unwrap_or(i64::MAX);
        self.0.schedules_late.set(seconds);
    }

    /// Sets whether the last probe could write to the store.
    pub fn store_writable(&self, writable: bool) {
        self.0.store_writable.set(i64::from(writable));
    }

    /// Counts a round that a background task skipped.
    pub fn task_skip(&self, name: &'static str) {
        self.0.task_skips.get_or_create(&NameLabel { name }).inc();
    }
}
