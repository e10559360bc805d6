//! Writes records to the store: lines of logs, or calls.

use super::segment_record::{RecordSource, SegmentRecord};
use super::{Logs, now_us, segment};
use crate::calls::CallRecords;
use kvasm_core::AppId;
use kvasm_core::store::{LogSegment, Store, StoreError};
use kvasm_metrics::Metrics;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};

/// How long a record waits, so that a segment has many.
const AGE: Duration = Duration::from_secs(1);
/// Size of a segment's records in memory, in bytes. A queue with more is written without waiting.
const SEGMENT_BYTES: usize = 64 * 1024;
/// Segments of one app that are written before the next app's.
const SEGMENTS_OF_TURN: usize = 4;
/// How long the store may take for a segment, a page or a heartbeat.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a segment is tried before its records are dropped.
const ATTEMPTS_MAX: u32 = 8;
/// Failures in a row after which a round is given up: the store is down.
const FAILURES_MAX: u32 = 3;
/// Segments removed per call.
const PRUNED: u32 = 500;
/// Concurrent reads of stored records of one kind on this host, so that they do not use up the store's
/// connections.
const READS_MAX: usize = 2;

/// How long and how many of each app's records are kept in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRetention {
    /// Maximum age.
    pub age: Duration,
    /// Maximum size of the segments of an app, in bytes. Up to a sixteenth more may be stored for a
    /// while by each host.
    pub bytes_of_app: u64,
}

impl LogRetention {
    /// The position before which records are too old.
    fn oldest(&self) -> u64 {
        let age = u64::try_from(self.age.as_micros()).unwrap_or(u64::MAX);
        now_us().saturating_sub(age)
    }
}

/// Writes the records of a host to the store, and reads them back together with those that it has
/// not written yet. A failure of the store affects no call.
pub struct SegmentKeeper<S> {
    pub(super) source: Arc<S>,
    pub(super) store: Arc<dyn Store>,
    pub(super) reads: Semaphore,
    metrics: Metrics,
    state: Mutex<KeeperState>,
}

/// Keeps the lines of a host's [`Logs`].
pub type LogKeeper = SegmentKeeper<Logs>;

/// Keeps a host's [`CallRecords`].
pub type CallKeeper = SegmentKeeper<CallRecords>;

#[derive(Default)]
struct KeeperState {
    /// Segments that are not acknowledged, and the number of attempts. They are tried again
    /// unchanged.
    unwritten: HashMap<AppId, (LogSegment, u32)>,
    /// The bytes that were written for an app since its records were last pruned by size; absent before
    /// the first time.
    written: HashMap<AppId, u64>,
}

impl<S: RecordSource> SegmentKeeper<S> {
    /// Creates a keeper, which does nothing until it is called.
    pub fn new(source: Arc<S>, store: Arc<dyn Store>, metrics: Metrics) -> SegmentKeeper<S> {
        SegmentKeeper {
            source,
            store,
            reads: Semaphore::new(READS_MAX),
            metrics,
            state: Mutex::default(),
        }
    }

    /// From now on records are kept until a [`round`](SegmentKeeper::round) has written them.
    /// Without this, logs are in memory only, and calls are not recorded.
    pub fn attach(&self) {
        self.source.open_queue();
    }

    /// Writes what is due. Call it repeatedly, for example twice a second.
    ///
    /// # Errors
    /// The last error of the store. What was not written is tried again by later rounds, a few
    /// times.
    pub async fn round(&self, retention: &LogRetention) -> Result<(), StoreError> {
        self.write(AGE, retention).await
    }

    /// Writes all records, for a host that stops. Gives up after 10 s.
    ///
    /// # Errors
    /// The last error of the store.
    pub async fn flush(&self, retention: &LogRetention) -> Result<(), StoreError> {
        within(self.write_all(retention)).await
    }

    async fn write_all(&self, retention: &LogRetention) -> Result<(), StoreError> {
        loop {
            self.write(Duration::ZERO, retention).await?;
            if self.source.due(Duration::ZERO, SEGMENT_BYTES).is_empty() {
                return Ok(());
            }
        }
    }

    async fn write(&self, age: Duration, retention: &LogRetention) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        let due = self.source.due(age, SEGMENT_BYTES);
        state.unwritten.retain(|app, _| {
            let is_writing = self.source.with_queue(|all| all.is_writing(*app));
            is_writing.unwrap_or(false)
        });
        let (mut in_a_row, mut last) = (0, Ok(()));
        for app in due {
            match self.write_app(&mut state, app, retention).await {
                Ok(()) => in_a_row = 0,
                Err(error) => {
                    in_a_row += 1;
                    last = Err(error);
                }
            }
            if in_a_row >= FAILURES_MAX {
                break;
            }
        }
        if let Some(lost) = self.source.with_queue(|all| all.take_lost()) {
            S::count_lost(&self.metrics, lost);
        }
        last
    }

    /// Writes a few segments of an app.
    async fn write_app(
        &self,
        state: &mut KeeperState,
        app: AppId,
        retention: &LogRetention,
    ) -> Result<(), StoreError> {
        for _ in 0..SEGMENTS_OF_TURN {
            let (segment, attempts) = match state.unwritten.get(&app) {
                Some(unwritten) => unwritten.clone(),
                None => {
                    let records = self.source.take(app, SEGMENT_BYTES);
                    match segment::encode(app, self.source.host(), &records) {
                        Some(segment) => (segment, 0),
                        None => break,
                    }
                }
            };
            let attempts = attempts + 1;
            // Before the attempt, which may be cancelled.
            state.unwritten.insert(app, (segment.clone(), attempts));
            let done = within(self.store.append_log(&segment)).await;
            if done.is_ok() || attempts >= ATTEMPTS_MAX {
                state.unwritten.remove(&app);
                let is_lost = done.is_err();
                self.source.with_queue(|all| all.written(app, is_lost));
            }
            done?;
            // The first time, whatever an earlier process has left is pruned.
            let written = state.written.entry(app).or_insert(u64::MAX);
            *written = written.saturating_add(segment.body.len() as u64);
            if *written > retention.bytes_of_app / 16 {
                self.prune(app, retention.oldest(), retention.bytes_of_app)
                    .await?;
                state.written.insert(app, 0);
            }
        }
        Ok(())
    }

    /// Removes what is too old of an app's stored records.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn prune_old(&self, app: AppId, retention: &LogRetention) -> Result<(), StoreError> {
        self.prune(app, retention.oldest(), u64::MAX).await
    }

    /// Removes the stored records of an app that was deleted.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove_of(&self, app: AppId) -> Result<(), StoreError> {
        self.prune(app, u64::MAX, u64::MAX).await
    }

    /// Removes the stored records of apps that do not exist.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove_deleted(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let apps = self
                .store
                .apps_with_log(S::Record::KIND, after, PRUNED)
                .await?;
            for app in &apps {
                if self.store.app_by_id(*app).await?.is_none() {
                    self.remove_of(*app).await?;
                    self.state.lock().await.written.remove(app);
                }
            }
            after = apps.last().copied();
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn prune(&self, app: AppId, before: u64, bytes_max: u64) -> Result<(), StoreError> {
        loop {
            let prune = self
                .store
                .prune_log(app, S::Record::KIND, before, bytes_max, PRUNED);
            let pruned = within(prune).await?;
            self.metrics.upkeep(S::PRUNED, pruned);
            if pruned < u64::from(PRUNED) {
                return Ok(());
            }
        }
    }
}

/// Waits for the store for a limited time.
pub(crate) async fn within<T>(
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let slow = |_| Err(StoreError::Unavailable("it did not answer in time".into()));
    let done = tokio::time::timeout(STORE_TIMEOUT, call).await;
    done.unwrap_or_else(slow)
}
