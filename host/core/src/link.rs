//! Commits that follow one another before the first of them is durable.

use super::{Collection, Key};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Names a commit within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(u64);

impl CommitId {
    /// One that was never given before.
    pub fn next() -> CommitId {
        static LAST: AtomicU64 = AtomicU64::new(0);
        CommitId(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// A check: the entry is as a commit has left it whose versions are not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// The entry's collection.
    pub collection: Collection,
    /// The entry's key.
    pub key: Key,
    /// The commit.
    pub commit: CommitId,
}

/// What ties a batch to those before and after it.
///
/// A store that applies the batches of an app in the order in which it takes them may
/// say so by [`queued`](Link::queued), as soon as it has taken this one. What it has
/// written may be shown to batches that come later then, if each of them
/// [follows](Link::follows) it: such a check holds if the commit was applied, and the
/// entry was not changed since. A store that never calls `queued` gets no such checks.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    id: CommitId,
    follows: Vec<Follow>,
    queued: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Link {
    /// A link of a batch that `follows` others. `queued` is called at most once.
    pub fn new(
        id: CommitId,
        follows: Vec<Follow>,
        queued: Option<Box<dyn FnOnce() + Send>>,
    ) -> Link {
        Link(Arc::new(Inner {
            id,
            follows,
            queued: Mutex::new(queued),
        }))
    }

    /// The batch's own name.
    pub fn id(&self) -> CommitId {
        self.0.id
    }

    /// Further checks of the batch, behind those that it has.
    pub fn follows(&self) -> &[Follow] {
        &self.0.follows
    }

    /// Says that batches of the app that are handed over from now on are applied after
    /// this one.
    pub fn queued(&self) {
        let mut queued = self.0.queued.lock().unwrap_or_else(PoisonError::into_inner);
        let queued = queued.take();
        if let Some(queued) = queued {
            queued();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.0.id).finish()
    }
}

impl PartialEq for Link {
    fn eq(&self, other: &Link) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Link {}
