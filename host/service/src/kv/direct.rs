//! The key-value service over a store: access checks, validation, and one batch for each write.

use super::key_locks::{Address, CommitGuard, KeyLocks};
use super::{BATCH_MAX, Kv, List, Listing, broken_store, capability, parts};
use crate::{Caller, CommitListener, OpenSpan, ServiceError};
use async_trait::async_trait;
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{
    Applied, Audit, Batch, Capability, Collection, Commit, Committed, Cursor, DeadLetterFilter,
    Entry, IncrementError, Invalid, Key, Limits, ListQuery, Op, Subject, TimerName, TimerOp,
    Timestamp,
};
use kvasm_metrics::Metrics;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use uuid::Uuid;

/// [`Kv`] over a [`Store`].
pub struct KvService {
    store: Arc<dyn Store>,
    events: Arc<dyn CommitListener>,
    metrics: Metrics,
    locks: Option<(Arc<KeyLocks>, Duration)>,
    page_entries: u32,
    batch_bytes: usize,
    page_bytes: usize,
}

impl KvService {
    /// Creates a service over `store` that notifies `events` of commits.
    pub fn new(
        store: Arc<dyn Store>,
        events: Arc<dyn CommitListener>,
        metrics: Metrics,
        limits: &Limits,
    ) -> KvService {
        KvService {
            metrics,
            locks: None,
            store,
            events,
            page_entries: limits.page_entries,
            batch_bytes: limits.batch_bytes(),
            page_bytes: limits.page_bytes,
        }
    }

    /// Makes commits wait for transactions that hold their keys, up to the time limit of a call.
    pub fn with_key_locks(self, locks: Arc<KeyLocks>, limits: &Limits) -> KvService {
        KvService {
            locks: Some((locks, limits.wall_time)),
            ..self
        }
    }

    /// Waits for transactions that hold keys of a batch. Read-only batches and holders do not
    /// wait.
    async fn pass(&self, caller: &Caller, batch: &Batch) -> Option<CommitGuard> {
        let (locks, at_most) = self.locks.as_ref()?;
        if !locks.are_in_use() || caller.lane().is_some() || batch.ops.is_empty() {
            return None;
        }
        let written = batch.ops.iter().map(Op::address);
        let checked = batch.checks.iter().map(|at| (&at.collection, &at.key));
        let keys = written.chain(checked);
        let keys: BTreeSet<Address> = keys.map(|(c, k)| (c.clone(), k.clone())).collect();
        let passage = locks.enter_commit(caller.app(), &keys);
        // The locks only ensure progress: after the timeout, the commit continues without.
        timeout(*at_most, passage).await.ok().flatten()
    }

    async fn store_commit(
        &self,
        caller: &Caller,
        commit: Commit,
    ) -> Result<Vec<Applied>, StoreError> {
        let app = commit.app_id;
        let timer = first_timer(&commit);
        let _guard = self.pass(caller, &commit.batch).await;
        let mut span = caller.recorder().map(|recorder| {
            let mut span = recorder.start_database("commit");
            // A single operation is not a batch, by the convention.
            if let operations @ 2.. = commit.batch.ops.len() {
                span.set("db.operation.batch.size", operations);
            }
            span
        });
        let committed = self.timed("commit", self.store.commit(commit)).await;
        if let (Some(span), Ok(committed)) = (&mut span, &committed) {
            span.set("kvasm.deliveries", committed.deliveries);
        }
        OpenSpan::finish(span, &committed, StoreError::class);
        let Committed {
            applied,
            deliveries,
        } = committed?;
        if deliveries > 0 {
            self.events.committed(app);
        }
        if let Some(at) = timer {
            self.events.timers_set(at);
        }
        Ok(applied)
    }

    async fn timed<T>(&self, operation: &'static str, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = work.await;
        self.metrics.store(operation, start.elapsed());
        result
    }
}

/// Returns the positions and the entries of increments.
fn incremented(ops: &[Op]) -> Vec<(usize, Address)> {
    let entry = |(at, op): (usize, &Op)| match op {
        Op::Increment {
            collection, key, ..
        } => Some((at, (collection.clone(), key.clone()))),
        Op::Set { .. } | Op::Delete { .. } => None,
    };
    ops.iter().enumerate().filter_map(entry).collect()
}

/// Names the entry of an increment that failed.
fn named(error: StoreError, increments: Vec<(usize, Address)>) -> ServiceError {
    let (at, why) = match error {
        StoreError::NotInteger { at } => (at, IncrementError::NotInteger),
        StoreError::Overflow { at } => (at, IncrementError::Overflow),
        other => return other.into(),
    };
    let mut increments = increments.into_iter();
    match increments.find(|(position, _)| *position == at) {
        Some((_, entry)) => ServiceError::of_increment(why, &entry),
        None => error.into(),
    }
}

/// Returns when the first of the timers that a commit sets is due.
fn first_timer(commit: &Commit) -> Option<Timestamp> {
    let at = |op: &TimerOp| match op {
        TimerOp::Set(timer) => Some(timer.time.at(commit.now)),
        TimerOp::Cancel { .. } => None,
    };
    commit.batch.timers.iter().filter_map(at).min()
}

/// Converts a list request into a query of the store: resolves the cursor and applies the
/// limits.
pub(super) fn list_query(
    caller: &Caller,
    list: &List,
    entries_max: u32,
    bytes_max: usize,
) -> Result<ListQuery, Invalid> {
    let limit = list.limit.unwrap_or(entries_max);
    if !(1..=entries_max).contains(&limit) {
        return Err(Invalid::OutOfRange {
            subject: Subject::PageLimit,
            found: limit.into(),
            min: 1,
            max: entries_max.into(),
        });
    }
    let (collection, range) = (&list.collection, &list.range);
    let range = match &list.cursor {
        None => range.clone(),
        Some(cursor) => {
            let key = cursor.open(caller.cursor_key(), collection, range, list.reverse)?;
            range.clone().after(&key, list.reverse)
        }
    };
    Ok(ListQuery {
        collection: collection.clone(),
        range,
        reverse: list.reverse,
        with_values: list.with_values,
        limit,
        bytes_max,
    })
}

/// Returns the cursor of a list after a page that ends with `last`.
pub(super) fn seal(caller: &Caller, list: &List, last: &Key) -> Cursor {
    let (collection, range) = (&list.collection, &list.range);
    Cursor::seal(caller.cursor_key(), collection, range, list.reverse, last)
}

/// Builds the audit row of an administrator's write: the entry, or the number of entries, but
/// never a value. The caller names the action of several. A batch of checks alone is a read, which has
/// no row.
fn audit_row(caller: &Caller, now: Timestamp, ops: &[Op]) -> Option<Box<Audit>> {
    let (actor, app, many) = caller.audited()?;
    let (action, detail) = match ops {
        [] => return None,
        [op] => {
            let (collection, key) = op.address();
            let action = match op {
                Op::Set { .. } => "kv.set",
                Op::Delete { .. } => "kv.delete",
                Op::Increment { .. } => "kv.increment",
            };
            (
                action,
                json!({ "collection": collection.as_str(), "key": key.as_str() }),
            )
        }
        ops => (*many, json!({ "entries": ops.len() })),
    };
    Some(Box::new(actor.audit(action, Some(app), now, detail)))
}

#[async_trait]
impl Kv for KvService {
    async fn get(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<Option<Entry>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let now = Timestamp::now();
        let get = self.store.get(caller.app(), collection, key, now);
        Ok(self.timed("get", get).await?)
    }

    async fn has(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<bool, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let now = Timestamp::now();
        let has = self.store.has(caller.app(), collection, key, now);
        Ok(self.timed("has", has).await?)
    }

    async fn get_many(
        &self,
        caller: &Caller,
        keys: &[Address],
    ) -> Result<Vec<Option<Entry>>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        Invalid::check_count(Subject::Keys, keys.len(), BATCH_MAX)?;
        let now = Timestamp::now();
        let get = self
            .store
            .get_many(caller.app(), keys, now, self.batch_bytes);
        Ok(self.timed("get_many", get).await?)
    }

    async fn list(&self, caller: &Caller, list: List) -> Result<Listing, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let query = list_query(caller, &list, self.page_entries, self.page_bytes)?;
        let page = self.store.list(caller.app(), &query, Timestamp::now());
        let page = self.timed("list", page).await?;
        let last = page.entries.last().filter(|_| page.more);
        Ok(Listing {
            cursor: last.map(|(key, _)| seal(caller, &list, key)),
            entries: page.entries,
        })
    }

    async fn collections(
        &self,
        caller: &Caller,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let collections = self.store.collections(caller.app(), after, limit);
        Ok(self.timed("collections", collections).await?)
    }

    async fn timer(&self, caller: &Caller, name: &TimerName) -> Result<Option<Uuid>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let timer = self.timed("timer", self.store.timer(caller.app(), name));
        Ok(timer.await?.map(|delivery| delivery.event.id))
    }

    async fn has_dead_letter(&self, caller: &Caller, letter: Uuid) -> Result<bool, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let this = DeadLetterFilter::of(letter);
        let count = self.store.count_dead_letters(caller.app(), &this, 1);
        Ok(self.timed("count_dead_letters", count).await? > 0)
    }

    async fn commit(&self, caller: &Caller, batch: Batch) -> Result<Vec<Applied>, ServiceError> {
        // An answer that the host keeps is not an entry.
        let parts = parts(&batch);
        if parts > 0 || batch.keep.is_none() {
            caller.check_access(capability(&batch, caller.app()))?;
        }
        Invalid::check_count(Subject::Batch, parts, BATCH_MAX)?;
        let now = Timestamp::now();
        let count = batch.results();
        let increments = incremented(&batch.ops);
        let commit = Commit {
            audit: audit_row(caller, now, &batch.ops),
            depth: caller.depth(),
            delivery_budget: caller.followers(),
            trace: caller.trace().cloned(),
            ..Commit::new(caller.app(), now, batch)
        };
        let applied = self.store_commit(caller, commit).await;
        let applied = applied.map_err(|error| named(error, increments))?;
        match applied.len() == count {
            true => Ok(applied),
            false => Err(broken_store()),
        }
    }
}
