//! The outbox: triggers and deliveries.

use super::MemoryStore;
use super::commit::key_of;
use super::entries::live;
use super::usage::{size, uncount_delivery};
use async_trait::async_trait;
use kvasm_core::store::{Outbox, StoreError};
use kvasm_core::{
    AppId, Claim, Claimable, DeadLetter, DeadLetterFilter, Delivery, DeliveryFilter, DeliveryKey,
    DueSchedule, Event, EventKind, FailOutcome, FailedAttempt, LeaseToken, Queue, SchedulePosition,
    ScheduleTick, TRIGGERED_DELIVERIES_MAX, TimerName, Timestamp, Trigger, Verdict, Watch,
    ordering_key_of,
};
use std::collections::BTreeMap;
use std::ops::Bound;
use uuid::Uuid;

/// The maximum number of deliveries of a paused queue that are searched for a probe.
const PROBE_LOOK: usize = 64;

#[async_trait]
impl Outbox for MemoryStore {
    async fn triggers(&self, app: AppId) -> Result<Vec<Trigger>, StoreError> {
        let state = self.state.read();
        let tenant = state.apps.get(&app);
        Ok(tenant.map_or_else(Vec::new, |t| t.triggers.values().cloned().collect()))
    }

    async fn due(
        &self,
        after: Option<&Queue>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Queue>, StoreError> {
        let state = self.state.read();
        let mut queues = Vec::new();
        let apps: BTreeMap<_, _> = state.apps.iter().collect();
        for (app, tenant) in apps {
            for ((trigger, ..), row) in &tenant.deliveries {
                let queue = Queue {
                    app: *app,
                    trigger: trigger.clone(),
                };
                let is_new = queues.last() != Some(&queue) && after.is_none_or(|a| queue > *a);
                if is_new && row.is_due(now) && tenant.open(trigger, now) != Claimable::None {
                    queues.push(queue);
                }
            }
        }
        queues.truncate(limit as usize);
        Ok(queues)
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError> {
        let mut state = self.state.write();
        let Some(tenant) = state.apps.get_mut(&claim.queue.app) else {
            return Ok(Vec::new());
        };
        let open = tenant.open(&claim.queue.trigger, claim.now);
        if open == Claimable::None {
            return Ok(Vec::new());
        }
        let of_queue = tenant.deliveries.iter();
        let mut due: Vec<_> = of_queue
            .filter(|(key, row)| key.0 == claim.queue.trigger && row.is_due(claim.now))
            .map(|(key, row)| (row.due_at, key.2, key.clone(), row.series))
            .collect();
        due.sort();
        if let (Claimable::Probe, Some(trigger)) =
            (open, tenant.triggers.get_mut(&claim.queue.trigger))
        {
            due.truncate(PROBE_LOOK);
            due.sort_by_key(|(.., series)| *series == Some(trigger.standing.series));
            due.truncate(1);
            if !due.is_empty() {
                trigger.standing.probe(claim.lease, claim.until);
            }
        }
        due.truncate(claim.limit as usize);
        let mut claimed = Vec::new();
        for (_, _, key, _) in due {
            if let Some(row) = tenant.deliveries.get_mut(&key) {
                row.attempts += 1;
                row.lease = Some(claim.lease);
                row.due_at = Some(claim.until);
                let row = row.clone();
                claimed.push(Delivery {
                    is_probe: open == Claimable::Probe,
                    ..tenant.delivery(&key, &row)
                });
            }
        }
        Ok(claimed)
    }

    async fn renew(&self, receipt: &LeaseToken, until: Timestamp) -> Result<bool, StoreError> {
        let mut state = self.state.write();
        let Some(tenant) = state.leased(receipt) else {
            return Ok(false);
        };
        let row = tenant.deliveries.get_mut(&key_of(&receipt.place));
        let renewed = row.map(|row| row.due_at = Some(until));
        if let Some(trigger) = tenant.triggers.get_mut(&receipt.place.trigger) {
            trigger.standing.renew(receipt.lease, until);
        }
        Ok(renewed.is_some())
    }

    async fn release(&self, receipt: &LeaseToken, at: Timestamp) -> Result<bool, StoreError> {
        let mut state = self.state.write();
        let Some(tenant) = state.leased(receipt) else {
            return Ok(false);
        };
        if let Some(row) = tenant.deliveries.get_mut(&key_of(&receipt.place)) {
            row.lease = None;
            row.due_at = Some(at);
            row.attempts = row.attempts.saturating_sub(1);
        }
        if let Some(trigger) = tenant.triggers.get_mut(&receipt.place.trigger) {
            trigger.standing.release(receipt.lease, at);
        }
        Ok(true)
    }

    async fn defer(
        &self,
        receipt: &LeaseToken,
        wait_ms: u64,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        Ok(self.state.write().defer(receipt, wait_ms, now))
    }

    async fn fail(&self, failed: &FailedAttempt) -> Result<FailOutcome, StoreError> {
        let mut state = self.state.write();
        let place = &failed.receipt.place;
        let Some(tenant) = state.leased(&failed.receipt) else {
            return Ok(FailOutcome::LeaseLost);
        };
        let mut returned = FailOutcome::Recorded;
        if let Some(trigger) = tenant.triggers.get_mut(&place.trigger)
            && let Some(row) = tenant.deliveries.get_mut(&key_of(place))
        {
            returned = trigger.standing.fail(row.series, failed);
            if failed.deterministic {
                row.series = Some(trigger.standing.series);
            }
        }
        match failed.verdict {
            Verdict::RetryAt(at) => {
                if let Some(row) = tenant.deliveries.get_mut(&key_of(place)) {
                    row.lease = None;
                    row.due_at = Some(at);
                    row.wait_ms = None;
                    row.error = Some(failed.truncated_error().to_owned());
                }
            }
            Verdict::DeadLetter(reason) => {
                let Some(row) = tenant.remove_delivery(&key_of(place)) else {
                    return Ok(FailOutcome::LeaseLost);
                };
                let letter = DeadLetter {
                    id: Uuid::now_v7(),
                    event: row.event,
                    trigger: place.trigger.clone(),
                    target: row.target,
                    reason,
                    error: failed.error.clone(),
                    trace: failed.trace.clone(),
                    plugin: failed.plugin,
                    attempts: row.attempts,
                    replays: row.replays,
                    dead_at: failed.now,
                };
                uncount_delivery(&mut tenant.usage, &letter.event);
                tenant.usage.bytes += letter.bytes();
                tenant.dead_letters.insert(letter.id, letter);
                tenant.unblock_next(place, failed.now);
            }
        }
        Ok(returned)
    }

    async fn rescue(
        &self,
        queue: &Queue,
        beyond: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let mut state = self.state.write();
        let Some(tenant) = state.apps.get_mut(&queue.app) else {
            return Ok(0);
        };
        if let Some(trigger) = tenant.triggers.get_mut(&queue.trigger) {
            trigger.standing.rescue(beyond, now);
        }
        let of_queue = tenant.deliveries.iter_mut();
        let late = of_queue.filter(|(key, row)| {
            let due_at = row.due_at.map(|due| due.0.saturating_sub(row.waits()));
            key.0 == queue.trigger && due_at.is_some_and(|due| due > beyond.0)
        });
        let mut rescued = 0;
        for (_, row) in late.take(limit as usize) {
            row.due_at = Some(Timestamp(now.0.saturating_add(row.waits())));
            rescued += 1;
        }
        Ok(rescued)
    }

    async fn outstanding(
        &self,
        app: AppId,
        which: &DeliveryFilter,
        after: Option<&DeliveryKey>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let state = self.state.read();
        let Some(tenant) = state.apps.get(&app) else {
            return Ok(Vec::new());
        };
        let lower = after.map_or(Bound::Unbounded, |place| Bound::Excluded(key_of(place)));
        let rows = tenant.deliveries.range((lower, Bound::Unbounded));
        let rows = rows.filter(|(key, row)| row.is_selected(&key.0, which));
        let rows = rows.take(limit as usize);
        Ok(rows.map(|(key, row)| tenant.delivery(key, row)).collect())
    }

    async fn count_deliveries(
        &self,
        app: AppId,
        which: &DeliveryFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let state = self.state.read();
        let Some(tenant) = state.apps.get(&app) else {
            return Ok(0);
        };
        let rows = tenant.deliveries.iter();
        let rows = rows.filter(|(key, row)| row.is_selected(&key.0, which));
        Ok(rows.take(limit as usize).count() as u64)
    }

    async fn timer(&self, app: AppId, name: &TimerName) -> Result<Option<Delivery>, StoreError> {
        let state = self.state.read();
        let tenant = state.apps.get(&app);
        Ok(tenant.and_then(|tenant| tenant.timer(name)))
    }

    async fn timers(
        &self,
        app: AppId,
        after: Option<&TimerName>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let state = self.state.read();
        let tenant = state.apps.get(&app);
        Ok(tenant.map_or_else(Vec::new, |tenant| tenant.timers_after(after, limit)))
    }

    async fn next_timer(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let state = self.state.read();
        Ok(state
            .apps
            .values()
            .filter_map(|app| app.next_timer(now))
            .min())
    }

    async fn schedules(
        &self,
        after: Option<&SchedulePosition>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, StoreError> {
        let state = self.state.read();
        let all = state.apps.iter();
        let all = all.flat_map(|(app, tenant)| tenant.triggers.values().map(|t| (*app, t)));
        let is_due = |trigger: &Trigger| {
            let is_schedule = matches!(trigger.watch, Watch::Schedule(_));
            let is_due = trigger.next_at.is_none_or(|at| at <= now);
            is_schedule && is_due && trigger.standing.open(now) != Claimable::None
        };
        let order = |place: &SchedulePosition| {
            let Queue { app, trigger } = &place.queue;
            (place.next_at, *app, trigger.clone())
        };
        let after = after.map(order);
        let due = all.filter(|(_, trigger)| is_due(trigger));
        let due = due.map(|(app, trigger)| DueSchedule {
            place: SchedulePosition {
                queue: Queue {
                    app,
                    trigger: trigger.name.clone(),
                },
                next_at: trigger.next_at,
            },
            trigger: Ok(trigger.clone()),
        });
        let mut due: Vec<_> = due
            .filter(|due| {
                after
                    .as_ref()
                    .is_none_or(|after| order(&due.place) > *after)
            })
            .collect();
        due.sort_by_key(|due| order(&due.place));
        due.truncate(limit as usize);
        Ok(due)
    }

    async fn tick(&self, tick: &ScheduleTick) -> Result<bool, StoreError> {
        let mut state = self.state.write();
        let seq = (state.version + 1).cast_signed();
        let Some(tenant) = state.apps.get_mut(&tick.queue.app) else {
            return Ok(false);
        };
        let Some(trigger) = tenant.triggers.get_mut(&tick.queue.trigger) else {
            return Ok(false);
        };
        if trigger.next_at != tick.planned || trigger.standing.open(tick.now) == Claimable::None {
            return Ok(false);
        }
        trigger.next_at = tick.next;
        let (name, target) = (trigger.name.clone(), trigger.target.of_delivery());
        let chain = ordering_key_of("");
        let mut outstanding = tenant.deliveries.keys();
        let outstanding = outstanding.any(|key| key.0 == name && key.1 == chain);
        let Some(at) = tick.run.filter(|_| !outstanding) else {
            return Ok(false);
        };
        let event = Event {
            id: Uuid::now_v7(),
            depth: 1,
            followers: TRIGGERED_DELIVERIES_MAX,
            at,
            trace: None,
            kind: EventKind::Due,
        };
        tenant.enqueue(name, target, event, seq, tick.now, 0);
        state.version += 1;
        Ok(true)
    }

    async fn dead_letters(
        &self,
        app: AppId,
        letters: &DeadLetterFilter,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let state = self.state.read();
        let Some(tenant) = state.apps.get(&app) else {
            return Ok(Vec::new());
        };
        let upper = before.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = tenant.dead_letters.range((Bound::Unbounded, upper)).rev();
        let rows = rows.filter(|(_, letter)| letters.matches(letter));
        Ok(rows.take(limit as usize).map(|(_, l)| l.clone()).collect())
    }

    async fn count_dead_letters(
        &self,
        app: AppId,
        letters: &DeadLetterFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let state = self.state.read();
        let tenant = state.apps.get(&app);
        Ok(tenant.map_or(0, |tenant| tenant.letters(letters, limit).len() as u64))
    }

    async fn prune(
        &self,
        app: AppId,
        before: Timestamp,
        keep: u32,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let mut state = self.state.write();
        let Some(tenant) = state.apps.get_mut(&app) else {
            return Ok(0);
        };
        let spare = tenant.dead_letters.len().saturating_sub(keep as usize);
        let oldest = tenant.dead_letters.values().enumerate();
        let gone = oldest.filter(|(at, letter)| *at < spare || letter.dead_at < before);
        let gone: Vec<_> = gone.take(limit as usize).map(|(_, l)| l.id).collect();
        for id in &gone {
            if let Some(letter) = tenant.dead_letters.remove(id) {
                tenant.usage.bytes -= letter.bytes();
            }
        }
        Ok(gone.len() as u64)
    }

    async fn sweep(&self, app: AppId, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut state = self.state.write();
        let Some(tenant) = state.apps.get_mut(&app) else {
            return Ok(0);
        };
        let all = tenant.entries.iter();
        let all =
            all.flat_map(|(collection, keys)| keys.iter().map(move |(k, e)| (collection, k, e)));
        let expired = all
            .filter(|(_, _, entry)| !live(entry, now))
            .take(limit as usize);
        let expired: Vec<_> = expired
            .map(|(collection, key, entry)| {
                let size = size(collection, key, &entry.value);
                (collection.clone(), key.clone(), size)
            })
            .collect();
        for (collection, key, size) in &expired {
            tenant.usage.entries -= 1;
            tenant.usage.bytes -= size;
            if let Some(keys) = tenant.entries.get_mut(collection) {
                keys.remove(key);
                if keys.is_empty() {
                    tenant.entries.remove(collection);
                }
            }
        }
        let swept = expired.len() as u64;
        let left = limit - u32::try_from(swept).unwrap_or(limit);
        Ok(swept + tenant.sweep_answers(now, left))
    }
}
