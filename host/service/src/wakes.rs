//! Wakes a dispatcher of this process after a commit.

use super::Events;
use kvasm_core::AppId;
use tokio::sync::Notify;

/// Tells that deliveries were made. A hint and no more: what is due is in the
/// store.
#[derive(Default)]
pub struct Wakes(Notify);

impl Wakes {
    /// Waits until deliveries are made. If some were since the last wait, it ends
    /// at once.
    pub async fn wait(&self) {
        self.0.notified().await;
    }

    /// Ends a wait, whatever there is.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

impl Events for Wakes {
    fn committed(&self, _: AppId) {
        self.wake();
    }
}
