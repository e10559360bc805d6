//! Notifies a dispatcher of this process after a commit.

use super::CommitListener;
use kvasm_core::AppId;
use tokio::sync::Notify;

/// Notifications of new deliveries. They are only hints: due deliveries are in the store.
#[derive(Default)]
pub struct DispatchNotifier(Notify);

impl DispatchNotifier {
    /// Waits for new deliveries. Returns immediately if some were created since the last wait.
    pub async fn wait(&self) {
        self.0.notified().await;
    }

    /// Ends a wait unconditionally.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

impl CommitListener for DispatchNotifier {
    fn committed(&self, _: AppId) {
        self.wake();
    }
}
