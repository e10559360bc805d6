//! The timers of the in-process host.

use super::store::Store;
use super::{cost, validate, with, with_store};
use crate::Error;
use kvasm_abi::TimerTime;

/// A timer that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetTimer {
    pub(crate) name: String,
    pub(crate) at_ms: i64,
    pub(crate) payload: Vec<u8>,
    /// Counts the settings, so that each is an event of its own.
    pub(crate) number: u64,
}

impl Store {
    pub(super) fn set_timer(&mut self, name: &str, time: TimerTime, payload: &[u8], now_ms: i64) {
        let at_ms = match time {
            TimerTime::At(at_ms) => at_ms,
            TimerTime::After(ms) => now_ms.saturating_add_unsigned(ms),
        };
        self.timers_set += 1;
        let timer = SetTimer {
            name: name.to_owned(),
            at_ms,
            payload: payload.to_vec(),
            number: self.timers_set,
        };
        self.timers.insert(name.to_owned(), timer);
    }

    pub(super) fn cancel_timer(&mut self, name: &str) -> bool {
        self.timers.remove(name).is_some()
    }
}

pub(crate) fn timer_set(name: &str, flags: i32, ms: i64, payload: &[u8]) -> Result<(), Error> {
    cost::count_call();
    let result = with_store(|store, now_ms| {
        validate::timer_name(name.as_bytes())?;
        let time = validate::timer(flags, ms, payload)?;
        store.set_timer(name, time, payload, now_ms);
        Ok(())
    });
    cost::count_write(&result, payload.len());
    result
}

pub(crate) fn timer_cancel(name: &str) -> Result<bool, Error> {
    cost::count_call();
    let result = with_store(|store, _| {
        validate::timer_name(name.as_bytes())?;
        Ok(store.cancel_timer(name))
    });
    cost::count_write(&result, 0);
    result
}

/// Returns the timers that are set, in the order in which they become due.
pub(crate) fn timers() -> Vec<SetTimer> {
    let mut timers: Vec<_> = with(|host| host.store.timers.values().cloned().collect());
    timers.sort_by_key(|timer: &SetTimer| (timer.at_ms, timer.number));
    timers
}

/// Removes the timer that has been due for longest, for the run of its handler.
pub(crate) fn take_due_timer() -> Option<SetTimer> {
    let now_ms = with(|host| host.now_ms());
    let first = timers().into_iter().next()?;
    let is_due = first.at_ms <= now_ms;
    is_due.then(|| with(|host| host.store.timers.remove(&first.name)))?
}

/// Sets a timer again whose handler failed.
pub(crate) fn restore_timer(timer: SetTimer) {
    with(|host| {
        host.store.timers.entry(timer.name.clone()).or_insert(timer);
    });
}
