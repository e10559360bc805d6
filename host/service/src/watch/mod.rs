//! Watchers of an app's changes.
//!
//! A commit does not know of watchers: while an app has some, its store also writes the changes to a
//! log, and one task of the host (`pump`) reads them from there, once for all watchers of the app. It
//! encodes each change once, and keeps the last ones in a ring (`feed`), from which the watchers take
//! them at their own pace. A watcher that resumes first reads the log itself (`watcher`).

mod change_batch;
mod feed;
mod pump;
mod watcher;

use feed::AppFeed;
use kvasm_core::store::{ChangeRetention, Store, StoreError};
use kvasm_core::{App, AppId, Collection, Timestamp};
use kvasm_metrics::{InUse, Metrics};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

pub use watcher::{ChangeWatcher, WatchStep};

/// Number of changes removed per transaction.
const PRUNED: u32 = 1_000;
/// Number of apps read per page.
const APPS: u32 = 200;

/// Limits of watchers, and how much of the changes is kept for those that resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchLimits {
    /// Maximum number of watchers of this host. Default 5,000.
    pub watchers: usize,
    /// Maximum number of watchers of one app on this host. Default 1,000.
    pub watchers_of_app: usize,
    /// The changes that are kept of an app that is watched, or was within this time. Default 10
    /// minutes and 16 MiB.
    pub history: ChangeRetention,
}

impl Default for WatchLimits {
    fn default() -> WatchLimits {
        WatchLimits {
            watchers: 5_000,
            watchers_of_app: 1_000,
            history: ChangeRetention {
                age: Duration::from_secs(600),
                bytes: 16 * 1024 * 1024,
            },
        }
    }
}

/// Why an app cannot be watched.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The app or the host has as many watchers as are allowed.
    #[error("too many watchers: at most {limit} may watch {what}")]
    TooMany {
        /// The limit.
        limit: usize,
        /// What it is a limit of.
        what: &'static str,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The changes that a watcher wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeFilter {
    /// Only changes of this collection.
    pub collection: Option<Collection>,
    /// Only keys with this prefix.
    pub prefix: Option<String>,
}

impl ChangeFilter {
    fn is_empty(&self) -> bool {
        self.collection.is_none() && self.prefix.is_none()
    }

    fn covers(&self, collection: &str, key: &str) -> bool {
        let of_collection = self.collection.as_ref();
        let prefix = self.prefix.as_deref();
        of_collection.is_none_or(|wanted| wanted.as_str() == collection)
            && prefix.is_none_or(|prefix| key.starts_with(prefix))
    }
}

/// The feeds of the apps that are watched on this host.
pub struct ChangeFeeds {
    store: Arc<dyn Store>,
    metrics: Metrics,
    limits: WatchLimits,
    state: Mutex<FeedState>,
}

#[derive(Default)]
struct FeedState {
    feeds: HashMap<AppId, Arc<AppFeed>>,
    /// Watchers of all apps.
    watchers: usize,
    /// The feeds that may have changes that they have not read yet.
    pending: HashSet<AppId>,
    /// Up to where changes of all apps are readable.
    head: u64,
    is_pumping: bool,
}

impl ChangeFeeds {
    /// Creates the feeds over a store. None is watched.
    pub fn new(store: Arc<dyn Store>, metrics: Metrics, limits: WatchLimits) -> Arc<ChangeFeeds> {
        Arc::new(ChangeFeeds {
            store,
            metrics,
            limits,
            state: Mutex::default(),
        })
    }

    /// Watches the changes of an app: those after a position, or all from now on.
    ///
    /// Needs a tokio runtime with its timer enabled.
    ///
    /// # Errors
    /// [`WatchError::TooMany`], or a store error.
    pub async fn watch(
        self: &Arc<Self>,
        app: &App,
        filter: ChangeFilter,
        after: Option<u64>,
    ) -> Result<ChangeWatcher, WatchError> {
        let place = self.reserve(app)?;
        place.feed.start(self).await?;
        self.start_pump(app.id);
        Ok(ChangeWatcher::new(place, filter, after))
    }

    fn reserve(self: &Arc<Self>, app: &App) -> Result<WatcherPlace, WatchError> {
        let too_many = |limit, what| Err(WatchError::TooMany { limit, what });
        let WatchLimits {
            watchers,
            watchers_of_app,
            ..
        } = self.limits;
        let mut state = self.state.lock();
        if state.watchers >= watchers {
            return too_many(watchers, "on this host");
        }
        let feed = state.feeds.entry(app.id);
        let feed = feed.or_insert_with(|| AppFeed::new(app));
        if feed.watchers() >= watchers_of_app {
            return too_many(watchers_of_app, "one app");
        }
        feed.add_watcher();
        let feed = Arc::clone(feed);
        state.watchers += 1;
        Ok(WatcherPlace {
            feeds: Arc::clone(self),
            feed,
            _counted: self.metrics.watcher(),
        })
    }

    fn start_pump(self: &Arc<Self>, app: AppId) {
        let mut state = self.state.lock();
        // Changes may have been read past this app while its feed started.
        state.pending.insert(app);
        if !std::mem::replace(&mut state.is_pumping, true) {
            // No other feed has read anything, and each is pending when it has started.
            let head = state.feeds.get(&app).map_or(0, |feed| feed.head());
            state.head = state.head.max(head);
            tokio::spawn(pump::run(Arc::downgrade(self)));
        }
    }

    /// Removes changes that are no longer retained, of all apps. Returns their number.
    ///
    /// # Errors
    /// A store error.
    pub async fn prune_all(&self) -> Result<u64, StoreError> {
        let (mut after, mut removed) = (None, 0);
        loop {
            let apps = self.store.apps_with_changes(after, APPS).await?;
            for app in &apps {
                removed += self.prune_app(*app).await?;
            }
            match apps.last() {
                Some(last) => after = Some(*last),
                None => return Ok(removed),
            }
        }
    }

    async fn prune_app(&self, app: AppId) -> Result<u64, StoreError> {
        let (mut removed, history) = (0, self.limits.history);
        loop {
            let now = Timestamp::now();
            let prune = self.store.prune_changes(app, now, history, PRUNED);
            let some = prune.await?;
            removed += some;
            self.metrics.upkeep("changes", some);
            // One more step ends the log of an app that is not watched any more.
            if some == 0 {
                return Ok(removed);
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The place of a watcher among those that are allowed.
struct WatcherPlace {
    feeds: Arc<ChangeFeeds>,
    feed: Arc<AppFeed>,
    _counted: InUse,
}

impl Drop for WatcherPlace {
    fn drop(&mut self) {
        let mut state = self.feeds.state.lock();
        state.watchers -= 1;
        self.feed.remove_watcher();
        // Otherwise the pump does.
        if !state.is_pumping && self.feed.watchers() == 0 {
            state.feeds.remove(&self.feed.app);
        }
    }
}
