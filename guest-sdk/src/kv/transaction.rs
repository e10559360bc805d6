//! A part of a call as a transaction.

use crate::{Error, sys};

/// How often a transaction is run before it fails with a conflict.
pub(crate) const RUNS_MAX: usize = 1_000;

/// Runs `work` as a transaction: what it writes takes effect together once it returns `Ok`, and not
/// at all if it returns `Err`, panics or traps.
///
/// It commits only if every entry that it has read is unchanged. Otherwise `work` is run again, so
/// it must not change anything outside the store that a repetition would spoil; a variable that it
/// moves out of has to be cloned. What the call has written before stays written.
///
/// Within another transaction, be it that of a [`#[function(transaction)]`](macro@crate::function),
/// of a handler or of this function, it is a part of that one: it takes effect with it. An `Err`
/// undoes only its own writes. Transactions nest to at most 4 levels.
///
/// Lists are not checked for changes. Versions of the transaction's own writes are provisional: use
/// them only within it. Requests to other servers are refused in it, unless the call is that of a
/// handler. A transaction reads and writes at most 1,000 entries and 4 MiB.
///
/// # Errors
/// What `work` returns; [`Error::Conflict`] if others have changed what it reads in each of 1,000
/// runs; otherwise the error of the commit, such as [`Error::Quota`]. After
/// [`Error::Unavailable`] and [`Error::Internal`] it may have taken effect.
///
/// ```
/// use kvasm_guest::{Error, kv};
///
/// fn transfer(from: &str, to: &str, cents: i64) -> Result<(), Error> {
///     let accounts = kv::collection("accounts");
///     kv::transaction(|| {
///         if accounts.increment(from, -cents)? < 0 {
///             return Err(Error::Invalid(format!("{from} has not enough")));
///         }
///         accounts.increment(to, cents)?;
///         Ok(())
///     })
/// }
///
/// let accounts = kv::collection("accounts");
/// accounts.set("ada", &5).unwrap();
/// transfer("ada", "bob", 3).unwrap();
/// transfer("ada", "bob", 3).unwrap_err();
/// let both = (accounts.get("ada").unwrap(), accounts.get("bob").unwrap());
/// assert_eq!(both, (Some(2), Some(3)));
/// ```
pub fn transaction<T, E: From<Error>>(mut work: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    for _ in 0..RUNS_MAX {
        let open = OpenTransaction::begin()?;
        let is_outermost = open.is_outermost;
        let result = work();
        let (ended, result) = match result {
            Ok(done) => (open.commit(), Ok(done)),
            Err(error) => (open.discard(), Err(error)),
        };
        match (ended, result) {
            // What it has read has changed, which may also be why it failed.
            (Err(Error::Conflict(_)), _) if is_outermost => {}
            (Err(error), Ok(_)) => return Err(error.into()),
            (_, result) => return result,
        }
    }
    let message = format!("the transaction was in conflict with others in each of {RUNS_MAX} runs");
    Err(Error::Conflict(message).into())
}

/// A transaction that is dropped if a panic unwinds.
pub(crate) struct OpenTransaction {
    pub(crate) is_outermost: bool,
    is_ended: bool,
}

impl OpenTransaction {
    pub(crate) fn begin() -> Result<OpenTransaction, Error> {
        let open = sys::transaction_begin()?;
        Ok(OpenTransaction {
            is_outermost: open == 1,
            is_ended: false,
        })
    }

    pub(crate) fn commit(mut self) -> Result<(), Error> {
        self.is_ended = true;
        sys::transaction_commit()
    }

    pub(crate) fn discard(mut self) -> Result<(), Error> {
        self.is_ended = true;
        sys::transaction_drop()
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        if !self.is_ended {
            // A panic is already on its way.
            let _ = sys::transaction_drop();
        }
    }
}
