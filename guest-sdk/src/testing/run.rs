//! One run of an export: its context, its transaction, and what a panic in it leaves.

use super::CallError;
use crate::sys::native::{self, Crash};
use crate::{Context, Error};
use kvasm_abi::{EXIT_OK, EXIT_REFUSED};
use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

/// How often a transaction is run before it fails with a conflict.
const RUNS_MAX: usize = 1_000;

thread_local! {
    /// The last panic of a run; `None` outside of runs.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How a run ended.
pub(super) enum Ended {
    /// It returned this code and output, and is committed if the code is 0.
    Returned(i32, Vec<u8>),
    /// It panicked with this message, at this location.
    Panicked(String),
    /// It succeeded, but could not be committed.
    NotCommitted(Error),
    /// The host has crashed.
    Crashed,
}

/// Runs an export. `first` is the first effect of a transaction: it is undone with it.
pub(super) fn run(
    context: Context,
    input: &[u8],
    is_transaction: bool,
    first: impl Fn(),
    export: impl Fn() -> i32,
) -> Ended {
    install_hook();
    let mut runs = 0;
    loop {
        runs += 1;
        native::set_input(input);
        native::take_output();
        native::begin_fetches();
        native::set_running(true);
        PANIC.set(Some(String::new()));
        let context = Context {
            transaction: is_transaction,
            ..context.clone()
        };
        let work = || match is_transaction {
            true => in_transaction(&first, &export),
            false => Ok(export()),
        };
        let work = AssertUnwindSafe(|| native::with_context(context, work));
        let result = panic::catch_unwind(work);
        native::set_running(false);
        let message = PANIC.take().unwrap_or_default();
        return match result {
            Ok(Ok(code)) => Ended::Returned(code, native::take_output()),
            Ok(Err(Error::Conflict(_))) if runs < RUNS_MAX => continue,
            Ok(Err(error)) => Ended::NotCommitted(error),
            Err(payload) if payload.is::<Crash>() => Ended::Crashed,
            Err(payload) => Ended::Panicked(described(message, &*payload)),
        };
    }
}

fn in_transaction(first: &impl Fn(), export: &impl Fn() -> i32) -> Result<i32, Error> {
    let transaction = native::begin_run();
    first();
    let code = export();
    if code == EXIT_OK {
        transaction.finish()?;
    }
    Ok(code)
}

/// The hook has seen the location, unless a test has replaced it.
fn described(message: String, payload: &(dyn Any + Send)) -> String {
    if !message.is_empty() {
        return message;
    }
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("(non-string payload)"))
}

/// Records the panics of runs, with their locations, as the SDK logs them on a host. Others go to
/// the hook that was there before.
fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let line = line(panic);
            let is_in_run = PANIC.with_borrow_mut(|last| {
                let last = last.as_mut().map(|last| *last = line.clone());
                last.is_some()
            });
            match is_in_run {
                true => eprintln!("the plugin {line}"),
                false => before(panic),
            }
        }));
    });
}

fn line(panic: &PanicHookInfo<'_>) -> String {
    let message = panic.payload_as_str().unwrap_or("(non-string payload)");
    match panic.location() {
        Some(place) => format!("panicked at {place}: {message}"),
        None => format!("panicked: {message}"),
    }
}

/// Returns the output of a call.
pub(super) fn output(ended: Ended) -> Result<Vec<u8>, CallError> {
    match ended {
        Ended::Returned(EXIT_OK, output) => Ok(output),
        Ended::Returned(code, output) => {
            let message = String::from_utf8_lossy(&output).into_owned();
            Err(match code {
                EXIT_REFUSED => CallError::Refused(message),
                _ => CallError::Failed(message),
            })
        }
        Ended::Panicked(message) => Err(CallError::Panicked(message)),
        Ended::NotCommitted(error) => Err(CallError::NotCommitted(error)),
        Ended::Crashed => Err(CallError::Crashed),
    }
}
