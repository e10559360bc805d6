//! Reads the changes of the apps that are watched, and keeps their logs.

use super::feed::AppFeed;
use super::{ChangeFeeds, FeedState};
use kvasm_core::store::StoreError;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Interval of looking for changes.
const INTERVAL: Duration = Duration::from_millis(50);
/// Interval after an error of the store.
const RETRY: Duration = Duration::from_secs(1);
/// Interval of removing changes that are not retained.
const PRUNE_INTERVAL: Duration = Duration::from_secs(5);

/// Runs while an app is watched.
pub(super) async fn run(feeds: Weak<ChangeFeeds>) {
    // Ends with this task.
    let mut pruning = JoinSet::new();
    pruning.spawn(prune(feeds.clone()));
    loop {
        let Some(feeds) = feeds.upgrade() else { return };
        if !feeds.retire() {
            return;
        }
        // In a task of its own, so that a panic does not end the feeds of all apps.
        let round = tokio::spawn(async move { feeds.round().await });
        let pause = match round.await {
            Ok(Ok(())) => INTERVAL,
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot read the changes of watched apps");
                RETRY
            }
            Err(error) => {
                tracing::error!(%error, "reading the changes of watched apps failed");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Removes changes of the apps that are watched on this host, which may write many in a short time.
async fn prune(feeds: Weak<ChangeFeeds>) {
    loop {
        tokio::time::sleep(PRUNE_INTERVAL).await;
        let Some(feeds) = feeds.upgrade() else { return };
        for feed in feeds.all() {
            if let Err(error) = feeds.prune_app(feed.app).await {
                tracing::debug!(%error, "cannot remove old changes");
            }
        }
    }
}

impl ChangeFeeds {
    /// Forgets feeds without watchers. Returns whether any is left.
    fn retire(&self) -> bool {
        let mut state = self.state.lock();
        let FeedState {
            feeds,
            pending,
            is_pumping,
            ..
        } = &mut *state;
        feeds.retain(|_, feed| feed.watchers() > 0);
        pending.retain(|app| feeds.contains_key(app));
        *is_pumping = !feeds.is_empty();
        *is_pumping
    }

    fn all(&self) -> Vec<Arc<AppFeed>> {
        self.state.lock().feeds.values().map(Arc::clone).collect()
    }

    async fn round(&self) -> Result<(), StoreError> {
        let age = self.limits.history.age;
        for feed in self.all().into_iter().filter(|feed| feed.is_due(age)) {
            match feed.keep(self).await {
                // Its watchers end when they check their access.
                Ok(_) | Err(StoreError::AppNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let known = self.state.lock().head;
        let head = self.store.changes_head(known).await?;
        let (position, due) = {
            let mut state = self.state.lock();
            state.head = state.head.max(head.position);
            let FeedState { feeds, pending, .. } = &mut *state;
            let watched = head.apps.iter().filter(|app| feeds.contains_key(app));
            pending.extend(watched.copied());
            let now = Instant::now();
            let due = pending.iter().filter_map(|app| feeds.get(app));
            let due: Vec<_> = due
                .filter(|feed| feed.is_ready(now))
                .map(Arc::clone)
                .collect();
            for feed in &due {
                pending.remove(&feed.app);
            }
            (state.head, due)
        };
        let mut failed = None;
        for feed in due {
            match feed.advance(self, position).await {
                Ok(false) => {}
                Ok(true) => drop(self.state.lock().pending.insert(feed.app)),
                Err(error) => {
                    self.state.lock().pending.insert(feed.app);
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
