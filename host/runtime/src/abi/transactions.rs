//! `transaction_begin`, `transaction_commit`, `transaction_drop`: parts of a run that take effect
//! together or not at all. Rationale: `docs/decisions/0036-transactions-of-guests.md`.

use super::fault::Fault;
use super::kv::async_function;
use super::memory::Guest;
use super::state::{GuestState, GuestView, HostCalls};
use kvasm_abi::{MODULE, Status, TRANSACTIONS_MAX};
use kvasm_service::{Kv, ServiceError, Transaction, WriteSavepoint};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{Caller, Linker};

/// The maximum pause before a transaction is begun again after a conflict.
const PAUSE_MAX: Duration = Duration::from_millis(32);

pub(super) fn link<T: GuestView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    async_function!(linker, "transaction_begin", begin, ());
    async_function!(linker, "transaction_commit", commit, ());
    async_function!(linker, "transaction_drop", discard, ());
    Ok(())
}

/// The transactions of a run.
#[derive(Default)]
pub(crate) struct RunTransactions {
    /// That of the run itself, if the run is one. The host commits it.
    of_run: Option<Arc<Transaction>>,
    /// The outermost one that the guest has begun in a run that is none, and the service below it.
    of_guest: Option<(Arc<Transaction>, Arc<dyn Kv>)>,
    /// Where the nested ones began.
    nested: Vec<WriteSavepoint>,
    /// Conflicts of the guest's transactions so far.
    conflicts: u32,
}

impl RunTransactions {
    pub(crate) fn of_run(transaction: Option<Arc<Transaction>>) -> RunTransactions {
        RunTransactions {
            of_run: transaction,
            ..RunTransactions::default()
        }
    }

    /// Whether a write is buffered now.
    pub(crate) fn is_within(&self) -> bool {
        self.of_run.is_some() || self.of_guest.is_some()
    }

    /// Whether the guest has begun one and not ended it.
    pub(crate) fn has_open(&self) -> bool {
        self.of_guest.is_some() || !self.nested.is_empty()
    }

    /// Whether a request to another server could be repeated without a common key: in every
    /// transaction except that of a delivery, whose requests have the id of the event.
    pub(super) fn forbids_requests(&self, is_delivery: bool) -> bool {
        self.of_guest.is_some() || (self.of_run.is_some() && !is_delivery)
    }

    fn current(&self) -> Option<&Arc<Transaction>> {
        let of_guest = self.of_guest.as_ref().map(|(transaction, _)| transaction);
        of_guest.or(self.of_run.as_ref())
    }

    /// The number of open ones, including that of the run.
    fn count(&self) -> usize {
        usize::from(self.is_within()) + self.nested.len()
    }

    /// Returns a random pause before the next attempt, which grows with each conflict.
    fn pause(&self) -> Duration {
        if self.conflicts == 0 {
            return Duration::ZERO;
        }
        let longest = Duration::from_millis(1) * 2u32.saturating_pow(self.conflicts.min(10));
        let mut part = [0];
        // Without randomness, the longest pause.
        let part = getrandom::fill(&mut part).map_or(u8::MAX, |()| part[0]);
        longest.min(PAUSE_MAX) * u32::from(part) / u32::from(u8::MAX)
    }
}

impl GuestState {
    /// Ends the outermost transaction of the guest, and returns it.
    fn end_transaction(&mut self) -> Option<Arc<Transaction>> {
        let (transaction, below) = self.transactions.of_guest.take()?;
        self.services.kv = below;
        Some(transaction)
    }

    /// The status of a transaction that is to be repeated.
    fn in_conflict(&mut self) -> Fault {
        self.transactions.conflicts = self.transactions.conflicts.saturating_add(1);
        Fault::Status(
            Status::Conflict,
            "the transaction is in conflict with a concurrent change; nothing of it was written, \
             repeat it"
                .to_owned(),
        )
    }
}

async fn begin<T: GuestView>(guest: &mut Guest<'_, T>) -> Result<i64, Fault> {
    let state = guest.state();
    if state.transactions.count() >= TRANSACTIONS_MAX {
        return Err(Fault::Status(
            Status::Invalid,
            format!("transactions are nested too deeply; the limit is {TRANSACTIONS_MAX} levels"),
        ));
    }
    if let Some(current) = state.transactions.current() {
        let savepoint = current.savepoint();
        state.transactions.nested.push(savepoint);
    } else {
        let pause = state.transactions.pause();
        if !pause.is_zero() {
            state.meter.exclude(tokio::time::sleep(pause)).await;
        }
        let below = Arc::clone(&state.services.kv);
        let transaction = Arc::new(Transaction::new(Arc::clone(&below), &state.limits));
        state.services.kv = Arc::clone(&transaction) as Arc<dyn Kv>;
        state.transactions.of_guest = Some((transaction, below));
    }
    Ok(state.transactions.count() as i64)
}

fn none_open() -> Fault {
    Fault::Status(
        Status::Invalid,
        "no transaction of the plugin is open; transaction_begin begins one".to_owned(),
    )
}

async fn commit<T: GuestView>(guest: &mut Guest<'_, T>) -> Result<i64, Fault> {
    let state = guest.state();
    if state.transactions.nested.pop().is_some() {
        return Ok(0);
    }
    let transaction = state.end_transaction().ok_or_else(none_open)?;
    let committed = match transaction.batch(None) {
        Ok(None) => return Ok(0),
        Ok(Some(batch)) => {
            let commit = state.services.kv.commit(&state.context.caller, batch);
            state.meter.exclude(commit).await.map(drop)
        }
        Err(error) => Err(error),
    };
    match committed {
        Ok(()) => {
            state.transactions.conflicts = 0;
            Ok(0)
        }
        Err(ServiceError::Conflict { .. }) => Err(state.in_conflict()),
        Err(error) => Err(error.into()),
    }
}

async fn discard<T: GuestView>(guest: &mut Guest<'_, T>) -> Result<i64, Fault> {
    let state = guest.state();
    if let Some(savepoint) = state.transactions.nested.pop() {
        if let Some(current) = state.transactions.current() {
            current.roll_back(savepoint);
        }
        return Ok(0);
    }
    let transaction = state.end_transaction().ok_or_else(none_open)?;
    let current = transaction.is_current(&state.context.caller);
    match state.meter.exclude(current).await {
        Ok(false) => Err(state.in_conflict()),
        // If the store does not answer, the guest's own reason to drop it counts.
        Ok(true) | Err(_) => Ok(0),
    }
}
