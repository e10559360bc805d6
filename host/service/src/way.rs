//! How one run of a transaction goes about keys that others hold.

use super::Deadline;
use super::key_locks::{Address, KeyLocks};
use super::lane::Lane;
use kvasm_core::{AppId, CommitId, Entry, Follow, Link};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Notify;

/// How one run of a transaction goes about keys that others hold. It takes no locks as
/// long as it meets nobody. From the first key on that others hold it takes the locks
/// of all that it has touched and touches. It gives way to those for whom it must not
/// wait.
pub struct Way {
    locks: Arc<KeyLocks>,
    app: AppId,
    lane: Arc<Lane>,
    deadline: Deadline,
    /// What it locks together with the first key that it touches: all that the runs
    /// before have touched.
    wants: Mutex<BTreeSet<Address>>,
    /// Whether it may see what is not durable yet, and be seen by others before it is.
    chains: bool,
    /// What it gave way for.
    blocked: Mutex<BTreeSet<Address>>,
    gives_way: Arc<Notify>,
}

impl Way {
    /// Of a run with this lane, which locks what it `wants` first.
    pub fn new(
        locks: Arc<KeyLocks>,
        lane: Arc<Lane>,
        wants: BTreeSet<Address>,
        deadline: Deadline,
    ) -> Way {
        Way {
            locks,
            app: lane.app(),
            lane,
            deadline,
            wants: Mutex::new(wants),
            chains: true,
            blocked: Mutex::default(),
            gives_way: Arc::default(),
        }
    }

    /// The same, which waits for each commit before it to end, and for its own.
    pub fn unchained(self) -> Way {
        Way {
            chains: false,
            ..self
        }
    }

    /// Is notified when the run gives way: it is to be ended soon then.
    pub fn gives_way(&self) -> Arc<Notify> {
        Arc::clone(&self.gives_way)
    }

    /// Whether it has given way.
    pub fn gave_way(&self) -> bool {
        !self.blocked.lock().is_empty()
    }

    /// Its locks, if it has taken any.
    pub(super) fn lane(&self) -> Option<&Arc<Lane>> {
        Some(&self.lane).filter(|lane| lane.is_used())
    }

    pub(super) fn blocked(&self) -> BTreeSet<Address> {
        self.blocked.lock().clone()
    }

    /// Before keys are looked at or written; `seen` are those that were before. A run
    /// that gives way goes on for a while, without locks and never to commit, so that
    /// the next one knows all keys that it needs.
    pub(super) async fn touch<'k>(
        &self,
        keys: impl Iterator<Item = &'k Address> + Clone,
        seen: impl FnOnce() -> Vec<Address>,
    ) {
        if self.gave_way() {
            return;
        }
        if !self.lock(keys.clone(), seen).await {
            self.blocked.lock().extend(keys.cloned());
            self.lane.release();
            self.gives_way.notify_one();
        }
    }

    /// `false` if it has to give way.
    async fn lock<'k>(
        &self,
        keys: impl Iterator<Item = &'k Address> + Clone,
        seen: impl FnOnce() -> Vec<Address>,
    ) -> bool {
        let wants = std::mem::take(&mut *self.wants.lock());
        if wants.is_empty() && !self.lane.is_used() {
            if !self.locks.is_taken(self.app, keys.clone()) {
                return true;
            }
            // Who has one of these is about to change what this run has read.
            if !self.lane.take_free(&seen()) {
                return false;
            }
        }
        let mut all: BTreeSet<&Address> = keys.collect();
        all.extend(&wants);
        self.lane.touch(&all, &self.deadline).await
    }

    /// Takes the locks of what the run writes, unless it has its locks already. `false` if
    /// others have one of its keys.
    pub(super) fn claim<'k>(
        &self,
        keys: impl Iterator<Item = &'k Address>,
        written: impl Iterator<Item = &'k Address>,
    ) -> bool {
        if self.lane.is_used() {
            return true;
        }
        let written: Vec<_> = written.cloned().collect();
        !self.locks.is_taken(self.app, keys)
            && (written.is_empty() || self.lane.take_free(&written))
    }

    /// What a commit that is under way has left of an entry that the run holds.
    pub(super) fn pending(&self, at: &Address) -> Option<(CommitId, Option<Entry>)> {
        match self.chains() && !self.gave_way() {
            true => self.locks.pending(self.app, at),
            false => None,
        }
    }

    /// Waits until what the store has of an entry that the run holds is all there is.
    pub(super) async fn settled(&self, at: &Address) {
        if self.lane.is_used() && !self.gave_way() {
            self.locks.settled(self.app, at).await;
        }
    }

    /// Forgets what others have left: it cannot be followed.
    pub(super) fn forget<'k>(&self, commits: impl Iterator<Item = (&'k Address, CommitId)>) {
        self.locks.settle(self.app, commits);
    }

    /// Ties a commit to those that it follows, and lets others follow it as soon as it
    /// has its place in the store's queue. What is returned is to be dropped when it
    /// has ended.
    pub(super) fn link(
        &self,
        follows: Vec<Follow>,
        written: Vec<(Address, Option<Entry>)>,
    ) -> (Link, Settles) {
        let id = CommitId::next();
        let keys = written.iter().map(|(at, _)| at.clone()).collect();
        let settles = Settles {
            locks: Arc::clone(&self.locks),
            app: self.app,
            commit: id,
            keys,
        };
        let queued = self.chains().then(|| -> Box<dyn FnOnce() + Send> {
            let lane = Arc::clone(&self.lane);
            Box::new(move || lane.hand_on(id, written))
        });
        (Link::new(id, follows, queued), settles)
    }

    /// Whether a commit of the run is one that others may follow.
    pub(super) fn chains(&self) -> bool {
        self.chains && self.lane.is_used()
    }
}

/// Says, when it is dropped, that a commit has ended.
pub struct Settles {
    locks: Arc<KeyLocks>,
    app: AppId,
    commit: CommitId,
    keys: Vec<Address>,
}

impl Drop for Settles {
    fn drop(&mut self) {
        let commits = self.keys.iter().map(|at| (at, self.commit));
        self.locks.settle(self.app, commits);
    }
}
