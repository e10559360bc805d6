//! Wakes a dispatcher of this process after a commit.

use super::Events;
use crate::model::AppId;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use tokio::sync::Notify;

/// The most apps that are remembered; of more, a look at all apps finds the rest.
const APPS_MAX: usize = 1_024;

/// Who has made deliveries since somebody last looked. A hint and no more: what is
/// due is in the store.
#[derive(Default)]
pub struct Wakes {
    apps: Mutex<BTreeSet<AppId>>,
    woken: Notify,
}

impl Wakes {
    /// The apps that have made deliveries since the last call.
    pub fn take(&self) -> BTreeSet<AppId> {
        std::mem::take(&mut *self.apps.lock())
    }

    /// Waits until some app has made a delivery. One that did so since the last
    /// wait ends the next at once.
    pub async fn wait(&self) {
        self.woken.notified().await;
    }

    /// Ends a wait, whatever there is.
    pub fn wake(&self) {
        self.woken.notify_one();
    }
}

impl Events for Wakes {
    fn committed(&self, app: AppId) {
        let mut apps = self.apps.lock();
        if apps.len() < APPS_MAX {
            apps.insert(app);
        }
        drop(apps);
        self.wake();
    }
}
