//! Triggers, deliveries and dead letters.

use super::write::{key_of, size};
use super::{MemoryStore, State, Tenant, live};
use crate::model::{
    AppId, Claim, DeadLetter, Delivery, DueSchedule, Event, Exports, FAILURES_MAX, FOLLOWERS_MAX,
    Failed, Happening, Letters, NewTrigger, Origin, Pause, Place, Queue, Receipt, SchedulePlace,
    Tick, Timestamp, Trigger, TriggerName, Verdict, Watch, chain_of,
};
use crate::store::registry::check_triggers;
use crate::store::{Outbox, StoreError};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use uuid::Uuid;

/// A delivery as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) event: Event,
    pub(super) function: String,
    pub(super) attempts: u32,
    pub(super) replays: u32,
    pub(super) queued_at: Timestamp,
    pub(super) due_at: Option<Timestamp>,
    pub(super) lease: Option<Uuid>,
    pub(super) error: Option<String>,
}

impl Row {
    fn is_due(&self, now: Timestamp) -> bool {
        self.due_at.is_some_and(|at| at <= now)
    }
}

impl Letters {
    /// Whether a letter is meant.
    fn cover(&self, letter: &DeadLetter) -> bool {
        (self.ids.is_empty() || self.ids.contains(&letter.id))
            && self.trigger.as_ref().is_none_or(|t| *t == letter.trigger)
            && self.reason.is_none_or(|reason| reason == letter.reason)
            && self.from.is_none_or(|from| from <= letter.dead_at)
            && self.until.is_none_or(|until| letter.dead_at < until)
    }
}

impl Tenant {
    fn delivery(&self, (trigger, chain, seq): &(TriggerName, i64, i64), row: &Row) -> Delivery {
        let policy = self.triggers.get(trigger).map(|trigger| trigger.policy);
        Delivery {
            place: Place {
                trigger: trigger.clone(),
                chain: *chain,
                seq: *seq,
            },
            event: row.event.clone(),
            function: row.function.clone(),
            policy: policy.unwrap_or_default(),
            attempts: row.attempts,
            replays: row.replays,
            queued_at: row.queued_at,
            due_at: row.due_at,
            leased: row.lease.is_some(),
            error: row.error.clone(),
        }
    }

    pub(super) fn is_paused(&self, trigger: &TriggerName) -> bool {
        let trigger = self.triggers.get(trigger);
        trigger.is_some_and(|trigger| trigger.paused.is_some())
    }

    /// The places of the letters that are meant, oldest first.
    fn letters(&self, letters: &Letters, limit: u32) -> Vec<Uuid> {
        let meant = self.dead_letters.values().filter(|l| letters.cover(l));
        meant.take(limit as usize).map(|letter| letter.id).collect()
    }

    /// Whether the app has room for the triggers of a version that is to be active.
    pub(super) fn check_declared(&self, exports: &Exports) -> Result<(), StoreError> {
        let all = self.triggers.values();
        let of_operators = all.filter(|trigger| trigger.origin == Origin::Operator);
        let declared = exports.triggers.iter().map(|declared| &declared.name);
        let after: BTreeSet<_> = of_operators.map(|t| &t.name).chain(declared).collect();
        check_triggers(self.triggers.len(), after.len())
    }

    /// Takes the triggers of the version that is active now for those of the last.
    pub(super) fn declare(&mut self, exports: &Exports, at: Timestamp) {
        let declared = |name: &TriggerName| exports.triggers.iter().any(|d| d.name == *name);
        self.triggers
            .retain(|name, trigger| trigger.origin == Origin::Operator || declared(name));
        for declaration in &exports.triggers {
            let trigger = self.triggers.entry(declaration.name.clone());
            let trigger = trigger.or_insert_with(|| Trigger::declared(declaration, at));
            if trigger.origin == Origin::Plugin && trigger.watch != declaration.watch {
                trigger.watch = declaration.watch.clone();
                trigger.next_at = None;
            }
        }
        for trigger in self.triggers.values_mut() {
            trigger.failures = 0;
            trigger.paused = trigger.paused.filter(|pause| *pause == Pause::Operator);
        }
    }
}

impl State {
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
    ) -> Result<bool, StoreError> {
        let removed = self.tenant(app)?.triggers.remove(trigger);
        Ok(removed.is_some())
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
        trigger.paused = paused.then_some(Pause::Operator);
        trigger.failures = 0;
        Ok(true)
    }

    pub(super) fn replay(
        &mut self,
        app: AppId,
        letters: &Letters,
        limit: u32,
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut version = self.version;
        let tenant = self.tenant(app)?;
        let ids = tenant.letters(letters, limit);
        for id in &ids {
            let Some(letter) = tenant.dead_letters.remove(id) else {
                continue;
            };
            version += 1;
            tenant.usage.bytes -= letter.bytes();
            tenant.usage.queue(&letter.event.what);
            let replays = letter.replays + 1;
            let (trigger, function) = (letter.trigger, letter.function);
            let seq = version.cast_signed();
            tenant.enqueue(trigger, function, letter.event, seq, at, replays);
        }
        self.version = version;
        Ok(ids.len() as u64)
    }

    pub(super) fn discard(
        &mut self,
        app: AppId,
        letters: &Letters,
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

    /// The rows of a receipt's app, if its lease holds.
    fn leased(&mut self, receipt: &Receipt) -> Option<&mut Tenant> {
        let tenant = self.apps.get_mut(&receipt.app)?;
        tenant.leased(receipt).ok()?;
        Some(tenant)
    }
}

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
                if is_new && row.is_due(now) && !tenant.is_paused(trigger) {
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
        let of_queue = tenant.deliveries.iter();
        let mut due: Vec<_> = of_queue
            .filter(|(key, row)| key.0 == claim.queue.trigger && row.is_due(claim.now))
            .map(|(key, row)| (row.due_at, key.2, key.clone()))
            .collect();
        due.sort();
        due.truncate(claim.limit as usize);
        let mut claimed = Vec::new();
        for (_, _, key) in due {
            if let Some(row) = tenant.deliveries.get_mut(&key) {
                row.attempts += 1;
                row.lease = Some(claim.lease);
                row.due_at = Some(claim.until);
                let row = row.clone();
                claimed.push(tenant.delivery(&key, &row));
            }
        }
        Ok(claimed)
    }

    async fn renew(&self, receipt: &Receipt, until: Timestamp) -> Result<bool, StoreError> {
        let mut state = self.state.write();
        let tenant = state.leased(receipt);
        let row = tenant.and_then(|t| t.deliveries.get_mut(&key_of(&receipt.place)));
        let renewed = row.map(|row| row.due_at = Some(until));
        Ok(renewed.is_some())
    }

    async fn fail(&self, failed: &Failed) -> Result<bool, StoreError> {
        let mut state = self.state.write();
        let place = &failed.receipt.place;
        let Some(tenant) = state.leased(&failed.receipt) else {
            return Ok(false);
        };
        if let (true, Some(trigger)) = (
            failed.deterministic,
            tenant.triggers.get_mut(&place.trigger),
        ) {
            trigger.failures += 1;
            if trigger.failures >= FAILURES_MAX && trigger.paused.is_none() {
                trigger.paused = Some(Pause::Failures);
            }
        }
        match failed.verdict {
            Verdict::RetryAt(at) => {
                if let Some(row) = tenant.deliveries.get_mut(&key_of(place)) {
                    row.lease = None;
                    row.due_at = Some(at);
                    row.error = Some(failed.note().to_owned());
                }
            }
            Verdict::GiveUp(reason) => {
                let Some(row) = tenant.deliveries.remove(&key_of(place)) else {
                    return Ok(false);
                };
                let letter = DeadLetter {
                    id: Uuid::now_v7(),
                    event: row.event,
                    trigger: place.trigger.clone(),
                    function: row.function,
                    reason,
                    error: failed.error.clone(),
                    trace: failed.trace.clone(),
                    plugin: failed.plugin,
                    attempts: row.attempts,
                    replays: row.replays,
                    dead_at: failed.now,
                };
                tenant.usage.give_back(&letter.event.what);
                tenant.usage.bytes += letter.bytes();
                tenant.dead_letters.insert(letter.id, letter);
                tenant.wake(place, failed.now);
            }
        }
        Ok(true)
    }

    async fn deliveries(
        &self,
        app: AppId,
        trigger: Option<&TriggerName>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let state = self.state.read();
        let Some(tenant) = state.apps.get(&app) else {
            return Ok(Vec::new());
        };
        let rows = tenant.deliveries.iter();
        let rows = rows.filter(|(key, _)| trigger.is_none_or(|trigger| key.0 == *trigger));
        let rows = rows.take(limit as usize);
        Ok(rows.map(|(key, row)| tenant.delivery(key, row)).collect())
    }

    async fn schedules(
        &self,
        after: Option<&SchedulePlace>,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<DueSchedule>, StoreError> {
        let state = self.state.read();
        let all = state.apps.iter();
        let all = all.flat_map(|(app, tenant)| tenant.triggers.values().map(|t| (*app, t)));
        let is_due = |trigger: &Trigger| {
            let is_schedule = matches!(trigger.watch, Watch::Schedule(_));
            let is_due = trigger.next_at.is_none_or(|at| at <= now);
            is_schedule && is_due && trigger.paused.is_none()
        };
        let order = |place: &SchedulePlace| {
            let Queue { app, trigger } = &place.queue;
            (place.next_at, *app, trigger.clone())
        };
        let after = after.map(order);
        let due = all.filter(|(_, trigger)| is_due(trigger));
        let due = due.map(|(app, trigger)| DueSchedule {
            place: SchedulePlace {
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

    async fn tick(&self, tick: &Tick) -> Result<bool, StoreError> {
        let mut state = self.state.write();
        let seq = (state.version + 1).cast_signed();
        let Some(tenant) = state.apps.get_mut(&tick.queue.app) else {
            return Ok(false);
        };
        let Some(trigger) = tenant.triggers.get_mut(&tick.queue.trigger) else {
            return Ok(false);
        };
        if trigger.next_at != tick.planned || trigger.paused.is_some() {
            return Ok(false);
        }
        trigger.next_at = tick.next;
        let (name, function) = (trigger.name.clone(), trigger.function.clone());
        let chain = chain_of("");
        let mut outstanding = tenant.deliveries.keys();
        let outstanding = outstanding.any(|key| key.0 == name && key.1 == chain);
        let Some(at) = tick.run.filter(|_| !outstanding) else {
            return Ok(false);
        };
        let event = Event {
            id: Uuid::now_v7(),
            depth: 1,
            followers: FOLLOWERS_MAX,
            at,
            what: Happening::Due,
        };
        tenant.enqueue(name, function, event, seq, tick.now, 0);
        state.version += 1;
        Ok(true)
    }

    async fn dead_letters(
        &self,
        app: AppId,
        letters: &Letters,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let state = self.state.read();
        let Some(tenant) = state.apps.get(&app) else {
            return Ok(Vec::new());
        };
        let upper = before.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = tenant.dead_letters.range((Bound::Unbounded, upper)).rev();
        let rows = rows.filter(|(_, letter)| letters.cover(letter));
        Ok(rows.take(limit as usize).map(|(_, l)| l.clone()).collect())
    }

    async fn count_dead_letters(
        &self,
        app: AppId,
        letters: &Letters,
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
        Ok(expired.len() as u64)
    }
}
