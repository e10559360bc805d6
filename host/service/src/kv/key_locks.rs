//! Locks on keys, for transactions in conflict.
//!
//! A run that encounters another's lock, or that has lost a conflict, locks the keys that it
//! touches. Its locks are its lock set, a [`LockSet`](super::lock_set::LockSet). Other runs wait for it,
//! or give way to it:
//!
//! - Lock sets queue for a key in order of arrival. A lock set that holds keys waits only for
//!   keys that sort after all of them, which rules out deadlocks. It takes any other key only if
//!   it is free, and otherwise gives way.
//! - A waiter already has its instance, so a holder never waits for an instance that its waiters
//!   occupy.
//! - Other commits wait while one of their keys is *closed*: from the holder's first access to
//!   its end. They do not wait for lock sets that are queued.
//! - A holder that closes a key waits for commits that are in progress.
//! - If the store can report that a commit has its position in the queue, the locks are handed
//!   on at that point. The written entries are kept here until the commit has ended, for the
//!   next holder, whose own commit checks that it was applied (`host/core/src/link.rs`).
//!
//! The locks only ensure progress. Correctness comes from the version checks at commit, so
//! losing a lock is harmless.
//!
//! A key has an entry here while it is held, or while it is committed alongside a holder. While
//! there are none on this host, a commit costs one atomic load.

use kvasm_core::{AppId, Collection, CommitId, Entry, Key};
use kvasm_metrics::{InUse, Metrics};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// A key within an app.
pub type Address = (Collection, Key);

/// How many lock sets a commit waits for, in addition to one for each of its keys.
const LOCK_SETS_AWAITED_MAX: usize = 4;

/// Identifies a lock set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockSetId(u64);

/// The key locks of a host.
pub struct KeyLocks {
    pub(super) metrics: Metrics,
    /// Number of keys with an entry: the fast path.
    locks: AtomicUsize,
    last: AtomicU64,
    pub(super) table: Mutex<Table>,
}

pub(super) type Table = HashMap<AppId, HashMap<Address, Lock>>;

#[derive(Default)]
pub(super) struct Lock {
    pub(super) holder: Option<LockSetId>,
    /// Whether the holder has accessed the entry, so that other commits wait.
    pub(super) closed: bool,
    pub(super) queue: VecDeque<(LockSetId, oneshot::Sender<()>)>,
    /// Commits that wait for the holder to release it.
    gate: Vec<oneshot::Sender<()>>,
    /// Number of other commits in progress.
    pub(super) passing: u32,
    /// Notifies the holder, which waits for them.
    pub(super) drained: Option<oneshot::Sender<()>>,
    pub(super) pending: Option<Pending>,
    _gauge: Option<InUse>,
}

/// The write of a commit in progress to one entry.
pub(super) struct Pending {
    pub(super) commit: CommitId,
    pub(super) entry: Option<Entry>,
    /// Those that wait for the commit to end.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
}

impl Lock {
    /// Hands the lock to the next waiter in the queue, and lets commits through.
    pub(super) fn hand_on(&mut self) {
        self.closed = false;
        self.drained = None;
        self.holder = None;
        for waiting in self.gate.drain(..) {
            let _ = waiting.send(());
        }
        while let Some((lane, waiting)) = self.queue.pop_front() {
            if waiting.send(()).is_ok() {
                self.holder = Some(lane);
                return;
            }
        }
    }

    /// Whether one of these keys is held, or written by a commit in progress.
    pub(super) fn is_taken(&self) -> bool {
        self.holder.is_some() || self.pending.is_some()
    }

    fn is_unused(&self) -> bool {
        self.holder.is_none() && self.passing == 0 && self.pending.is_none()
    }

    /// Waits at the gate; occasionally removes cancelled waiters.
    fn wait(&mut self) -> oneshot::Receiver<()> {
        if self.gate.len() >= 64 && self.gate.len() == self.gate.capacity() {
            self.gate.retain(|waiting| !waiting.is_closed());
        }
        let (sender, receiver) = oneshot::channel();
        self.gate.push(sender);
        receiver
    }
}

impl KeyLocks {
    /// No locks are held.
    pub fn new(metrics: Metrics) -> Arc<KeyLocks> {
        Arc::new(KeyLocks {
            metrics,
            locks: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            table: Mutex::default(),
        })
    }

    fn is_empty(&self) -> bool {
        self.locks.load(Ordering::Acquire) == 0
    }

    /// Accesses a key's lock, which is created if `make`, and removed if unused afterwards.
    pub(super) fn lock_of<T>(
        &self,
        table: &mut Table,
        app: AppId,
        at: &Address,
        make: bool,
        work: impl FnOnce(&mut Lock) -> T,
    ) -> Option<T> {
        let locks = match make {
            true => table.entry(app).or_default(),
            false => table.get_mut(&app)?,
        };
        if make && !locks.contains_key(at) {
            self.locks.fetch_add(1, Ordering::AcqRel);
            let lock = Lock {
                _gauge: Some(self.metrics.transaction_lock()),
                ..Lock::default()
            };
            locks.insert(at.clone(), lock);
        }
        let lock = locks.get_mut(at)?;
        let done = work(lock);
        if lock.is_unused() {
            locks.remove(at);
            self.locks.fetch_sub(1, Ordering::AcqRel);
            if locks.is_empty() {
                table.remove(&app);
            }
        }
        Some(done)
    }

    /// Whether lanes have one of these keys to themselves.
    pub fn is_taken<'k>(&self, app: AppId, mut keys: impl Iterator<Item = &'k Address>) -> bool {
        if self.is_empty() {
            return false;
        }
        let table = self.table.lock();
        let Some(locks) = table.get(&app) else {
            return false;
        };
        keys.any(|at| locks.get(at).is_some_and(|lock| lock.is_taken()))
    }

    /// Returns a new id for a lock set.
    pub(super) fn next_id(&self) -> LockSetId {
        LockSetId(self.last.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits until none of these keys is closed. Holders wait until the result is dropped.
    /// Returns `None` if none of the keys has a lock.
    pub(crate) async fn enter_commit(
        self: &Arc<KeyLocks>,
        app: AppId,
        keys: &BTreeSet<Address>,
    ) -> Option<CommitGuard> {
        // Bounded: with holders in succession, a commit could wait indefinitely.
        let mut waits = keys.len() + LOCK_SETS_AWAITED_MAX;
        loop {
            let gate = {
                let mut table = self.table.lock();
                let locks = table.get_mut(&app)?;
                let closed = |at: &Address| {
                    let lock = locks.get_mut(at).filter(|lock| lock.closed)?;
                    Some(lock.wait())
                };
                match keys.iter().filter(|_| waits > 0).find_map(closed) {
                    Some(gate) => gate,
                    // All keys at once: a commit that waits at a gate is in progress at no key.
                    None => return self.pass_now(locks, app, keys),
                }
            };
            let _ = gate.await;
            waits = waits.saturating_sub(1);
        }
    }

    fn pass_now(
        self: &Arc<KeyLocks>,
        locks: &mut HashMap<Address, Lock>,
        app: AppId,
        keys: &BTreeSet<Address>,
    ) -> Option<CommitGuard> {
        let mut passed = Vec::new();
        for at in keys {
            if let Some(lock) = locks.get_mut(at) {
                lock.passing += 1;
                passed.push(at.clone());
            }
        }
        (!passed.is_empty()).then(|| CommitGuard {
            locks: Arc::clone(self),
            app,
            keys: passed,
        })
    }

    /// Returns the write of a commit in progress to an entry.
    pub fn pending(&self, app: AppId, at: &Address) -> Option<(CommitId, Option<Entry>)> {
        let table = self.table.lock();
        let pending = table.get(&app)?.get(at)?.pending.as_ref()?;
        Some((pending.commit, pending.entry.clone()))
    }

    /// Waits until no commit in progress writes the entry.
    pub async fn settled(&self, app: AppId, at: &Address) {
        let waits = || {
            let mut table = self.table.lock();
            let pending = table.get_mut(&app)?.get_mut(at)?.pending.as_mut()?;
            let (sender, receiver) = oneshot::channel();
            pending.waiting.push(sender);
            Some(receiver)
        };
        while let Some(ended) = waits() {
            let _ = ended.await;
        }
    }

    /// Forgets the writes of commits that have ended or cannot be followed.
    pub fn settle<'k>(&self, app: AppId, commits: impl Iterator<Item = (&'k Address, CommitId)>) {
        let mut table = self.table.lock();
        for (at, commit) in commits {
            self.lock_of(&mut table, app, at, false, |lock| {
                if lock.pending.as_ref().is_some_and(|p| p.commit == commit) {
                    // Waiters notice that their sender is dropped.
                    lock.pending = None;
                }
            });
        }
    }

    /// Whether there are any locks.
    pub(crate) fn are_in_use(&self) -> bool {
        !self.is_empty()
    }
}

/// A commit in progress alongside holders of its keys.
pub(crate) struct CommitGuard {
    locks: Arc<KeyLocks>,
    app: AppId,
    keys: Vec<Address>,
}

impl Drop for CommitGuard {
    fn drop(&mut self) {
        let mut table = self.locks.table.lock();
        for at in &self.keys {
            self.locks.lock_of(&mut table, self.app, at, false, |lock| {
                lock.passing = lock.passing.saturating_sub(1);
                if lock.passing == 0
                    && let Some(holder) = lock.drained.take()
                {
                    let _ = holder.send(());
                }
            });
        }
    }
}
