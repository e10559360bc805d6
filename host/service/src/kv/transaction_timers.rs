//! Changes of timers within a run of a transaction: buffered until its commit.

use super::Transaction;
use crate::{Caller, ServiceError};
use kvasm_core::{Applied, Invalid, NewTimer, Subject, TimerName, TimerOp};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A timer as a run has changed it.
#[derive(Clone, Default)]
pub(super) struct BufferedTimer {
    /// Whether it was set in the store when the run cancelled it, which the commit checks.
    seen: Option<bool>,
    /// The timer that the run has set; `None` if it has cancelled it.
    set: Option<NewTimer>,
}

impl BufferedTimer {
    fn bytes(&self) -> usize {
        let payload = |timer: &NewTimer| timer.payload.as_bytes().len();
        self.set.as_ref().map_or(0, payload)
    }
}

/// Returns the changes of a run's commit, and forgets them.
pub(super) fn timer_ops(timers: &mut BTreeMap<TimerName, BufferedTimer>) -> Vec<TimerOp> {
    let mut ops = Vec::with_capacity(timers.len());
    for (name, BufferedTimer { seen, set }) in std::mem::take(timers) {
        let expect = seen;
        match (expect, set) {
            (None, Some(timer)) => ops.push(TimerOp::Set(timer)),
            (Some(_), Some(timer)) => {
                ops.push(TimerOp::Cancel { name, expect });
                ops.push(TimerOp::Set(timer));
            }
            (_, None) => ops.push(TimerOp::Cancel { name, expect }),
        }
    }
    ops
}

impl Transaction {
    /// Makes the run that of a delivery: if it is a timer's, the timer is not set any more.
    pub fn of_delivery(mut self, event: Option<Uuid>) -> Transaction {
        self.event = event;
        self
    }

    /// Returns the event of a timer as it is in the store, unless the run handles it.
    pub(super) async fn see_timer(
        &self,
        caller: &Caller,
        name: &TimerName,
    ) -> Result<Option<Uuid>, ServiceError> {
        let stored = self.kv.timer(caller, name).await?;
        Ok(stored.filter(|event| self.event != Some(*event)))
    }

    pub(super) async fn change_timer(
        &self,
        caller: &Caller,
        op: TimerOp,
    ) -> Result<Applied, ServiceError> {
        match op {
            TimerOp::Set(timer) => {
                let name = timer.name.clone();
                self.buffer_timer(name, None, Some(timer))?;
                Ok(Applied::TimerSet)
            }
            TimerOp::Cancel { name, expect } => {
                let own = self
                    .view
                    .lock()
                    .timers
                    .get(&name)
                    .map(|view| view.set.is_some());
                let (existed, seen) = match own {
                    Some(set) => (set, None),
                    None => {
                        let caller = caller.without_access_checks();
                        let found = self.see_timer(&caller, &name).await?.is_some();
                        (found, Some(found))
                    }
                };
                if kvasm_core::is_unexpected(expect, existed) {
                    return Err(ServiceError::Conflict { failed: Vec::new() });
                }
                self.buffer_timer(name, seen, None)?;
                Ok(Applied::TimerCancelled { existed })
            }
        }
    }

    fn buffer_timer(
        &self,
        name: TimerName,
        seen: Option<bool>,
        set: Option<NewTimer>,
    ) -> Result<(), Invalid> {
        let mut view = self.view.lock();
        let before = view.timers.get(&name).cloned();
        if before.is_none() {
            view.check_room(1)?;
        }
        let before = before.unwrap_or_default();
        let after = BufferedTimer {
            seen: before.seen.or(seen),
            set,
        };
        let total = view.bytes - before.bytes() + after.bytes();
        if total > self.batch_bytes {
            return Err(Invalid::TooLarge {
                subject: Subject::Transaction,
                len: total as u64,
                limit: self.batch_bytes as u64,
            });
        }
        view.bytes = total;
        view.timers.insert(name, after);
        Ok(())
    }
}
