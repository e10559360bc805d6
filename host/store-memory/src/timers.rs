//! Timers.

use super::commit::key_of;
use super::triggers::QueuedDelivery;
use super::usage::{count_delivery, uncount_delivery};
use super::{AppData, MemoryState};
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Applied, Commit, Delivery, DeliveryTarget, Event, EventKind, LeaseToken, NewTimer,
    TIMER_TRIGGER, TRIGGERED_DELIVERIES_MAX, TimerName, TimerOp, Timestamp, TriggerName,
    is_unexpected, timer_trigger,
};
use std::collections::BTreeMap;
use std::ops::Bound;
use uuid::Uuid;

/// The key of a stored delivery.
pub(super) type RowKey = (TriggerName, i64, i64);

/// The changes of timers of a commit.
#[derive(Default)]
pub(super) struct TimerChanges {
    applied: Vec<Applied>,
    /// The deliveries that are replaced or cancelled.
    gone: Vec<RowKey>,
    /// The timers that are set by the end.
    set: BTreeMap<TimerName, QueuedDelivery>,
}

impl QueuedDelivery {
    /// Returns how long it was asked to wait, in milliseconds.
    pub(super) fn waits(&self) -> i64 {
        self.wait_ms.unwrap_or(0)
    }
}

impl AppData {
    /// Computes the changes of timers, and what they change of the usage.
    pub(super) fn plan_timers(
        &self,
        commit: &Commit,
        usage: &mut kvasm_core::Usage,
    ) -> Result<TimerChanges, StoreError> {
        let mut changes = TimerChanges::default();
        let own = commit.batch.acknowledge.as_ref();
        let own = own.map(|receipt| key_of(&receipt.place));
        for op in &commit.batch.timers {
            let stored = self.timers.get(op.name());
            let stored =
                stored.filter(|key| own.as_ref() != Some(*key) && !changes.gone.contains(key));
            let earlier = changes.set.remove(op.name());
            let existed = earlier.is_some() || stored.is_some();
            if let Some(row) = &earlier {
                uncount_delivery(usage, &row.event);
            }
            if let (Some(key), Some(row)) =
                (stored, stored.and_then(|key| self.deliveries.get(key)))
            {
                uncount_delivery(usage, &row.event);
                changes.gone.push(key.clone());
            }
            match op {
                TimerOp::Cancel { expect, .. } if is_unexpected(*expect, existed) => {
                    let failed = vec![commit.batch.checks.len()];
                    return Err(StoreError::Conflict { failed });
                }
                TimerOp::Cancel { .. } => changes.applied.push(Applied::TimerCancelled { existed }),
                TimerOp::Set(timer) => {
                    let row = row(commit, timer);
                    count_delivery(usage, &row.event);
                    changes.set.insert(timer.name.clone(), row);
                    changes.applied.push(Applied::TimerSet);
                }
            }
        }
        Ok(changes)
    }

    /// Applies changes of timers, and returns their results.
    pub(super) fn apply_timers(
        &mut self,
        changes: TimerChanges,
        version: &mut u64,
    ) -> Vec<Applied> {
        for key in &changes.gone {
            self.remove_delivery(key);
        }
        for (name, row) in changes.set {
            *version += 1;
            let key = (
                timer_trigger(),
                row.event.ordering_key(),
                version.cast_signed(),
            );
            self.timers.insert(name, key.clone());
            self.deliveries.insert(key, row);
        }
        changes.applied
    }

    /// Removes a delivery.
    pub(super) fn remove_delivery(&mut self, key: &RowKey) -> Option<QueuedDelivery> {
        let row = self.deliveries.remove(key)?;
        if let EventKind::Timer { name, .. } = &row.event.kind
            && self.timers.get(name) == Some(key)
        {
            self.timers.remove(name);
        }
        Some(row)
    }

    pub(super) fn timer(&self, name: &TimerName) -> Option<Delivery> {
        let key = self.timers.get(name)?;
        Some(self.delivery(key, self.deliveries.get(key)?))
    }

    pub(super) fn timers_after(&self, after: Option<&TimerName>, limit: u32) -> Vec<Delivery> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let keys = self.timers.range((lower, Bound::Unbounded));
        let rows = keys.filter_map(|(_, key)| Some((key, self.deliveries.get(key)?)));
        let rows = rows.take(limit as usize);
        rows.map(|(key, row)| self.delivery(key, row)).collect()
    }

    pub(super) fn next_timer(&self, now: Timestamp) -> Option<Timestamp> {
        let is_timer = |row: &&QueuedDelivery| matches!(row.event.kind, EventKind::Timer { .. });
        let timers = self.deliveries.values().filter(is_timer);
        timers
            .filter_map(|row| row.due_at)
            .filter(|at| *at > now)
            .min()
    }
}

impl MemoryState {
    pub(super) fn run_timer(
        &mut self,
        app: AppId,
        name: &TimerName,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let tenant = self.tenant(app)?;
        let row = tenant.timers.get(name);
        let row = row.and_then(|key| tenant.deliveries.get_mut(key));
        let Some(row) = row.filter(|row| row.lease.is_none()) else {
            return Ok(false);
        };
        row.due_at = Some(at);
        row.queued_at = at;
        row.wait_ms = None;
        Ok(true)
    }

    pub(super) fn defer(&mut self, receipt: &LeaseToken, wait_ms: u64, now: Timestamp) -> bool {
        let Some(tenant) = self.leased(receipt) else {
            return false;
        };
        if let Some(row) = tenant.deliveries.get_mut(&key_of(&receipt.place)) {
            let at = now.plus_ms(wait_ms);
            row.lease = None;
            row.due_at = Some(at);
            row.queued_at = at;
            row.wait_ms = Some(wait_ms.cast_signed());
            row.attempts = row.attempts.saturating_sub(1);
        }
        if let Some(trigger) = tenant.triggers.get_mut(&receipt.place.trigger) {
            trigger.standing.release(receipt.lease, now);
        }
        true
    }
}

fn row(commit: &Commit, timer: &NewTimer) -> QueuedDelivery {
    let at = timer.time.at(commit.now);
    let due_at = at.max(commit.now);
    QueuedDelivery {
        event: Event {
            id: Uuid::now_v7(),
            depth: 1,
            followers: TRIGGERED_DELIVERIES_MAX,
            at,
            trace: commit.trace.clone(),
            kind: EventKind::Timer {
                name: timer.name.clone(),
                payload: timer.payload.clone(),
            },
        },
        target: DeliveryTarget::Function(TIMER_TRIGGER.to_owned()),
        attempts: 0,
        replays: 0,
        queued_at: due_at,
        due_at: Some(due_at),
        wait_ms: Some(timer.time.wait_ms()),
        lease: None,
        error: None,
        series: None,
    }
}
