//! The feed of one app: its last changes, shared by its watchers.

use super::ChangeFeeds;
use super::change_batch::ChangeBatch;
use kvasm_core::store::{ChangePage, ChangeRange, StoreError};
use kvasm_core::{App, AppId, AppName, Timestamp};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OnceCell, Semaphore, watch};

/// Maximum size of a ring in bytes. It keeps two batches in any case.
const RING_BYTES: usize = 2 * 1024 * 1024;
/// Maximum number of batches of a ring.
const RING_BATCHES: usize = 256;
/// Maximum number of changes and bytes that are read from the log at once.
const PAGE_CHANGES: u32 = 500;
const PAGE_BYTES: u64 = 256 * 1024;
/// The time that each watcher adds to the interval of an app's batches, so that waking them all
/// leaves time for others.
const PAUSE_OF_WATCHER: Duration = Duration::from_micros(100);
/// The rate at which a host sends changes to all watchers of an app, in bytes per second.
const RATE_OF_APP: u64 = 32 * 1024 * 1024;
/// How many watchers of an app may read its log at the same time.
const READERS_OF_APP: usize = 2;
/// The time of a log is extended this often, or in a quarter of its time.
const RENEWAL: Duration = Duration::from_secs(30);

/// The feed of one app.
pub(super) struct AppFeed {
    pub(super) app: AppId,
    pub(super) name: AppName,
    watchers: AtomicUsize,
    ring: Mutex<ChangeRing>,
    /// Sent whenever the ring has grown.
    grown: watch::Sender<u64>,
    started: OnceCell<()>,
    /// Permits to read the log for watchers that resume.
    pub(super) readers: Semaphore,
}

/// The last batches of an app, which have all changes after `start` up to `head`.
#[derive(Default)]
struct ChangeRing {
    start: u64,
    head: u64,
    batches: VecDeque<Arc<ChangeBatch>>,
    bytes: usize,
    /// When the next batch may be read.
    next: Option<Instant>,
    /// When the log was last kept.
    kept: Option<Instant>,
}

impl AppFeed {
    pub(super) fn new(app: &App) -> Arc<AppFeed> {
        Arc::new(AppFeed {
            app: app.id,
            name: app.name.clone(),
            watchers: AtomicUsize::new(0),
            ring: Mutex::default(),
            grown: watch::Sender::new(0),
            started: OnceCell::new(),
            readers: Semaphore::new(READERS_OF_APP),
        })
    }

    /// The number changes only under the lock of all feeds.
    pub(super) fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    pub(super) fn add_watcher(&self) {
        self.watchers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_watcher(&self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn grown(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }

    /// Returns the position up to which it has read.
    pub(super) fn head(&self) -> u64 {
        self.ring.lock().head
    }

    /// Keeps the app's log and begins at its end, once.
    pub(super) async fn start(&self, feeds: &ChangeFeeds) -> Result<(), StoreError> {
        let start = async || {
            let start = self.keep(feeds).await?;
            let known = feeds.state.lock().head;
            let head = feeds.store.changes_head(known).await?;
            let head = head.position.max(start);
            let mut ring = self.ring.lock();
            (ring.start, ring.head) = (head, head);
            Ok(())
        };
        self.started.get_or_try_init(start).await.map(drop)
    }

    /// Whether it has begun, and the time of its log is to be extended.
    pub(super) fn is_due(&self, age: Duration) -> bool {
        let kept = self.ring.lock().kept;
        self.started.initialized() && kept.is_none_or(|at| at.elapsed() >= RENEWAL.min(age / 4))
    }

    pub(super) async fn keep(&self, feeds: &ChangeFeeds) -> Result<u64, StoreError> {
        let began = Instant::now();
        let age = feeds.limits.history.age.as_millis();
        let age = i64::try_from(age).unwrap_or(i64::MAX);
        let until = Timestamp(Timestamp::now().0.saturating_add(age));
        let start = feeds.store.keep_changes(self.app, until).await?;
        self.ring.lock().kept = Some(began);
        Ok(start)
    }

    /// Reads a part of the log after a position.
    pub(super) async fn read(
        &self,
        feeds: &ChangeFeeds,
        after: u64,
        to: u64,
    ) -> Result<ChangePage, StoreError> {
        let range = ChangeRange {
            after,
            to,
            limit: PAGE_CHANGES,
            bytes_max: PAGE_BYTES,
        };
        feeds.store.changes(self.app, range).await
    }

    /// Whether it has begun, and may read now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.started.initialized() && self.ring.lock().next.is_none_or(|next| next <= now)
    }

    /// Reads what is new up to `to`. Returns whether there may be more.
    pub(super) async fn advance(&self, feeds: &ChangeFeeds, to: u64) -> Result<bool, StoreError> {
        let head = self.head();
        if to <= head {
            return Ok(false);
        }
        let page = self.read(feeds, head, to).await?;
        if page.start.is_none_or(|start| start > head) {
            feeds.metrics.watch_gap();
            self.push(ChangeBatch::gap(to.max(page.start.unwrap_or(0))));
            return Ok(false);
        }
        // A page that is not empty may not be the last one.
        let last = page.changes.last().map(|change| change.position);
        match last {
            None => self.ring.lock().head = to,
            Some(last) => self.push(ChangeBatch::new(&self.name, page.changes, last)),
        }
        Ok(last.is_some())
    }

    fn push(&self, batch: ChangeBatch) {
        let watchers = self.watchers() as u64;
        let sending = batch.bytes() as u64 * watchers;
        let pause = PAUSE_OF_WATCHER * u32::try_from(watchers).unwrap_or(u32::MAX)
            + Duration::from_secs_f64(sending as f64 / RATE_OF_APP as f64);
        let head = batch.last;
        let mut ring = self.ring.lock();
        ring.head = head;
        ring.next = Some(Instant::now() + pause);
        ring.bytes += batch.size();
        ring.batches.push_back(Arc::new(batch));
        while ring.batches.len() > 2
            && (ring.bytes > RING_BYTES || ring.batches.len() > RING_BATCHES)
        {
            if let Some(oldest) = ring.batches.pop_front() {
                ring.bytes -= oldest.size();
                ring.start = oldest.last;
            }
        }
        drop(ring);
        self.grown.send_replace(head);
    }

    /// Returns the batches after a position, and the position of the head; `None` if the ring does
    /// not have them all any more.
    pub(super) fn after(&self, position: u64) -> Option<(Vec<Arc<ChangeBatch>>, u64)> {
        let ring = self.ring.lock();
        if position < ring.start {
            return None;
        }
        let first = ring.batches.partition_point(|b| b.last <= position);
        Some((ring.batches.range(first..).cloned().collect(), ring.head))
    }
}
