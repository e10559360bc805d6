//! Locks on keys, for transactions that have lost to others.
//!
//! A run that lost is run again while it holds a [`Lane`]: the locks of all keys
//! that it has touched. Others wait for it, or give way to it:
//!
//! - lanes queue for a key, first come, first served, and take their keys in
//!   order. A lane that meets another key takes it only if it is free, and never
//!   waits for one while it holds others: so no two wait for each other;
//! - commits of others wait while a lane that holds one of their keys *runs*, from
//!   its first look to its end. They do not wait for lanes that queue, nor for one
//!   that waits for an instance, which such a commit's guest may occupy;
//! - a lane that begins to look waits for the commits that are under way;
//! - where the store can say that a commit has its place in its queue, the lane is
//!   handed on then. What the commit writes is kept here until it has ended, for the
//!   holder that comes next, whose commit checks that it was applied (`model/link.rs`).
//!
//! The locks are for progress only. What is correct is decided by the checks of
//! versions at the commit, so a lock that is lost spoils nothing.
//!
//! A key has an entry here while somebody holds it or commits it beside a holder.
//! While there is none on this host, a commit costs one atomic load.

use crate::metrics::{InUse, Metrics};
use crate::model::{AppId, Collection, CommitId, Entry, Key};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::oneshot;

/// Which entry of an app.
pub(crate) type Address = (Collection, Key);

/// How many lanes a commit waits for, beside one for each of its keys.
const LANES_WAITED_FOR: usize = 4;

/// Who holds a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneId(u64);

/// The locks of a host.
pub(crate) struct Lanes {
    metrics: Metrics,
    /// How many keys have an entry: what is looked at first.
    locks: AtomicUsize,
    last: AtomicU64,
    table: Mutex<Table>,
}

type Table = HashMap<AppId, HashMap<Address, Lock>>;

#[derive(Default)]
struct Lock {
    holder: Option<LaneId>,
    /// Whether the holder runs, so that commits of others wait.
    closed: bool,
    queue: VecDeque<(LaneId, oneshot::Sender<()>)>,
    /// Commits that wait for the holder's end.
    gate: Vec<oneshot::Sender<()>>,
    /// Commits of others that are under way.
    passing: u32,
    /// The holder, which waits for them.
    drained: Option<oneshot::Sender<()>>,
    pending: Option<Pending>,
    _gauge: Option<InUse>,
}

/// What a commit that is under way writes to an entry.
struct Pending {
    commit: CommitId,
    entry: Option<Entry>,
    /// Those that wait for its end.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Lock {
    /// Gives it to the next in the queue that still waits, and lets commits through.
    fn hand_on(&mut self) {
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
    fn is_taken(&self) -> bool {
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

impl Lanes {
    pub(crate) fn new(metrics: Metrics) -> Arc<Lanes> {
        Arc::new(Lanes {
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
    fn lock_of<T>(
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
    pub(crate) fn is_taken<'k>(
        &self,
        app: AppId,
        mut keys: impl Iterator<Item = &'k Address>,
    ) -> bool {
        if self.is_empty() {
            return false;
        }
        let table = self.table.lock();
        let Some(locks) = table.get(&app) else {
            return false;
        };
        keys.any(|at| locks.get(at).is_some_and(|lock| lock.is_taken()))
    }

    /// Waits for the locks of all keys. Dropping the future, or what it returns,
    /// frees them.
    pub(crate) async fn take(self: &Arc<Lanes>, app: AppId, keys: BTreeSet<Address>) -> Held {
        let start = Instant::now();
        let held = Held(Arc::new(Lane {
            lanes: Arc::clone(self),
            app,
            id: LaneId(self.last.fetch_add(1, Ordering::Relaxed)),
            keys: Mutex::default(),
        }));
        // In the order of the set.
        for at in keys {
            // Before it waits, so that its place in the queue is given up with the rest.
            held.0.keys.lock().held.insert(at.clone());
            if let Some(turn) = held.0.line_up(&at) {
                // The sender is dropped only by who takes this lane out of the queue.
                let _ = turn.await;
            }
        }
        self.metrics.transaction_waited(start.elapsed());
        held
    }

    /// Waits until no lane that runs holds one of these keys, but `own`. Lanes wait for
    /// what is returned to be dropped. `None` if there is nobody who would.
    pub(crate) async fn pass(
        self: &Arc<Lanes>,
        app: AppId,
        keys: &BTreeSet<Address>,
    ) -> Option<Passage> {
        // Where one lane comes after the other, a commit could wait for ever.
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
        self: &Arc<Lanes>,
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
            lanes: Arc::clone(self),
            app,
            keys: passed,
        })
    }

    /// What a commit that is under way writes to an entry.
    pub(crate) fn pending(&self, app: AppId, at: &Address) -> Option<(CommitId, Option<Entry>)> {
        let table = self.table.lock();
        let pending = table.get(&app)?.get(at)?.pending.as_ref()?;
        Some((pending.commit, pending.entry.clone()))
    }

    /// Waits until no commit is under way that writes an entry of lanes.
    pub(crate) async fn settled(&self, app: AppId, at: &Address) {
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
    pub(crate) fn settle<'k>(
        &self,
        app: AppId,
        commits: impl Iterator<Item = (&'k Address, CommitId)>,
    ) {
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
    lanes: Arc<Lanes>,
    app: AppId,
    keys: Vec<Address>,
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut table = self.lanes.table.lock();
        for at in &self.keys {
            self.lanes.lock_of(&mut table, self.app, at, false, |lock| {
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

/// A lane that is given up when this is dropped.
pub(crate) struct Held(Arc<Lane>);

impl Held {
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// The locks of one transaction.
pub(crate) struct Lane {
    lanes: Arc<Lanes>,
    app: AppId,
    id: LaneId,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    /// Those that it holds or waits for.
    held: BTreeSet<Address>,
    runs: bool,
    released: bool,
}

impl Lane {
    pub(crate) fn id(&self) -> LaneId {
        self.id
    }

    /// Takes a lock, or a place in its queue, which is returned.
    fn line_up(&self, at: &Address) -> Option<oneshot::Receiver<()>> {
        let mut table = self.lanes.table.lock();
        let line_up = |lock: &mut Lock| match lock.holder {
            None => {
                lock.holder = Some(self.id);
                None
            }
            Some(_) => {
                let (sender, receiver) = oneshot::channel();
                lock.queue.push_back((self.id, sender));
                Some(receiver)
            }
        };
        let turn = self.lanes.lock_of(&mut table, self.app, at, true, line_up);
        turn.flatten()
    }

    /// Before a run looks at keys or writes them: takes those that it does not have.
    /// With the first of them, commits of others begin to wait for it, and it for
    /// those that are under way. `false` if another lane has one of them.
    pub(crate) async fn touch<'k>(&self, keys: impl IntoIterator<Item = &'k Address>) -> bool {
        let mut waits = Vec::new();
        let mut all = true;
        {
            let mut own = self.keys.lock();
            if own.released {
                return false;
            }
            let mut table = self.lanes.table.lock();
            if !own.runs {
                own.runs = true;
                for at in &own.held {
                    waits.extend(self.close(&mut table, at));
                }
            }
            for at in keys {
                if own.held.contains(at) {
                    continue;
                }
                if !self.take_if_free(&mut table, at) {
                    all = false;
                    break;
                }
                waits.extend(self.close(&mut table, at));
                own.held.insert(at.clone());
            }
        }
        for drained in waits {
            let _ = drained.await;
        }
        all
    }

    fn take_if_free(&self, table: &mut Table, at: &Address) -> bool {
        let take = |lock: &mut Lock| {
            let is_free = lock.holder.is_none();
            if is_free {
                lock.holder = Some(self.id);
            }
            is_free
        };
        let taken = self.lanes.lock_of(table, self.app, at, true, take);
        taken.unwrap_or(false)
    }

    /// Lets nobody else commit a key; what is to be waited for.
    fn close(&self, table: &mut Table, at: &Address) -> Option<oneshot::Receiver<()>> {
        let close = |lock: &mut Lock| {
            lock.closed = true;
            (lock.passing > 0).then(|| {
                let (sender, receiver) = oneshot::channel();
                lock.drained = Some(sender);
                receiver
            })
        };
        let drained = self.lanes.lock_of(table, self.app, at, false, close);
        drained.flatten()
    }

    /// Whether it has all these keys.
    pub(crate) fn holds(&self, keys: &BTreeSet<Address>) -> bool {
        let own = self.keys.lock();
        !own.released && keys.is_subset(&own.held)
    }

    /// Lets commits of others through until it runs again.
    pub(crate) fn pause(&self) {
        let mut own = self.keys.lock();
        own.runs = false;
        let mut table = self.lanes.table.lock();
        for at in &own.held {
            self.lanes.lock_of(&mut table, self.app, at, false, |lock| {
                lock.closed = false;
                lock.drained = None;
                for waiting in lock.gate.drain(..) {
                    let _ = waiting.send(());
                }
            });
        }
    }

    /// Hands the locks on before the commit of what was written has ended. Until then
    /// those that come next see it, and nobody else does.
    pub(crate) fn hand_on(&self, commit: CommitId, written: Vec<(Address, Option<Entry>)>) {
        let own = self.keys.lock();
        if own.released {
            return;
        }
        {
            let mut table = self.lanes.table.lock();
            for (at, entry) in written {
                let pending = Pending {
                    commit,
                    entry,
                    waiting: Vec::new(),
                };
                self.lanes
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
        let held = std::mem::take(&mut own.held);
        let mut table = self.lanes.table.lock();
        for at in &held {
            self.lanes
                .lock_of(&mut table, self.app, at, false, |lock| match lock.holder {
                    Some(holder) if holder == self.id => lock.hand_on(),
                    _ => lock.queue.retain(|(lane, _)| *lane != self.id),
                });
        }
    }
}
