//! Links between commits: batches that depend on one another before the first is durable.

use super::{Collection, Key};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The identity of a commit within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(u64);

impl CommitId {
    /// Returns an identity that was never used before.
    pub fn next() -> CommitId {
        static LAST: AtomicU64 = AtomicU64::new(0);
        CommitId(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// A check that an entry is as a commit left it, used while the new version is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// The entry's collection.
    pub collection: Collection,
    /// The entry's key.
    pub key: Key,
    /// The commit.
    pub commit: CommitId,
}

/// Links a batch to earlier and later ones.
///
/// A store that applies the batches of an app in the order in which it receives them may call
/// [`queued`](Link::queued) once it has queued this one. Later batches may then see its writes if
/// each of them [follows](Link::follows) it: such a check holds if the commit was applied and the
/// entry has not changed since. A store that never calls `queued` receives no such checks.
#[derive(Clone)]
pub struct Link(Arc<LinkInner>);

struct LinkInner {
    id: CommitId,
    follows: Vec<Follow>,
    queued: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Link {
    /// Creates the link of a batch that `follows` others. `queued` is called at most once.
    pub fn new(
        id: CommitId,
        follows: Vec<Follow>,
        queued: Option<Box<dyn FnOnce() + Send>>,
    ) -> Link {
        Link(Arc::new(LinkInner {
            id,
            follows,
            queued: Mutex::new(queued),
        }))
    }

    /// Returns the identity of the batch.
    pub fn id(&self) -> CommitId {
        self.0.id
    }

    /// Returns further checks, which follow those of the batch.
    pub fn follows(&self) -> &[Follow] {
        &self.0.follows
    }

    /// Signals that batches of the app that are submitted from now on are applied after this one.
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
