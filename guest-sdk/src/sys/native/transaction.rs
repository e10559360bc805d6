//! Transactions of the in-process host: the previous store is restored unless the work
//! succeeds.

use super::store::Store;
use super::with;

/// Runs `work`. Its writes are kept if `is_success` returns true for its result; otherwise, and
/// after a panic, they are rolled back.
pub(crate) fn transaction<R>(work: impl FnOnce() -> R, is_success: impl FnOnce(&R) -> bool) -> R {
    let running = TransactionGuard::begin();
    let result = work();
    if is_success(&result) {
        running.commit();
    }
    result
}

struct TransactionGuard {
    /// The store to restore on rollback.
    before: Option<Store>,
    /// Whether this is nested in another transaction, of which it is then a part.
    is_within: bool,
}

impl TransactionGuard {
    fn begin() -> TransactionGuard {
        with(|host| {
            let before = host.store.clone();
            let is_within = host.store.begin();
            host.context.transaction = true;
            TransactionGuard {
                before: Some(before),
                is_within,
            }
        })
    }

    fn commit(mut self) {
        self.before = None;
    }
}

impl Drop for TransactionGuard {
    fn drop(&mut self) {
        with(|host| {
            match self.before.take() {
                Some(before) => host.store = before,
                None if self.is_within => {}
                None => host.store.assign_final_versions(),
            }
            host.context.transaction = self.is_within;
        });
    }
}
