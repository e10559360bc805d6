//! How a run of a transaction goes along with others: it gives way, holds locks, and
//! follows commits that are under way.

use super::key_locks::Address;
use super::view::View;
use super::way::{Settles, Way};
use super::{Caller, ServiceError, Transaction};
use kvasm_core::{CommitId, Entry, Follow, Link, Timestamp};
use std::collections::BTreeSet;

/// A commit that writes more than this is not shown to others before it has ended, as
/// what it writes would be in memory twice.
const CHAINED_BYTES_MAX: usize = 64 * 1024;
/// Nor one of more entries, as a store remembers a number of them for all apps together.
const CHAINED_ENTRIES_MAX: usize = 64;

impl Transaction {
    /// The same, for a run that gives way to others, and others to it.
    pub fn with_way(mut self, way: Way) -> Transaction {
        self.way = Some(way);
        self
    }

    /// Whether the run has given way to others. It is not to be committed then.
    pub fn gave_way(&self) -> bool {
        self.way.as_ref().is_some_and(Way::gave_way)
    }

    /// Before the commit of a run, which may end a delivery: if the run has met nobody,
    /// takes the locks of what it writes, so that those who come while the commit is
    /// under way wait for it or follow it, instead of reading what it is about to
    /// replace. `false` if others have one of its keys: it should be run again then.
    pub fn claim(&self, ends_delivery: bool) -> bool {
        let Some(way) = &self.way else { return true };
        let view = self.view.lock();
        let commits = ends_delivery || !view.is_one_moment();
        !commits || way.claim(view.keys(), view.written.keys())
    }

    /// All keys that the run has looked at, written, or was not let to.
    pub fn touched(&self) -> BTreeSet<Address> {
        let mut touched = self.way.as_ref().map(Way::blocked).unwrap_or_default();
        let view = self.view.lock();
        touched.extend(view.keys().cloned());
        touched
    }

    /// The caller of the run's commit, who does not wait for the run's own locks.
    pub fn committer(&self, caller: &Caller) -> Caller {
        let lane = self.way.as_ref().and_then(Way::lane);
        lane.map_or_else(|| caller.clone(), |lane| caller.in_lane(lane.id()))
    }

    /// Before the run is begun again, as it has lost: what it had followed may be gone.
    /// Whether it had followed anything.
    pub fn forget_followed(&self) -> bool {
        let view = self.view.lock();
        if let Some(way) = &self.way {
            let follows = view.follows.iter();
            way.forget(follows.map(|(at, (commit, _))| (at, *commit)));
        }
        !view.follows.is_empty()
    }

    /// What ties the run's commit to others, if it is tied to any.
    pub(super) fn link(&self, view: &View) -> Option<(Link, Settles)> {
        let way = self.way.as_ref()?;
        let may_be_followed = way.chains()
            && view.bytes <= CHAINED_BYTES_MAX
            && view.written.len() <= CHAINED_ENTRIES_MAX;
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

    /// As [`see`](Transaction::see), for who looks at the value alone: it may be that of
    /// a commit that is under way, whose version and times are not known yet.
    pub(super) async fn see_value(
        &self,
        caller: &Caller,
        at: &Address,
    ) -> Result<Option<Entry>, ServiceError> {
        let now = Timestamp::now();
        {
            let view = self.view.lock();
            let seen = view.own(at, now).or_else(|| view.followed(at, now));
            if let Some(seen) = seen {
                return Ok(seen);
            }
        }
        self.touch(std::iter::once(at)).await;
        match self.way.as_ref().and_then(|way| way.pending(at)) {
            Some(pending) => Ok(self.view.lock().follow(at, pending, now)?),
            None => self.see(caller, at).await,
        }
    }

    /// Before the store is asked about keys of which a commit may be under way.
    pub(super) async fn settle<'k>(&self, keys: impl Iterator<Item = &'k Address>) {
        let Some(way) = &self.way else { return };
        for at in keys {
            way.settled(at).await;
            let mut view = self.view.lock();
            // It has seen another moment of it.
            view.stale |= view.follows.contains_key(at);
        }
    }

    /// Waits for the commits that the run follows, so that a list is not older than what
    /// it has seen of them.
    pub(super) async fn settle_followed(&self) {
        let followed: Vec<_> = self.view.lock().follows.keys().cloned().collect();
        for at in &followed {
            if let Some(way) = &self.way {
                way.settled(at).await;
            }
        }
    }
}
