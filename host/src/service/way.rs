//! How one run of a transaction goes about keys that others hold.

use super::lane::{Address, Lane, Lanes};
use crate::model::{AppId, CommitId, Entry, Follow, Link};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Notify;

/// How one run of a transaction goes about keys that others hold. One without a lane
/// gives way to each lane; one with a lane to those whose keys it does not have.
pub(crate) struct Way {
    lanes: Arc<Lanes>,
    app: AppId,
    lane: Option<Arc<Lane>>,
    /// Whether it may see what is not durable yet, and be seen by others before it is.
    chains: bool,
    /// What it gave way for.
    blocked: Mutex<BTreeSet<Address>>,
    gives_way: Arc<Notify>,
}

impl Way {
    /// `chains`: whether it may see what is not durable yet, and be seen by others
    /// before it is.
    pub(crate) fn new(lanes: Arc<Lanes>, app: AppId, lane: Option<Arc<Lane>>, chains: bool) -> Way {
        Way {
            lanes,
            app,
            lane,
            chains,
            blocked: Mutex::default(),
            gives_way: Arc::default(),
        }
    }

    /// Is notified when the run gives way: it is to be ended soon then.
    pub(crate) fn gives_way(&self) -> Arc<Notify> {
        Arc::clone(&self.gives_way)
    }

    /// Whether it has given way.
    pub(crate) fn gave_way(&self) -> bool {
        !self.blocked.lock().is_empty()
    }

    pub(super) fn lane(&self) -> Option<&Arc<Lane>> {
        self.lane.as_ref()
    }

    pub(super) fn blocked(&self) -> BTreeSet<Address> {
        self.blocked.lock().clone()
    }

    /// Before keys are looked at or written. If others have one, the run gives way. It
    /// goes on for a while, without locks and never to commit, so that the next one
    /// knows all keys that it needs.
    pub(super) async fn touch<'k>(&self, keys: impl Iterator<Item = &'k Address> + Clone) {
        if self.gave_way() {
            return;
        }
        let is_free = match &self.lane {
            Some(lane) => lane.touch(keys.clone()).await,
            None => !self.is_taken(keys.clone()),
        };
        if !is_free {
            self.blocked.lock().extend(keys.cloned());
            if let Some(lane) = &self.lane {
                lane.release();
            }
            self.gives_way.notify_one();
        }
    }

    /// What a commit that is under way has left of an entry that the run holds.
    pub(super) fn pending(&self, at: &Address) -> Option<(CommitId, Option<Entry>)> {
        match self.lane {
            Some(_) if self.chains && !self.gave_way() => self.lanes.pending(self.app, at),
            _ => None,
        }
    }

    /// Waits until what the store has of an entry that the run holds is all there is.
    pub(super) async fn settled(&self, at: &Address) {
        if self.lane.is_some() && !self.gave_way() {
            self.lanes.settled(self.app, at).await;
        }
    }

    /// Forgets what others have left: it cannot be followed.
    pub(super) fn forget<'k>(&self, commits: impl Iterator<Item = (&'k Address, CommitId)>) {
        self.lanes.settle(self.app, commits);
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
            lanes: Arc::clone(&self.lanes),
            app: self.app,
            commit: id,
            keys,
        };
        let lane = self.lane.clone().filter(|_| self.chains);
        let queued = lane.map(|lane| -> Box<dyn FnOnce() + Send> {
            Box::new(move || lane.hand_on(id, written))
        });
        (Link::new(id, follows, queued), settles)
    }

    /// Whether a commit of the run is one that others may follow.
    pub(super) fn chains(&self) -> bool {
        self.chains && self.lane.is_some()
    }

    /// Whether others hold one of these keys.
    pub(super) fn is_taken<'k>(&self, keys: impl Iterator<Item = &'k Address>) -> bool {
        self.lane.is_none() && self.lanes.is_taken(self.app, keys)
    }
}

/// Says, when it is dropped, that a commit has ended.
pub(crate) struct Settles {
    lanes: Arc<Lanes>,
    app: AppId,
    commit: CommitId,
    keys: Vec<Address>,
}

impl Drop for Settles {
    fn drop(&mut self) {
        let commits = self.keys.iter().map(|at| (at, self.commit));
        self.lanes.settle(self.app, commits);
    }
}
