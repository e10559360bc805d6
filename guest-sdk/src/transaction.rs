//! `#[function(transaction)]` and `#[http(transaction)]`: a transaction, however the function is
//! called.

use crate::Error;
use crate::kv::transaction::{OpenTransaction, RUNS_MAX};
use std::cell::Cell;

thread_local! {
    /// Whether the host is about to call a transactional function: its run is a transaction already.
    static IS_RUN: Cell<bool> = const { Cell::new(false) };
}

/// Runs the export of a transactional function.
pub fn run_transaction(export: impl FnOnce() -> i32) -> i32 {
    IS_RUN.set(true);
    export()
}

/// Runs the body of a transactional function. Called from the plugin, and not by the host, it is
/// run again after a conflict if its input can be cloned.
///
/// # Panics
/// If the transaction cannot be begun or committed: the function's return type has no room for the
/// reason.
pub fn in_transaction<I, R>(
    mut input: I,
    again: impl Fn(&I) -> Option<I>,
    is_failure: impl Fn(&R) -> bool,
    body: impl Fn(I) -> R,
) -> R {
    if IS_RUN.take() {
        return body(input);
    }
    for _ in 0..RUNS_MAX {
        let open = OpenTransaction::begin();
        let open = open.unwrap_or_else(|error| panic!("the transaction cannot begin: {error}"));
        let next = open.is_outermost.then(|| again(&input)).flatten();
        let result = body(input);
        let is_failure = is_failure(&result);
        let ended = match is_failure {
            true => open.discard(),
            false => open.commit(),
        };
        match (ended, next) {
            (Ok(()), _) => return result,
            (Err(Error::Conflict(_)), Some(next)) => input = next,
            (Err(_), _) if is_failure => return result,
            (Err(error @ Error::Conflict(_)), None) => {
                panic!("{error}: derive Clone for the function's input, so that it can be repeated")
            }
            (Err(error), _) => panic!("the transaction was not committed: {error}"),
        }
    }
    panic!("the transaction was in conflict with others in each of {RUNS_MAX} runs")
}

/// The input of a function, to be cloned if its type can be.
pub struct Repeat<'i, I>(pub &'i I);

/// Inputs that can be cloned. The compiler prefers it to [`KeepInput`], because the method takes
/// one reference less.
pub trait CloneInput<I> {
    /// Returns the input for another run.
    fn again(&self) -> Option<I>;
}

impl<I: Clone> CloneInput<I> for Repeat<'_, I> {
    fn again(&self) -> Option<I> {
        Some(self.0.clone())
    }
}

/// All other inputs.
pub trait KeepInput<I> {
    /// Returns nothing.
    fn again(&self) -> Option<I>;
}

impl<I> KeepInput<I> for &Repeat<'_, I> {
    fn again(&self) -> Option<I> {
        None
    }
}
