//! Faults of the store that a test asks for.

use super::{cost, with};
use crate::Error;
use std::collections::BTreeMap;
use std::panic::resume_unwind;

/// The faults to come, by the number of the operation.
#[derive(Default)]
pub(super) struct Faults {
    /// How many operations of the plugin there were.
    pub(super) operations: u64,
    pub(super) failures: BTreeMap<u64, Error>,
    pub(super) conflicts: u32,
    pub(super) crash_after: Option<u64>,
    has_crashed: bool,
    /// Whether the harness runs the plugin.
    is_running: bool,
}

/// What unwinds a run whose host has crashed.
pub(crate) struct Crash;

/// Whether an operation checks versions, and so can be in conflict.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Check {
    Versions,
    Nothing,
}

/// Runs an operation of the store, unless a fault takes its place.
pub(super) fn operate<T, E: From<Error>>(
    check: Check,
    run: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    cost::count_call();
    operate_uncounted(check, run)
}

/// Like [`operate`], for an operation that is not a call of the plugin.
pub(super) fn operate_uncounted<T, E: From<Error>>(
    check: Check,
    run: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let planned = with(|host| host.faults.next(check));
    match planned {
        Some(Planned::Fail(error)) => return Err(error.into()),
        Some(Planned::Crash) => crash(),
        None => {}
    }
    let result = run();
    if with(|host| host.faults.crashes_now()) {
        crash();
    }
    result
}

fn crash() -> ! {
    resume_unwind(Box::new(Crash))
}

enum Planned {
    Fail(Error),
    Crash,
}

impl Faults {
    /// Counts an operation, and returns what takes its place.
    fn next(&mut self, check: Check) -> Option<Planned> {
        if self.has_crashed {
            // A value that is dropped while the run unwinds may call the host.
            return Some(match std::thread::panicking() {
                true => Planned::Fail(Error::Unavailable("the host has crashed".to_owned())),
                false => Planned::Crash,
            });
        }
        // What the test itself reads and writes does not count.
        if !self.is_running {
            return None;
        }
        self.operations += 1;
        if let Some(error) = self.failures.remove(&self.operations) {
            return Some(Planned::Fail(error));
        }
        if check == Check::Versions && self.conflicts > 0 {
            self.conflicts -= 1;
            let message = "version conflict: the entry is not as the write expects; nothing was \
                           written";
            return Some(Planned::Fail(Error::Conflict(message.to_owned())));
        }
        None
    }

    fn crashes_now(&mut self) -> bool {
        let is_now = self.is_running && self.crash_after.is_some_and(|at| at <= self.operations);
        if is_now {
            self.crash_after = None;
            self.has_crashed = true;
        }
        is_now
    }
}

/// Returns how many operations of the plugin there were.
pub(crate) fn operations() -> u64 {
    with(|host| host.faults.operations)
}

/// Makes the `n`th operation from now fail.
pub(crate) fn fail(n: u64, error: Error) {
    with(|host| {
        let at = host.faults.operations + n.max(1);
        host.faults.failures.insert(at, error);
    });
}

/// Makes the next operations that check versions fail.
pub(crate) fn conflict(times: u32) {
    with(|host| host.faults.conflicts += times);
}

/// Ends the run after the `n`th operation from now.
pub(crate) fn crash_after(n: u64) {
    with(|host| host.faults.crash_after = Some(host.faults.operations + n.max(1)));
}

/// Forgets the faults that have not occurred.
pub(crate) fn clear_faults() {
    with(|host| {
        host.faults = Faults {
            operations: host.faults.operations,
            is_running: host.faults.is_running,
            ..Faults::default()
        }
    });
}

/// Begins or ends a run of the plugin by the harness.
pub(crate) fn set_running(is_running: bool) {
    with(|host| {
        host.faults.is_running = is_running;
        host.faults.has_crashed = false;
    });
}
