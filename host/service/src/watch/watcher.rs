//! One watcher, which takes changes at its own pace.

use super::change_batch::ChangeBatch;
use super::{ChangeFilter, WatcherPlace};
use bytes::Bytes;
use kvasm_core::store::StoreError;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a watcher waits for a position that another host has already sent.
const AHEAD_TIMEOUT: Duration = Duration::from_secs(2);
const AHEAD_INTERVAL: Duration = Duration::from_millis(50);

/// What a watcher gets.
#[derive(Debug)]
pub enum WatchStep {
    /// Changes as server-sent events, whose ids are positions.
    Changes(Vec<Bytes>),
    /// Changes after a position are missing. Those after [`ChangeWatcher::position`] will follow.
    Gap {
        /// The position after which changes are missing.
        after: u64,
    },
    /// The watcher has fallen so far behind that it must resume. It gets nothing more.
    TooSlow,
}

/// A watcher of the changes of one app. It holds no changes itself: what it has not taken yet is in
/// memory that all watchers of the app share, or in the store.
pub struct ChangeWatcher {
    place: WatcherPlace,
    filter: ChangeFilter,
    grown: watch::Receiver<u64>,
    position: u64,
    /// Whether it has caught up with the feed.
    is_live: bool,
    /// Whether its position was found in the log, or is that of the feed.
    is_known: bool,
}

impl ChangeWatcher {
    pub(super) fn new(
        place: WatcherPlace,
        filter: ChangeFilter,
        after: Option<u64>,
    ) -> ChangeWatcher {
        ChangeWatcher {
            filter,
            grown: place.feed.grown(),
            position: after.unwrap_or_else(|| place.feed.head()),
            is_live: after.is_none(),
            is_known: after.is_none(),
            place,
        }
    }

    /// Returns the position up to which it has got the changes that it wants.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns whether it has got all that its host has read. What has just been committed may not
    /// be read yet.
    pub fn is_current(&self) -> bool {
        self.is_known && self.position >= self.place.feed.head()
    }

    /// Returns what is next; waits until there is something. Can be cancelled without losing
    /// changes.
    ///
    /// # Errors
    /// A store error. It can be called again.
    pub async fn next(&mut self) -> Result<WatchStep, StoreError> {
        if !self.is_known && !self.find_position().await? {
            return Ok(self.gap(self.place.feed.head()));
        }
        loop {
            self.grown.mark_unchanged();
            let Some((batches, head)) = self.place.feed.after(self.position) else {
                if self.is_live {
                    self.place.feeds.metrics.watch_ended("slow");
                    return Ok(WatchStep::TooSlow);
                }
                match self.catch_up().await? {
                    Some(step) => return Ok(step),
                    None => continue,
                }
            };
            self.is_live = true;
            if batches
                .iter()
                .any(|batch| batch.gap && batch.last > self.position)
            {
                return Ok(self.gap(head));
            }
            let mut events = Vec::new();
            for batch in &batches {
                batch.select(&self.filter, self.position, &mut events);
            }
            self.position = self.position.max(head);
            if !events.is_empty() {
                return Ok(WatchStep::Changes(events));
            }
            // The sender lives as long as the feed.
            let _ = self.grown.changed().await;
        }
    }

    fn gap(&mut self, position: u64) -> WatchStep {
        let after = self.position;
        self.position = position;
        (self.is_live, self.is_known) = (true, true);
        WatchStep::Gap { after }
    }

    /// Returns whether its position is one of this store. Another host may be a little ahead.
    async fn find_position(&mut self) -> Result<bool, StoreError> {
        let (feeds, feed) = (&self.place.feeds, &self.place.feed);
        let began = Instant::now();
        while self.position > feed.head() {
            let head = feeds.store.changes_head(feed.head()).await?;
            if self.position <= head.position {
                break;
            }
            if began.elapsed() >= AHEAD_TIMEOUT {
                feeds.metrics.watch_gap();
                return Ok(false);
            }
            tokio::time::sleep(AHEAD_INTERVAL).await;
        }
        self.is_known = true;
        Ok(true)
    }

    /// Reads a part of the log. Returns `None` if it has no changes that the watcher wants.
    async fn catch_up(&mut self) -> Result<Option<WatchStep>, StoreError> {
        let (feeds, feed) = (Arc::clone(&self.place.feeds), Arc::clone(&self.place.feed));
        // Never closed.
        let _permit = feed.readers.acquire().await.ok();
        let head = feed.head();
        let page = feed.read(&feeds, self.position, head).await?;
        if page.start.is_none_or(|start| start > self.position) {
            feeds.metrics.watch_gap();
            return Ok(Some(self.gap(head)));
        }
        let last = page.changes.last().map(|change| change.position);
        let last = last.unwrap_or(head);
        let batch = ChangeBatch::new(&feed.name, page.changes, last);
        let mut events = Vec::new();
        batch.select(&self.filter, self.position, &mut events);
        self.position = last;
        Ok((!events.is_empty()).then_some(WatchStep::Changes(events)))
    }
}
