//! Transactions of the in-process host: the previous store is restored unless the work
//! succeeds.

use super::faults::{self, Check};
use super::store::Store;
use super::{copy, cost, with};
use crate::Error;
use crate::testing::remote;
use kvasm_abi::TRANSACTIONS_MAX;

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

/// Begins a transaction within those that are open. Returns how many there are.
pub(crate) fn transaction_begin() -> Result<usize, Error> {
    cost::count_call();
    if with(|host| host.transactions) >= TRANSACTIONS_MAX {
        let message =
            format!("transactions are nested too deeply; the limit is {TRANSACTIONS_MAX} levels");
        return Err(Error::Invalid(message));
    }
    let guard = TransactionGuard::begin();
    with(|host| {
        host.begun.push(guard);
        Ok(host.transactions)
    })
}

/// Ends the innermost transaction, and keeps its writes, unless it cannot commit.
pub(crate) fn transaction_commit() -> Result<(), Error> {
    cost::count_call();
    innermost()?.finish()
}

/// Begins the transaction of a whole run.
pub(crate) fn begin_run() -> TransactionGuard {
    TransactionGuard::begin()
}

/// Ends the innermost transaction, and rolls its writes back.
pub(crate) fn transaction_drop() -> Result<(), Error> {
    cost::count_call();
    innermost().map(drop)
}

/// A guard is not dropped while the host is borrowed.
fn innermost() -> Result<TransactionGuard, Error> {
    let innermost = with(|host| host.begun.pop());
    innermost.ok_or_else(|| {
        Error::Invalid(
            "no transaction of the plugin is open; transaction_begin begins one".to_owned(),
        )
    })
}

pub(crate) struct TransactionGuard {
    /// The store to restore on rollback.
    before: Option<Store>,
    /// Whether this is nested in another transaction, of which it is then a part.
    is_within: bool,
}

impl TransactionGuard {
    fn begin() -> TransactionGuard {
        remote::sync();
        with(|host| {
            let before = host.store.clone();
            let is_within = host.store.begin();
            host.context.transaction = true;
            host.transactions += 1;
            TransactionGuard {
                before: Some(before),
                is_within,
            }
        })
    }

    fn commit(mut self) {
        self.before = None;
    }

    /// Commits. After an error, its writes are rolled back. The outermost commit is an operation of
    /// the store.
    pub(crate) fn finish(self) -> Result<(), Error> {
        if self.is_within {
            self.commit();
            return Ok(());
        }
        faults::operate_uncounted(Check::Versions, move || {
            with(|host| {
                host.store.check_additions(|_, _| true)?;
                // Within the check, the store has the deliveries of the commit.
                let mut after = host.store.clone();
                after.end(host.now_ms());
                match &self.before {
                    Some(before) if host.quota.is_set() => host.quota.check(before, &after),
                    _ => Ok(()),
                }
            })?;
            self.commit();
            Ok(())
        })
    }
}

impl Drop for TransactionGuard {
    fn drop(&mut self) {
        with(|host| {
            match self.before.take() {
                Some(before) => host.store.roll_back(before),
                None if self.is_within => {}
                None => host.store.end(host.now_ms()),
            }
            copy::end_write(host);
            host.context.transaction = self.is_within;
            host.transactions -= 1;
        });
    }
}
