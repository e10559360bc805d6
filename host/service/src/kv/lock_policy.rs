//! How one run of a transaction handles keys that others hold.

use super::key_locks::{Address, KeyLocks};
use super::lock_set::LockSet;
use crate::Deadline;
use kvasm_core::{AppId, CommitId, Entry, Follow, Link};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Notify;

/// How one run of a transaction handles keys that others hold. It takes no locks until it
/// encounters another's; from then on it locks all keys that it has touched or touches. It gives
/// way where waiting could deadlock.
pub struct LockPolicy {
    locks: Arc<KeyLocks>,
    app: AppId,
    lane: Arc<LockSet>,
    deadline: Deadline,
    /// Keys to lock together with the first key that it touches: all that earlier runs touched.
    wants: Mutex<BTreeSet<Address>>,
    /// Whether it may read commits in progress, and others may read its own.
    pipelined: bool,
    /// The keys for which it gave way.
    blocked: Mutex<BTreeSet<Address>>,
    gives_way: Arc<Notify>,
}

impl LockPolicy {
    /// Creates the policy of a run with this lock set, which first locks what it `wants`.
    pub fn new(
        locks: Arc<KeyLocks>,
        lane: Arc<LockSet>,
        wants: BTreeSet<Address>,
        deadline: Deadline,
    ) -> LockPolicy {
        LockPolicy {
            locks,
            app: lane.app(),
            lane,
            deadline,
            wants: Mutex::new(wants),
            pipelined: true,
            blocked: Mutex::default(),
            gives_way: Arc::default(),
        }
    }

    /// Makes the run wait for each preceding commit to end, and keep its locks until its own has
    /// ended.
    pub fn not_pipelined(self) -> LockPolicy {
        LockPolicy {
            pipelined: false,
            ..self
        }
    }

    /// Returns what is notified when the run gives way and should end soon.
    pub fn gives_way(&self) -> Arc<Notify> {
        Arc::clone(&self.gives_way)
    }

    /// Whether it has given way.
    pub fn gave_way(&self) -> bool {
        !self.blocked.lock().is_empty()
    }

    /// Returns its lock set, if it has taken any locks.
    pub(super) fn lane(&self) -> Option<&Arc<LockSet>> {
        Some(&self.lane).filter(|lane| lane.is_used())
    }

    pub(super) fn blocked(&self) -> BTreeSet<Address> {
        self.blocked.lock().clone()
    }

    /// Called before keys are read or written; `seen` returns those touched earlier. A run that
    /// gives way continues for a while, without locks and never to commit, so that the next run
    /// knows all the keys it needs.
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

    /// Returns `false` if the run has to give way.
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
            // The holder of one of these is about to change what this run has read.
            if !self.lane.take_free(&seen()) {
                return false;
            }
        }
        let mut all: BTreeSet<&Address> = keys.collect();
        all.extend(&wants);
        self.lane.touch(&all, &self.deadline).await
    }

    /// Locks what the run writes, unless it has locks already. Returns `false` if one of its
    /// keys is held by others.
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

    /// Those of the keys that others hold, if the run has locks: its commit does not wait then.
    pub(super) fn held_by_others<'k>(
        &self,
        keys: impl Iterator<Item = &'k Address>,
    ) -> Vec<Address> {
        if !self.lane.is_used() {
            return Vec::new();
        }
        let is_held = |at: &&Address| self.locks.is_taken(self.app, std::iter::once(*at));
        keys.filter(is_held).cloned().collect()
    }

    /// Returns the write of a commit in progress to an entry that the run holds.
    pub(super) fn pending(&self, at: &Address) -> Option<(CommitId, Option<Entry>)> {
        match self.chains() && !self.gave_way() {
            true => self.locks.pending(self.app, at),
            false => None,
        }
    }

    /// Waits until the store has all commits to an entry that the run holds.
    pub(super) async fn settled(&self, at: &Address) {
        if self.lane.is_used() && !self.gave_way() {
            self.locks.settled(self.app, at).await;
        }
    }

    /// Forgets writes of others that cannot be followed.
    pub(super) fn forget<'k>(&self, commits: impl Iterator<Item = (&'k Address, CommitId)>) {
        self.locks.settle(self.app, commits);
    }

    /// Links a commit to those that it follows, and lets others follow it once it has its
    /// position in the store's queue. Drop the second value when the commit has ended.
    pub(super) fn link(
        &self,
        follows: Vec<Follow>,
        written: Vec<(Address, Option<Entry>)>,
    ) -> (Link, PendingCommitGuard) {
        let id = CommitId::next();
        let keys = written.iter().map(|(at, _)| at.clone()).collect();
        let settles = PendingCommitGuard {
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

    /// Whether others may follow a commit of the run.
    pub(super) fn chains(&self) -> bool {
        self.pipelined && self.lane.is_used()
    }
}

/// Marks a commit as ended on drop.
pub struct PendingCommitGuard {
    locks: Arc<KeyLocks>,
    app: AppId,
    commit: CommitId,
    keys: Vec<Address>,
}

impl Drop for PendingCommitGuard {
    fn drop(&mut self) {
        let commits = self.keys.iter().map(|at| (at, self.commit));
        self.locks.settle(self.app, commits);
    }
}
