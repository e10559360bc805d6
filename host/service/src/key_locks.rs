//! Locks on keys, for transactions that meet others.
//!
//! A run that meets somebody else's lock, or that has lost to others, takes the locks
//! of what it touches; they are its [`Lane`](super::lane::Lane). Others wait for it, or
//! give way to it:
//!
//! - lanes queue for a key, first come, first served. A lane that holds keys waits for
//!   one only if that comes after all of them in their order, so no two wait for each
//!   other. It takes any other only if it is free, and gives way if not;
//! - who waits here has its instance already. So what is waited for never waits for an
//!   instance that those who wait occupy;
//! - commits of others wait while a lane has *closed* one of their keys, from its look
//!   at it to its end. They do not wait for lanes that queue;
//! - a lane that closes a key waits for the commits that are under way;
//! - where the store can say that a commit has its place in its queue, the lane is
//!   handed on then. What the commit writes is kept here until it has ended, for the
//!   holder that comes next, whose commit checks that it was applied (`model/link.rs`).
//!
//! The locks are for progress only. What is correct is decided by the checks of
//! versions at the commit, so a lock that is lost spoils nothing.
//!
//! A key has an entry here while somebody holds it or commits it beside a holder.
//! While there is none on this host, a commit costs one atomic load.

use kvasm_core::{AppId, Collection, CommitId, Entry, Key};
use kvasm_metrics::{InUse, Metrics};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// Which entry of an app.
pub type Address = (Collection, Key);

/// How many lanes a commit waits for, beside one for each of its keys.
const LANES_WAITED_FOR: usize = 4;

/// Who holds a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneId(u64);

/// The locks of a host.
pub struct KeyLocks {
    pub(super) metrics: Metrics,
    /// How many keys have an entry: what is looked at first.
    locks: AtomicUsize,
    last: AtomicU64,
    pub(super) table: Mutex<Table>,
}

pub(super) type Table = HashMap<AppId, HashMap<Address, Lock>>;

#[derive(Default)]
pub(super) struct Lock {
    pub(super) holder: Option<LaneId>,
    /// Whether the holder has looked at the entry, so that commits of others wait.
    pub(super) closed: bool,
    pub(super) queue: VecDeque<(LaneId, oneshot::Sender<()>)>,
    /// Commits that wait for the holder's end.
    gate: Vec<oneshot::Sender<()>>,
    /// Commits of others that are under way.
    pub(super) passing: u32,
    /// The holder, which waits for them.
    pub(super) drained: Option<oneshot::Sender<()>>,
    pub(super) pending: Option<Pending>,
    _gauge: Option<InUse>,
}

/// What a commit that is under way writes to an entry.
pub(super) struct Pending {
    pub(super) commit: CommitId,
    pub(super) entry: Option<Entry>,
    /// Those that wait for its end.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
}

impl Lock {
    /// Gives it to the next in the queue that still waits, and lets commits through.
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

    /// Whether only lanes may look at the entry.
    pub(super) fn is_taken(&self) -> bool {
        self.holder.is_some() || self.pending.is_some()
    }

    fn is_unused(&self) -> bool {
        self.holder.is_none() && self.passing == 0 && self.pending.is_none()
    }

    /// Waits at the gate, from which those that have left are taken now and then.
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

    /// Works on a key's lock, which is made if `make` says so, and removed if nobody
    /// uses it afterwards.
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

    /// A number for a lane.
    pub(super) fn next_id(&self) -> LaneId {
        LaneId(self.last.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits until no lane has closed one of these keys. Lanes wait for what is returned to
    /// be dropped. `None` if no lane has one of them.
    pub(crate) async fn pass(
        self: &Arc<KeyLocks>,
        app: AppId,
        keys: &BTreeSet<Address>,
    ) -> Option<Passage> {
        // Where one lane comes after the other, a commit could wait without end.
        let mut waits = keys.len() + LANES_WAITED_FOR;
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
                    // All at once: who waits at one gate is under way at no other.
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
    ) -> Option<Passage> {
        let mut passed = Vec::new();
        for at in keys {
            if let Some(lock) = locks.get_mut(at) {
                lock.passing += 1;
                passed.push(at.clone());
            }
        }
        (!passed.is_empty()).then(|| Passage {
            locks: Arc::clone(self),
            app,
            keys: passed,
        })
    }

    /// What a commit that is under way writes to an entry.
    pub fn pending(&self, app: AppId, at: &Address) -> Option<(CommitId, Option<Entry>)> {
        let table = self.table.lock();
        let pending = table.get(&app)?.get(at)?.pending.as_ref()?;
        Some((pending.commit, pending.entry.clone()))
    }

    /// Waits until no commit is under way that writes an entry of lanes.
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

    /// Forgets what a commit writes to entries: it has ended, or it cannot be followed.
    pub fn settle<'k>(&self, app: AppId, commits: impl Iterator<Item = (&'k Address, CommitId)>) {
        let mut table = self.table.lock();
        for (at, commit) in commits {
            self.lock_of(&mut table, app, at, false, |lock| {
                if lock.pending.as_ref().is_some_and(|p| p.commit == commit) {
                    // Who waits sees that its sender is gone.
                    lock.pending = None;
                }
            });
        }
    }

    /// Whether anybody could have to wait.
    pub(crate) fn are_in_use(&self) -> bool {
        !self.is_empty()
    }
}

/// A commit that is under way beside lanes.
pub(crate) struct Passage {
    locks: Arc<KeyLocks>,
    app: AppId,
    keys: Vec<Address>,
}

impl Drop for Passage {
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
