//! The writes of recent commits, for batches that follow them.

use kvasm_core::{Applied, Commit, CommitId, Committed, Expect, Follow, Link, Op, Version};
use std::collections::{HashMap, VecDeque};

/// The maximum number of remembered keys. A batch that follows a forgotten commit gets a conflict.
const KEYS_MAX: usize = 16_384;

type Written = HashMap<(String, String), Option<Version>>;

/// The writes of recent commits: those of this group, and of committed groups.
#[derive(Default)]
pub(super) struct Links {
    known: HashMap<CommitId, Written>,
    order: VecDeque<CommitId>,
    keys: usize,
}

impl Links {
    /// Returns the state of an entry as a commit left it; `None` if that was never applied.
    pub(super) fn expect(&self, follow: &Follow) -> Option<Expect> {
        let written = self.known.get(&follow.commit)?;
        let at = (follow.collection.as_str(), follow.key.as_str());
        let version = written.get(&(at.0.to_owned(), at.1.to_owned()))?;
        Some(version.map_or(Expect::Absent, Expect::Version))
    }

    /// Remembers the writes of a batch, if others may follow it.
    pub(super) fn remember(&mut self, commit: &Commit, done: &Committed) {
        let Some(id) = commit.batch.link.as_ref().map(Link::id) else {
            return;
        };
        // Nobody follows a batch without keys, and `KEYS_MAX` would not bound it.
        if commit.batch.ops.is_empty() {
            return;
        }
        let version = |(op, applied): (&Op, &Applied)| {
            let (collection, key) = op.address();
            let at = (collection.as_str().to_owned(), key.as_str().to_owned());
            let version = match applied {
                Applied::Set(version) | Applied::Incremented { version, .. } => Some(*version),
                _ => None,
            };
            (at, version)
        };
        let written: Written = commit
            .batch
            .ops
            .iter()
            .zip(&done.applied)
            .map(version)
            .collect();
        self.keys += written.len();
        self.known.insert(id, written);
        self.order.push_back(id);
        while self.keys > KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            let written = self.known.remove(&oldest);
            self.keys -= written.map_or(0, |written| written.len());
        }
    }

    /// Forgets all commits after a group was rolled back: its versions will be reused for other
    /// writes.
    pub(super) fn forget(&mut self) {
        *self = Links::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{AppId, Batch, Timestamp};

    /// A batch of its own commit that only has checks.
    fn reader() -> Commit {
        let batch = Batch {
            link: Some(Link::new(CommitId::next(), Vec::new(), None)),
            ..Batch::default()
        };
        Commit::new(AppId::generate(), Timestamp(0), batch)
    }

    /// They have no keys to count, and nobody can follow them.
    #[test]
    fn commits_without_writes_are_not_remembered() {
        let mut links = Links::default();
        for _ in 0..100 {
            links.remember(&reader(), &Committed::default());
        }
        assert_eq!((links.known.len(), links.order.len()), (0, 0));
    }
}
