//! How a run of a transaction interacts with others: it gives way, holds locks, and follows
//! commits in progress.

use super::Transaction;
use super::key_locks::Address;
use super::lock_policy::{LockPolicy, PendingCommitGuard};
use super::view::TransactionView;
use crate::{Caller, ServiceError};
use kvasm_core::{CommitId, Entry, Follow, Link, Timestamp};
use std::collections::BTreeSet;

/// A commit that writes more than this cannot be followed before it has ended, because its
/// writes would be in memory twice.
const PIPELINED_BYTES_MAX: usize = 64 * 1024;
/// Nor one of more entries, because a store remembers a limited number for all apps together.
const PIPELINED_ENTRIES_MAX: usize = 64;

impl Transaction {
    /// Makes the run take part in locking.
    pub fn with_way(mut self, way: LockPolicy) -> Transaction {
        self.way = Some(way);
        self
    }

    /// Whether the run has given way to others. It must not commit then.
    pub fn gave_way(&self) -> bool {
        self.way.as_ref().is_some_and(LockPolicy::gave_way)
    }

    /// Called before the commit of a run, which may acknowledge a delivery. If the run has no
    /// locks, locks what it writes, so that others who arrive during the commit wait for it or
    /// follow it, instead of reading what it is about to replace. Returns `false` if one of its
    /// keys is held by others: the run should be repeated then. What it only adds to needs no lock,
    /// but waits for those who hold it.
    pub async fn claim(&self, ends_delivery: bool) -> bool {
        let Some(way) = &self.way else { return true };
        let held_by_others = {
            let view = self.view.lock();
            if !ends_delivery && view.is_consistent_snapshot() {
                return true;
            }
            let keys = view.keys().chain(view.added.keys());
            if !way.claim(keys, view.written.keys()) {
                return false;
            }
            way.held_by_others(view.added.keys())
        };
        self.touch(held_by_others.iter()).await;
        !self.gave_way()
    }

    /// Returns all keys that the run has read, written, or failed to lock.
    pub fn touched(&self) -> BTreeSet<Address> {
        let mut touched = self
            .way
            .as_ref()
            .map(LockPolicy::blocked)
            .unwrap_or_default();
        let view = self.view.lock();
        touched.extend(view.keys().cloned());
        touched
    }

    /// Returns the caller for the run's commit, who does not wait for the run's own locks.
    pub fn committer(&self, caller: &Caller) -> Caller {
        let lane = self.way.as_ref().and_then(LockPolicy::lane);
        lane.map_or_else(|| caller.clone(), |lane| caller.in_lane(lane.id()))
    }

    /// Called before a rerun after a conflict: forgets the writes that it followed, as they may
    /// be rolled back. Returns whether it had followed any.
    pub fn forget_followed(&self) -> bool {
        let view = self.view.lock();
        if let Some(way) = &self.way {
            let follows = view.follows.iter();
            way.forget(follows.map(|(at, (commit, _))| (at, *commit)));
        }
        !view.follows.is_empty()
    }

    /// Returns the link of the run's commit to other commits, if any.
    pub(super) fn link(&self, view: &TransactionView) -> Option<(Link, PendingCommitGuard)> {
        let way = self.way.as_ref()?;
        let may_be_followed = way.chains()
            && view.bytes <= PIPELINED_BYTES_MAX
            && view.written.len() <= PIPELINED_ENTRIES_MAX;
        if view.follows.is_empty() && (!may_be_followed || view.written.is_empty()) {
            return None;
        }
        let follow = |((collection, key), (commit, _)): (&Address, &(CommitId, _))| Follow {
            collection: collection.clone(),
            key: key.clone(),
            commit: *commit,
        };
        let follows = view.follows.iter().map(follow).collect();
        let written = view.written.iter().filter(|_| may_be_followed);
        let written = written.map(|(at, entry)| (at.clone(), entry.clone()));
        Some(way.link(follows, written.collect()))
    }

    pub(super) async fn touch<'k>(&self, keys: impl Iterator<Item = &'k Address> + Clone) {
        if let Some(way) = &self.way {
            let seen = || self.view.lock().keys().cloned().collect();
            way.touch(keys, seen).await;
        }
    }

    /// Like [`see`](Transaction::see), for callers that need only the value: it may be from a
    /// commit in progress, whose version and times are not known yet.
    pub(super) async fn see_value(
        &self,
        caller: &Caller,
        at: &Address,
    ) -> Result<Option<Entry>, ServiceError> {
        let now = Timestamp::now();
        {
            let view = self.view.lock();
            let seen = view.buffered(at, now).or_else(|| view.followed(at, now));
            if let Some(seen) = seen {
                drop(view);
                return self.with_addition(at, seen);
            }
        }
        self.touch(std::iter::once(at)).await;
        match self.way.as_ref().and_then(|way| way.pending(at)) {
            Some(pending) => {
                let seen = self.view.lock().follow(at, pending, now)?;
                self.with_addition(at, seen)
            }
            None => self.see(caller, at).await,
        }
    }

    /// Called before the store reads keys that a commit in progress may write.
    pub(super) async fn settle<'k>(&self, keys: impl Iterator<Item = &'k Address>) {
        let Some(way) = &self.way else { return };
        for at in keys {
            way.settled(at).await;
            let mut view = self.view.lock();
            // The run has seen an earlier state of it.
            view.stale |= view.follows.contains_key(at);
        }
    }

    /// Waits for the commits that the run follows, so that a list is not older than what the run
    /// has already read from them.
    pub(super) async fn settle_followed(&self) {
        let followed: Vec<_> = self.view.lock().follows.keys().cloned().collect();
        for at in &followed {
            if let Some(way) = &self.way {
                way.settled(at).await;
            }
        }
    }
}
