//! Notifies a dispatcher of this process after a commit.

use super::CommitListener;
use kvasm_core::{AppId, Timestamp};
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::Notify;

/// Notifications of new deliveries and timers. They are only hints: what is due is in the store.
pub struct DispatchNotifier {
    deliveries: Notify,
    timers: Notify,
    /// When the first of the timers that were set since the last look is due.
    first_timer: AtomicI64,
}

impl Default for DispatchNotifier {
    fn default() -> DispatchNotifier {
        DispatchNotifier {
            deliveries: Notify::new(),
            timers: Notify::new(),
            first_timer: AtomicI64::new(i64::MAX),
        }
    }
}

impl DispatchNotifier {
    /// Waits for new deliveries. Returns immediately if some were created since the last wait.
    pub async fn wait(&self) {
        self.deliveries.notified().await;
    }

    /// Waits until a timer was set that is due before `known`, and returns when it is due.
    pub async fn wait_for_timer(&self, known: Timestamp) -> Timestamp {
        loop {
            let first = self.first_timer.swap(i64::MAX, Ordering::AcqRel);
            if first < known.0 {
                return Timestamp(first);
            }
            self.timers.notified().await;
        }
    }

    /// Ends a wait unconditionally.
    pub fn wake(&self) {
        self.deliveries.notify_one();
    }
}

impl CommitListener for DispatchNotifier {
    fn committed(&self, _: AppId) {
        self.wake();
    }

    fn timers_set(&self, at: Timestamp) {
        self.first_timer.fetch_min(at.0, Ordering::AcqRel);
        self.timers.notify_one();
    }
}
