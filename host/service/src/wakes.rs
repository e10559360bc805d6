//! Notifies a dispatcher of this process after a commit.

use super::Events;
use kvasm_core::AppId;
use tokio::sync::Notify;

/// Notifications of new deliveries. They are only hints: due deliveries are in the store.
#[derive(Default)]
pub struct Wakes(Notify);

impl Wakes {
    /// Waits for new deliveries. Returns immediately if some were created since the last wait.
    pub async fn wait(&self) {
        self.0.notified().await;
    }

    /// Ends a wait unconditionally.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

impl Events for Wakes {
    fn committed(&self, _: AppId) {
        self.wake();
    }
}
