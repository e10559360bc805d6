//! Commits.

use super::entries::{find, live};
use super::triggers::QueuedDelivery;
use super::usage::{uncount_delivery, usage_after};
use super::{AppData, Collections, MemoryState};
use kvasm_core::store::backend::sum;
use kvasm_core::store::{LoggedChange, StoreError};
use kvasm_core::{
    Applied, Check, Collection, Commit, Committed, DeliveryKey, DeliveryTarget, Entry, Event,
    EventKind, JsonText, Key, LeaseToken, Op, Timestamp, TriggerName, Value, Version, Watch, share,
};
use std::collections::BTreeMap;
use uuid::Uuid;

pub(super) fn commit(state: &mut MemoryState, commit: Commit) -> Result<Committed, StoreError> {
    let MemoryState {
        apps,
        version,
        audit,
        changes: logs,
        ..
    } = state;
    let mut log = logs.get_mut(&commit.app_id);
    let tenant = apps
        .get_mut(&commit.app_id)
        .ok_or(StoreError::AppNotFound)?;
    let kept = commit.batch.keep.as_deref();
    if kept.is_some_and(|answer| tenant.answer(answer.id, commit.now).is_some()) {
        return Err(StoreError::AlreadyAnswered);
    }
    commit.check_replays()?;
    let failed = failed_checks(&tenant.entries, &commit.batch.checks, commit.now);
    if !failed.is_empty() {
        return Err(StoreError::Conflict { failed });
    }
    let mut usage = tenant.usage;
    if let Some(receipt) = &commit.batch.acknowledge {
        uncount_delivery(&mut usage, &tenant.leased(receipt)?.event);
    }
    if let Some(answer) = kept {
        tenant.count_answer(answer, &mut usage)?;
    }
    let (changes, last_version) = plan(tenant, &commit, *version)?;
    let timers = tenant.plan_timers(&commit, &mut usage)?;
    let replays = tenant.plan_replays(&commit, &mut usage)?;
    let usage = usage_after(tenant, &changes, usage)?;

    // From here on nothing can fail, so there is nothing to roll back.
    tenant.usage = usage;
    *version = last_version;
    if let Some(receipt) = &commit.batch.acknowledge {
        tenant.acknowledge(receipt, commit.now);
    }
    if let Some(answer) = commit.batch.keep {
        tenant.answers.insert(answer.id, *answer);
    }
    let set_timers = tenant.apply_timers(timers, version);
    if let Some(row) = commit.audit {
        audit.insert(row.id, *row);
    }
    let mut committed = Committed::default();
    for change in changes {
        committed.deliveries += change.deliveries.len() as u64;
        for (trigger, target, event) in change.deliveries {
            *version += 1;
            let seq = version.cast_signed();
            tenant.enqueue(trigger, target, event, seq, commit.now, 0);
        }
        committed.applied.push(change.applied);
        if let (Some(log), Some(of_version)) = (&mut log, change.logged) {
            *version += 1;
            log.push(LoggedChange {
                position: *version,
                at: commit.now,
                collection: change.collection.clone(),
                key: change.key.clone(),
                version: of_version,
                value: change.after.as_ref().map(|entry| entry.value.clone()),
            });
        }
        apply(
            &mut tenant.entries,
            change.collection,
            change.key,
            change.after,
        );
    }
    committed.applied.extend(set_timers);
    committed.deliveries += replays.letters.len() as u64;
    for id in replays.letters {
        tenant.send_again(id, commit.now, version);
    }
    committed.applied.extend(replays.applied);
    Ok(committed)
}

/// The effect of one operation.
pub(super) struct EntryChange {
    pub(super) collection: Collection,
    pub(super) key: Key,
    pub(super) after: Option<Entry>,
    pub(super) applied: Applied,
    pub(super) deliveries: Vec<(TriggerName, DeliveryTarget, Event)>,
    /// The version of the change, if it is one: the new version, or the last one of a deleted entry.
    logged: Option<Version>,
}

/// Computes the effect of each operation, and the last assigned version.
fn plan(
    tenant: &AppData,
    commit: &Commit,
    mut version: u64,
) -> Result<(Vec<EntryChange>, u64), StoreError> {
    let mut left: BTreeMap<(&Collection, &Key), Option<Entry>> = BTreeMap::new();
    let mut changes = Vec::with_capacity(commit.batch.ops.len());
    let mut deliveries = 0;
    for (at, op) in commit.batch.ops.iter().enumerate() {
        let (collection, key) = op.address();
        let before = match left.get(&(collection, key)) {
            Some(entry) => entry.clone().filter(|entry| live(entry, commit.now)),
            None => find(&tenant.entries, collection, key, commit.now).cloned(),
        };
        let mut next = || {
            version += 1;
            Version(version)
        };
        let (after, applied) = after(op, before.as_ref(), commit.now, at, &mut next)?;
        let what = event_kind(collection, key, before.as_ref(), after.as_ref());
        let version_of = after.as_ref().or(before.as_ref());
        let logged = version_of.map(|entry| entry.version);
        left.insert((collection, key), after.clone());
        let fired = what.map_or_else(Vec::new, |what| tenant.fired(commit, what));
        deliveries += fired.len();
        let limit = commit.deliveries_max();
        if deliveries > limit as usize {
            return Err(StoreError::Deliveries { limit });
        }
        changes.push(EntryChange {
            collection: collection.clone(),
            key: key.clone(),
            after,
            applied,
            deliveries: fired,
            logged,
        });
    }
    share_out(&mut changes, commit, deliveries);
    Ok((changes, version))
}

/// Sets how many deliveries may follow from each delivery.
fn share_out(changes: &mut [EntryChange], commit: &Commit, all: usize) {
    for change in changes {
        let siblings = match commit.depth {
            0 => change.deliveries.len(),
            _ => all,
        };
        let siblings = u32::try_from(siblings).unwrap_or(u32::MAX);
        for (_, _, event) in &mut change.deliveries {
            event.followers = share(commit.shared_budget(), siblings);
        }
    }
}

/// Returns the entry after an operation, and the operation's result.
fn after(
    op: &Op,
    before: Option<&Entry>,
    now: Timestamp,
    at: usize,
    next: &mut impl FnMut() -> Version,
) -> Result<(Option<Entry>, Applied), StoreError> {
    let mut entry = |value, expires_at| Entry {
        value,
        version: next(),
        created_at: before.map_or(now, |entry| entry.created_at),
        updated_at: now,
        expires_at,
    };
    Ok(match op {
        Op::Set {
            value, expires_at, ..
        } => {
            let entry = entry(value.clone(), *expires_at);
            let applied = Applied::Set(entry.version);
            (Some(entry), applied)
        }
        Op::Increment { delta, .. } => {
            let value = sum(before.map(|entry| &entry.value), *delta, at)?;
            let expires_at = before.and_then(|entry| entry.expires_at);
            let entry = entry(Value::Json(JsonText::integer(value)), expires_at);
            let version = entry.version;
            (Some(entry), Applied::Incremented { version, value })
        }
        Op::Delete { .. } => {
            let existed = before.is_some();
            (None, Applied::Deleted { existed })
        }
    })
}

/// Returns the event of an operation.
fn event_kind(
    collection: &Collection,
    key: &Key,
    before: Option<&Entry>,
    after: Option<&Entry>,
) -> Option<EventKind> {
    let (collection, key) = (collection.clone(), key.clone());
    match (before, after) {
        (_, Some(entry)) => Some(EventKind::Set {
            collection,
            key,
            version: entry.version,
            value: entry.value.clone(),
        }),
        (Some(entry), None) => Some(EventKind::Deleted {
            collection,
            key,
            version: entry.version,
        }),
        (None, None) => None,
    }
}

impl AppData {
    /// Returns the deliveries of a change.
    fn fired(&self, commit: &Commit, what: EventKind) -> Vec<(TriggerName, DeliveryTarget, Event)> {
        let event = Event {
            id: Uuid::now_v7(),
            depth: commit.depth + 1,
            followers: 0,
            at: commit.now,
            trace: commit.trace.clone(),
            kind: what,
        };
        let meant = |watch: &Watch| match (watch, &event.kind) {
            (
                Watch::Changes(changes),
                EventKind::Set {
                    collection, key, ..
                },
            ) => changes.on_set(collection, key),
            (
                Watch::Changes(changes),
                EventKind::Deleted {
                    collection, key, ..
                },
            ) => changes.on_delete(collection, key),
            (Watch::Changes(_), EventKind::Due | EventKind::Timer { .. })
            | (Watch::Schedule(_) | Watch::Timers, _) => false,
        };
        let fired = self.triggers.values().filter(|t| meant(&t.watch));
        fired
            .map(|t| (t.name.clone(), t.target.of_delivery(), event.clone()))
            .collect()
    }

    /// Returns the delivery of a lease token whose lease holds.
    pub(super) fn leased(&self, receipt: &LeaseToken) -> Result<&QueuedDelivery, StoreError> {
        let row = self.deliveries.get(&key_of(&receipt.place));
        row.filter(|row| row.lease == Some(receipt.lease))
            .ok_or(StoreError::LeaseLost)
    }

    /// Deletes a delivery after its handler has succeeded.
    fn acknowledge(&mut self, receipt: &LeaseToken, now: Timestamp) {
        self.remove_delivery(&key_of(&receipt.place));
        self.unblock_next(&receipt.place, now);
        if let Some(trigger) = self.triggers.get_mut(&receipt.place.trigger) {
            trigger.standing.succeed();
        }
    }

    /// Makes the next delivery of an ordering key due.
    pub(super) fn unblock_next(&mut self, done: &DeliveryKey, now: Timestamp) {
        let first = (done.trigger.clone(), done.ordering_key, i64::MIN);
        let last = (done.trigger.clone(), done.ordering_key, i64::MAX);
        if let Some((_, row)) = self.deliveries.range_mut(first..=last).next()
            && row.due_at.is_none()
        {
            row.due_at = Some(now);
        }
    }

    /// Queues a delivery, behind those of its ordering key.
    pub(super) fn enqueue(
        &mut self,
        trigger: TriggerName,
        target: DeliveryTarget,
        event: Event,
        seq: i64,
        now: Timestamp,
        replays: u32,
    ) {
        let chain = event.ordering_key();
        let first = (trigger.clone(), chain, i64::MIN);
        let last = (trigger.clone(), chain, i64::MAX);
        let waits = self.deliveries.range(first..=last).next().is_some();
        let row = QueuedDelivery {
            event,
            target,
            attempts: 0,
            replays,
            queued_at: now,
            due_at: (!waits).then_some(now),
            wait_ms: None,
            lease: None,
            error: None,
            series: None,
        };
        self.deliveries.insert((trigger, chain, seq), row);
    }
}

/// Converts a delivery key to a key of the map.
pub(super) fn key_of(place: &DeliveryKey) -> (TriggerName, i64, i64) {
    (place.trigger.clone(), place.ordering_key, place.seq)
}

fn failed_checks(collections: &Collections, checks: &[Check], now: Timestamp) -> Vec<usize> {
    let holds = |check: &Check| {
        let found = find(collections, &check.collection, &check.key, now);
        check.expect.holds(found.map(|entry| entry.version))
    };
    let failed = checks.iter().enumerate().filter(|(_, check)| !holds(check));
    failed.map(|(position, _)| position).collect()
}

fn apply(collections: &mut Collections, collection: Collection, key: Key, after: Option<Entry>) {
    match after {
        Some(entry) => {
            collections
                .entry(collection)
                .or_default()
                .insert(key, entry);
        }
        None => {
            if let Some(keys) = collections.get_mut(&collection) {
                keys.remove(&key);
                if keys.is_empty() {
                    collections.remove(&collection);
                }
            }
        }
    }
}
