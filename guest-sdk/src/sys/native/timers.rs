//! The timers of the in-process host.

use super::faults::{self, Check};
use super::store::Store;
use super::{copy, cost, declared, validate, with, write_store};
use crate::Error;
use crate::testing::remote;
use kvasm_abi::TimerTime;

/// A timer that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetTimer {
    pub(crate) name: String,
    pub(crate) at_ms: i64,
    pub(crate) payload: Vec<u8>,
    /// Counts the settings, so that each is an event of its own.
    pub(crate) number: u64,
    /// The number of attempts so far.
    pub(crate) attempts: u32,
    /// The time of the next attempt.
    pub(crate) due_at_ms: i64,
    /// The time from which its age counts.
    pub(crate) queued_at_ms: i64,
}

impl Store {
    pub(super) fn set_timer(
        &mut self,
        name: &str,
        time: TimerTime,
        payload: &[u8],
        now_ms: i64,
    ) -> Result<(), Error> {
        self.note_timer(name, payload.len())?;
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
            attempts: 0,
            due_at_ms: at_ms.max(now_ms),
            queued_at_ms: at_ms.max(now_ms),
        };
        self.record(|| copy::Written::TimerSet(timer.clone()));
        self.timers.insert(name.to_owned(), timer);
        Ok(())
    }

    pub(super) fn cancel_timer(&mut self, name: &str) -> Result<bool, Error> {
        self.note_timer(name, 0)?;
        self.record(|| copy::Written::TimerCancel(name.to_owned()));
        Ok(self.timers.remove(name).is_some())
    }
}

pub(crate) fn timer_set(name: &str, flags: i32, ms: i64, payload: &[u8]) -> Result<(), Error> {
    let result = faults::operate(Check::Nothing, || {
        declared::require_timers()?;
        validate::timer_name(name.as_bytes())?;
        let time = validate::timer(flags, ms, payload)?;
        write_store(|store, now_ms| store.set_timer(name, time, payload, now_ms))
    });
    cost::count_write(&result, payload.len());
    result
}

pub(crate) fn timer_cancel(name: &str) -> Result<bool, Error> {
    let result = faults::operate(Check::Nothing, || {
        declared::require_timers()?;
        validate::timer_name(name.as_bytes())?;
        write_store(|store, _| store.cancel_timer(name))
    });
    cost::count_write(&result, 0);
    result
}

/// Returns the timers that are set, in the order in which they become due.
pub(crate) fn timers() -> Vec<SetTimer> {
    remote::sync_all();
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

/// Removes a timer, for the run of its handler. One that was set again meanwhile is left.
pub(crate) fn take_timer(timer: &SetTimer) {
    with(|host| {
        let timers = &mut host.store.timers;
        if timers
            .get(&timer.name)
            .is_some_and(|found| found.number == timer.number)
        {
            timers.remove(&timer.name);
        }
    });
}

/// Changes a timer whose handler failed. One that was set again meanwhile is left.
pub(crate) fn update_timer(timer: SetTimer) {
    with(|host| {
        let found = host.store.timers.get_mut(&timer.name);
        if let Some(found) = found.filter(|found| found.number == timer.number) {
            *found = timer;
        }
    });
}
