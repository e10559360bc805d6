//! The locks of one transaction.

use super::key_locks::{Address, KeyLocks, Lock, LockSetId, Pending, Table};
use crate::{Deadline, Stage};
use kvasm_core::{AppId, CommitId, Entry};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::oneshot;

/// A lock set that is released on drop.
pub struct LockSetGuard(Arc<LockSet>);

impl LockSetGuard {
    /// The locks of the transaction.
    pub fn lane(&self) -> &Arc<LockSet> {
        &self.0
    }
}

impl Drop for LockSetGuard {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// The lock set of one transaction: empty until it encounters another's locks.
pub struct LockSet {
    locks: Arc<KeyLocks>,
    app: AppId,
    id: LockSetId,
    /// Whether it has ever taken a lock: the fast path.
    is_used: AtomicBool,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    /// Keys that it holds or waits for.
    held: BTreeSet<Address>,
    /// Those that are not closed yet.
    open: Vec<Address>,
    released: bool,
}

/// The outcome of an attempt to lock a key.
enum LockOutcome {
    Holds,
    Next(oneshot::Receiver<()>),
    Never,
}

impl LockSet {
    /// Creates an empty lock set.
    pub fn open(locks: &Arc<KeyLocks>, app: AppId) -> LockSetGuard {
        LockSetGuard(Arc::new(LockSet {
            locks: Arc::clone(locks),
            app,
            id: locks.next_id(),
            is_used: AtomicBool::new(false),
            keys: Mutex::default(),
        }))
    }

    /// The app of the transaction.
    pub fn app(&self) -> AppId {
        self.app
    }

    /// The identity of the transaction among those of this host.
    pub(crate) fn id(&self) -> LockSetId {
        self.id
    }

    /// Whether it holds, or has held, a lock.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    /// Called before a run reads or writes keys: locks the missing ones in order, waiting for
    /// those that sort after all held ones, and then closes all. Returns `false` if it would
    /// have to wait for a key that sorts before one that it holds.
    pub async fn touch(&self, keys: &BTreeSet<&Address>, deadline: &Deadline) -> bool {
        for at in keys {
            match self.line_up(at) {
                LockOutcome::Holds => {}
                LockOutcome::Next(turn) => {
                    let start = Instant::now();
                    let timed = deadline.timed(Stage::Locks);
                    // The sender is only dropped by removing this lock set from the queue.
                    let _ = turn.await;
                    drop(timed);
                    self.locks.metrics.transaction_waited(start.elapsed());
                }
                LockOutcome::Never => return false,
            }
        }
        for drained in self.close() {
            let _ = drained.await;
        }
        true
    }

    /// Takes a lock, or joins its queue.
    fn line_up(&self, at: &Address) -> LockOutcome {
        let mut own = self.keys.lock();
        if own.released {
            return LockOutcome::Never;
        }
        if own.held.contains(at) {
            return LockOutcome::Holds;
        }
        let is_in_order = own.held.last().is_none_or(|last| last < at);
        let mut table = self.locks.table.lock();
        let line_up = |lock: &mut Lock| match lock.holder {
            None => {
                lock.holder = Some(self.id);
                LockOutcome::Holds
            }
            Some(_) if is_in_order => {
                let (sender, receiver) = oneshot::channel();
                lock.queue.push_back((self.id, sender));
                LockOutcome::Next(receiver)
            }
            Some(_) => LockOutcome::Never,
        };
        let turn = self.locks.lock_of(&mut table, self.app, at, true, line_up);
        match turn {
            // Also while it waits, so that a release removes it from the queue.
            Some(turn @ (LockOutcome::Holds | LockOutcome::Next(_))) => {
                self.add(&mut own, at);
                turn
            }
            Some(LockOutcome::Never) | None => LockOutcome::Never,
        }
    }

    fn add(&self, own: &mut Keys, at: &Address) {
        self.is_used.store(true, Ordering::Release);
        own.held.insert(at.clone());
        own.open.push(at.clone());
    }

    /// Locks and closes keys if all of them are free and none is being committed: keys that a
    /// run has accessed without a lock. Fails after a release, as the locks would never be
    /// released.
    pub(crate) fn take_free(&self, keys: &[Address]) -> bool {
        let mut own = self.keys.lock();
        if own.released {
            return false;
        }
        let mut table = self.locks.table.lock();
        if let Some(locks) = table.get(&self.app) {
            let is_in_use =
                |at| (locks.get(at)).is_some_and(|lock: &Lock| lock.is_taken() || lock.passing > 0);
            if keys.iter().any(is_in_use) {
                return false;
            }
        }
        self.is_used.store(true, Ordering::Release);
        for at in keys {
            let take = |lock: &mut Lock| {
                lock.holder = Some(self.id);
                lock.closed = true;
            };
            self.locks.lock_of(&mut table, self.app, at, true, take);
            own.held.insert(at.clone());
        }
        true
    }

    /// Blocks other commits of its keys. Returns what to wait for: commits in progress.
    fn close(&self) -> Vec<oneshot::Receiver<()>> {
        let mut own = self.keys.lock();
        let open = std::mem::take(&mut own.open);
        if own.released || open.is_empty() {
            return Vec::new();
        }
        let mut table = self.locks.table.lock();
        let close = |at| self.close_one(&mut table, at);
        open.iter().filter_map(close).collect()
    }

    fn close_one(&self, table: &mut Table, at: &Address) -> Option<oneshot::Receiver<()>> {
        let close = |lock: &mut Lock| {
            lock.closed = true;
            (lock.passing > 0).then(|| {
                let (sender, receiver) = oneshot::channel();
                lock.drained = Some(sender);
                receiver
            })
        };
        let drained = self.locks.lock_of(table, self.app, at, false, close);
        drained.flatten()
    }

    /// Whether it holds all these keys.
    pub fn holds(&self, keys: &BTreeSet<Address>) -> bool {
        let own = self.keys.lock();
        !own.released && keys.is_subset(&own.held)
    }

    /// Hands the locks on before the commit of `written` has ended. Until then only the next
    /// holders see these writes.
    pub(crate) fn hand_on(&self, commit: CommitId, written: Vec<(Address, Option<Entry>)>) {
        let own = self.keys.lock();
        if own.released {
            return;
        }
        {
            let mut table = self.locks.table.lock();
            for (at, entry) in written {
                let pending = Pending {
                    commit,
                    entry,
                    waiting: Vec::new(),
                };
                self.locks
                    .lock_of(&mut table, self.app, &at, false, |lock| {
                        if lock.holder == Some(self.id) {
                            lock.pending = Some(pending);
                        }
                    });
            }
        }
        drop(own);
        self.release();
    }

    pub(super) fn release(&self) {
        let mut own = self.keys.lock();
        own.released = true;
        if own.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut own.held);
        let mut table = self.locks.table.lock();
        for at in &held {
            self.locks
                .lock_of(&mut table, self.app, at, false, |lock| match lock.holder {
                    Some(holder) if holder == self.id => lock.hand_on(),
                    _ => lock.queue.retain(|(lane, _)| *lane != self.id),
                });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{Collection, Key};
    use kvasm_metrics::Metrics;

    /// Otherwise the lock would never be released.
    #[test]
    fn released_lock_set_takes_no_locks() {
        let locks = KeyLocks::new(Metrics::default());
        let at = (Collection::parse("c").unwrap(), Key::parse("k").unwrap());
        let held = LockSet::open(&locks, AppId::generate());
        let lane = Arc::clone(held.lane());
        drop(held);
        assert!(!lane.take_free(std::slice::from_ref(&at)));
        assert!(!locks.are_in_use());
    }
}
