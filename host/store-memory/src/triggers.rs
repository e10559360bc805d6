//! Triggers, deliveries and dead letters: operations of administrators, and the stored rows.

use super::usage::{count_delivery, uncount_delivery};
use super::{AppData, MemoryState};
use kvasm_core::store::StoreError;
use kvasm_core::store::backend::check_triggers;
use kvasm_core::{
    AppId, Applied, Claimable, Commit, DeadLetter, DeadLetterFilter, Delivery, DeliveryFilter,
    DeliveryKey, DeliveryTarget, Event, Exports, LeaseToken, NewTrigger, Origin, Timestamp,
    Trigger, TriggerDeletion, TriggerName, Usage,
};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The replays of a commit.
#[derive(Default)]
pub(super) struct Replays {
    pub(super) applied: Vec<Applied>,
    /// Those that exist, oldest first.
    pub(super) letters: BTreeSet<Uuid>,
}

/// Counts a dead letter that becomes a delivery again.
fn count_replay(usage: &mut Usage, letter: &DeadLetter) {
    usage.bytes -= letter.bytes();
    count_delivery(usage, &letter.event);
}

/// A stored delivery.
#[derive(Debug, Clone)]
pub(super) struct QueuedDelivery {
    pub(super) event: Event,
    pub(super) target: DeliveryTarget,
    pub(super) attempts: u32,
    pub(super) replays: u32,
    pub(super) queued_at: Timestamp,
    pub(super) due_at: Option<Timestamp>,
    /// How long it was asked to wait, in milliseconds.
    pub(super) wait_ms: Option<i64>,
    pub(super) lease: Option<Uuid>,
    pub(super) error: Option<String>,
    /// The series of failures in which it counts.
    pub(super) series: Option<i64>,
}

impl QueuedDelivery {
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.due_at.is_some_and(|at| at <= now)
    }

    /// Returns whether the filter selects this delivery of the trigger.
    pub(super) fn is_selected(&self, trigger: &TriggerName, filter: &DeliveryFilter) -> bool {
        (filter.events.is_empty() || filter.events.contains(&self.event.id))
            && filter.trigger.as_ref().is_none_or(|t| t == trigger)
            && filter.from.is_none_or(|from| from <= self.queued_at)
            && filter.until.is_none_or(|until| self.queued_at < until)
    }
}

impl AppData {
    pub(super) fn delivery(
        &self,
        (trigger, chain, seq): &(TriggerName, i64, i64),
        row: &QueuedDelivery,
    ) -> Delivery {
        let policy = self.triggers.get(trigger).map(|trigger| trigger.policy);
        Delivery {
            place: DeliveryKey {
                trigger: trigger.clone(),
                ordering_key: *chain,
                seq: *seq,
            },
            event: row.event.clone(),
            target: row.target.clone(),
            policy: policy.unwrap_or_default(),
            attempts: row.attempts,
            replays: row.replays,
            queued_at: row.queued_at,
            due_at: row.due_at,
            leased: row.lease.is_some(),
            error: row.error.clone(),
            is_probe: false,
        }
    }

    /// Returns what may be claimed from a trigger's queue. The deliveries of a deleted trigger
    /// remain.
    pub(super) fn open(&self, trigger: &TriggerName, now: Timestamp) -> Claimable {
        let trigger = self.triggers.get(trigger);
        trigger.map_or(Claimable::All, |trigger| trigger.standing.open(now))
    }

    /// Returns the keys of the selected dead letters, oldest first.
    pub(super) fn letters(&self, letters: &DeadLetterFilter, limit: u32) -> Vec<Uuid> {
        let meant = self.dead_letters.values().filter(|l| letters.matches(l));
        meant.take(limit as usize).map(|letter| letter.id).collect()
    }

    /// Computes the replays of a commit, and what they change of the usage.
    pub(super) fn plan_replays(
        &self,
        commit: &Commit,
        usage: &mut Usage,
    ) -> Result<Replays, StoreError> {
        let mut replays = Replays::default();
        for replay in &commit.batch.replays {
            let letter = self.dead_letters.get(&replay.letter);
            let existed = letter.is_some_and(|letter| replays.letters.insert(letter.id));
            if replay.is_required && !existed {
                let failed = vec![commit.batch.checks.len()];
                return Err(StoreError::Conflict { failed });
            }
            if let Some(letter) = letter.filter(|_| existed) {
                count_replay(usage, letter);
            }
            replays.applied.push(Applied::Replayed { existed });
        }
        Ok(replays)
    }

    /// Turns a dead letter back into a delivery. The caller counts it.
    pub(super) fn send_again(&mut self, letter: Uuid, at: Timestamp, version: &mut u64) {
        let Some(letter) = self.dead_letters.remove(&letter) else {
            return;
        };
        *version += 1;
        let replays = letter.replays + 1;
        let (trigger, target) = (letter.trigger, letter.target);
        let seq = version.cast_signed();
        self.enqueue(trigger, target, letter.event, seq, at, replays);
    }

    /// Checks whether the app can have the triggers of a version that is to be activated.
    pub(super) fn check_declared(&self, exports: &Exports) -> Result<(), StoreError> {
        let all = self.triggers.values();
        let of_operators = all.filter(|trigger| trigger.origin == Origin::Operator);
        let declared = exports.triggers.iter().map(|declared| &declared.name);
        let after: BTreeSet<_> = of_operators.map(|t| &t.name).chain(declared).collect();
        check_triggers(self.triggers.len(), after.len())
    }

    /// Replaces the triggers of the previous version with those of the active one.
    pub(super) fn declare(&mut self, exports: &Exports, at: Timestamp) {
        let declared = |name: &TriggerName| exports.triggers.iter().any(|d| d.name == *name);
        self.triggers
            .retain(|name, trigger| trigger.origin == Origin::Operator || declared(name));
        for declaration in &exports.triggers {
            let trigger = self.triggers.entry(declaration.name.clone());
            let trigger = trigger.or_insert_with(|| Trigger::declared(declaration, at));
            if trigger.origin == Origin::Operator {
                continue;
            }
            if trigger.watch != declaration.watch {
                trigger.watch = declaration.watch.clone();
                trigger.next_at = None;
            }
            trigger.policy = declaration.policy();
        }
        for trigger in self.triggers.values_mut() {
            trigger.standing.reset();
        }
    }
}

impl MemoryState {
    pub(super) fn set_trigger(
        &mut self,
        app: AppId,
        trigger: NewTrigger,
        at: Timestamp,
    ) -> Result<Trigger, StoreError> {
        let triggers = &mut self.tenant(app)?.triggers;
        let before = triggers.get(&trigger.name);
        let count = triggers.len();
        check_triggers(count, count + usize::from(before.is_none()))?;
        let trigger = trigger.replacing(before, at);
        triggers.insert(trigger.name.clone(), trigger.clone());
        Ok(trigger)
    }

    pub(super) fn delete_trigger(
        &mut self,
        app: AppId,
        trigger: &TriggerName,
        must_be_idle: bool,
    ) -> Result<TriggerDeletion, StoreError> {
        let tenant = self.tenant(app)?;
        if must_be_idle
            && tenant.triggers.contains_key(trigger)
            && tenant.deliveries.keys().any(|key| key.0 == *trigger)
        {
            return Ok(TriggerDeletion::Outstanding);
        }
        Ok(match tenant.triggers.remove(trigger) {
            Some(_) => TriggerDeletion::Deleted,
            None => TriggerDeletion::Absent,
        })
    }

    pub(super) fn discard_deliveries(
        &mut self,
        app: AppId,
        which: &DeliveryFilter,
        limit: u32,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let tenant = self.tenant(app)?;
        let rows = tenant.deliveries.iter();
        let meant = rows.filter(|(key, row)| row.is_selected(&key.0, which));
        let meant = meant.take(limit as usize).map(|(key, _)| key.clone());
        let meant: Vec<_> = meant.collect();
        for key in &meant {
            if let Some(row) = tenant.remove_delivery(key) {
                uncount_delivery(&mut tenant.usage, &row.event);
            }
        }
        let count = meant.len() as u64;
        for (trigger, chain, seq) in meant {
            let gone = DeliveryKey {
                trigger,
                ordering_key: chain,
                seq,
            };
            tenant.unblock_next(&gone, now);
        }
        Ok(count)
    }

    pub(super) fn pause_trigger(
        &mut self,
        app: AppId,
        trigger: &TriggerName,
        paused: bool,
    ) -> Result<bool, StoreError> {
        let Some(trigger) = self.tenant(app)?.triggers.get_mut(trigger) else {
            return Ok(false);
        };
        trigger.standing.set_paused(paused);
        Ok(true)
    }

    pub(super) fn replay(
        &mut self,
        app: AppId,
        letters: &DeadLetterFilter,
        limit: u32,
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut version = self.version;
        let tenant = self.tenant(app)?;
        let ids = tenant.letters(letters, limit);
        for id in &ids {
            if let Some(letter) = tenant.dead_letters.get(id) {
                count_replay(&mut tenant.usage, letter);
            }
            tenant.send_again(*id, at, &mut version);
        }
        self.version = version;
        Ok(ids.len() as u64)
    }

    pub(super) fn discard(
        &mut self,
        app: AppId,
        letters: &DeadLetterFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let tenant = self.tenant(app)?;
        let ids = tenant.letters(letters, limit);
        for id in &ids {
            if let Some(letter) = tenant.dead_letters.remove(id) {
                tenant.usage.bytes -= letter.bytes();
            }
        }
        Ok(ids.len() as u64)
    }

    /// Returns the app of a lease token, if its lease holds.
    pub(super) fn leased(&mut self, receipt: &LeaseToken) -> Option<&mut AppData> {
        let tenant = self.apps.get_mut(&receipt.app)?;
        tenant.leased(receipt).ok()?;
        Some(tenant)
    }
}
