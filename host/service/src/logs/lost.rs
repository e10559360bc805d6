//! How many records do not reach the store.

use std::ops::AddAssign;

/// Numbers of records that do not reach the store, by reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The app wrote too many.
    pub(crate) flood: u64,
    /// Too many bytes were waiting to be stored, of the app or of all apps.
    pub(crate) queue: u64,
    /// The store failed.
    pub(crate) store: u64,
}

impl Lost {
    pub(crate) fn all(self) -> u64 {
        let lost = self.flood.saturating_add(self.queue);
        lost.saturating_add(self.store)
    }

    /// Returns each reason alone, if records were lost for it.
    pub(crate) fn by_reason(self) -> impl Iterator<Item = Lost> {
        let (flood, queue, store) = (self.flood, self.queue, self.store);
        let none = Lost::default();
        let reasons = [
            Lost { flood, ..none },
            Lost { queue, ..none },
            Lost { store, ..none },
        ];
        reasons.into_iter().filter(|lost| lost.all() > 0)
    }
}

impl AddAssign for Lost {
    fn add_assign(&mut self, more: Lost) {
        self.flood += more.flood;
        self.queue += more.queue;
        self.store += more.store;
    }
}

/// What no note in the queue of an app says.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Uncounted {
    /// What no note has said.
    pub(crate) new: Lost,
    /// What notes said that were lost themselves.
    pub(crate) again: Lost,
}

impl Uncounted {
    pub(crate) fn all(self) -> Lost {
        let mut all = self.new;
        all += self.again;
        all
    }

    pub(crate) fn is_empty(self) -> bool {
        self.all() == Lost::default()
    }
}
