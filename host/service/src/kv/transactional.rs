//! The key-value service of one run of a transactional function.
//!
//! Reads go to the store, and the version of each entry is recorded. Writes are buffered here,
//! visible to later reads of the same run, until the run has succeeded; then one batch checks
//! the recorded versions and applies the writes. Each key is written once, in its final state.
//!
//! Lists are read from the store as of that moment, merged with this run's own writes. Their
//! results are not checked at commit.

use super::direct::{list_query, seal};
use super::key_locks::Address;
use super::lock_policy::{LockPolicy, PendingCommitGuard};
use super::transaction_timers::timer_ops;
use super::view::{TransactionView, checks, take_bytes};
use super::{BATCH_MAX, Kv, List, Listing, capability, parts};
use crate::{Caller, ServiceError};
use async_trait::async_trait;
use kvasm_core::{
    Applied, Batch, Capability, Collection, Entry, Invalid, JsonText, Key, LeaseToken, Limits,
    ListQuery, Op, Subject, TimerName, Timestamp, Value, Version, increment,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// The writes of a run at one moment.
pub struct WriteSavepoint(TransactionView);

/// One run's view of the store.
pub struct Transaction {
    pub(super) kv: Arc<dyn Kv>,
    page_entries: u32,
    pub(super) batch_bytes: usize,
    pub(super) view: Mutex<TransactionView>,
    pub(super) way: Option<LockPolicy>,
    /// The event of the delivery that the run handles.
    pub(super) event: Option<Uuid>,
}

impl Transaction {
    /// Creates the view of a run over a service.
    pub fn new(kv: Arc<dyn Kv>, limits: &Limits) -> Transaction {
        Transaction {
            kv,
            page_entries: limits.page_entries,
            batch_bytes: limits.batch_bytes(),
            view: Mutex::default(),
            way: None,
            event: None,
        }
    }

    /// Returns the run's writes as they are now.
    pub fn savepoint(&self) -> WriteSavepoint {
        WriteSavepoint(self.view.lock().clone())
    }

    /// Undoes the writes since a savepoint. Reads stay recorded: the guest has observed them. No
    /// provisional version is assigned again.
    pub fn roll_back(&self, WriteSavepoint(to): WriteSavepoint) {
        let mut view = self.view.lock();
        let (read, stale) = (std::mem::take(&mut view.read), view.stale);
        let (follows, writes) = (std::mem::take(&mut view.follows), view.writes);
        *view = TransactionView {
            read,
            follows,
            stale,
            writes,
            ..to
        };
    }

    /// Returns the run's commit, which also acknowledges a delivery if given; `None` if there is
    /// nothing to commit or check.
    ///
    /// # Errors
    /// [`ServiceError::Conflict`] if the run has read two states of one entry.
    pub fn batch(&self, acknowledge: Option<LeaseToken>) -> Result<Option<Batch>, ServiceError> {
        Ok(self.linked_batch(acknowledge)?.map(|(batch, _)| batch))
    }

    /// Like [`batch`](Transaction::batch), for the host. Drop the second value when the commit
    /// has ended.
    pub fn linked_batch(
        &self,
        acknowledge: Option<LeaseToken>,
    ) -> Result<Option<(Batch, Option<PendingCommitGuard>)>, ServiceError> {
        let mut view = self.view.lock();
        if view.stale {
            return Err(ServiceError::Conflict { failed: Vec::new() });
        }
        if view.is_consistent_snapshot() && acknowledge.is_none() {
            return Ok(None);
        }
        let (link, settles) = self.link(&view).unzip();
        let batch = Batch {
            checks: checks(&view.read),
            ops: view.take_ops(),
            timers: timer_ops(&mut view.timers),
            replays: view.take_replays(),
            acknowledge: acknowledge.map(Box::new),
            keep: None,
            link,
        };
        Ok(Some((batch, settles)))
    }

    /// Whether all versions read are still current. If not, a failure of the run may be due to
    /// an inconsistent read.
    ///
    /// # Errors
    /// A store error.
    pub async fn is_current(&self, caller: &Caller) -> Result<bool, ServiceError> {
        let (read, stale) = {
            let view = self.view.lock();
            // Reads from commits in progress are not checked again.
            (view.read.clone(), view.stale || !view.follows.is_empty())
        };
        if stale {
            return Ok(false);
        }
        if read.is_empty() {
            return Ok(true);
        }
        let batch = Batch {
            checks: checks(&read),
            ..Batch::default()
        };
        match self.kv.commit(&caller.without_access_checks(), batch).await {
            Ok(_) => Ok(true),
            Err(ServiceError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the entry as this run sees it.
    pub(super) async fn see(
        &self,
        caller: &Caller,
        at: &Address,
    ) -> Result<Option<Entry>, ServiceError> {
        if let Some(own) = self.view.lock().buffered(at, Timestamp::now()) {
            return Ok(own);
        }
        self.touch(std::iter::once(at)).await;
        self.settle(std::iter::once(at)).await;
        let entry = self.kv.get(caller, &at.0, &at.1).await?;
        let version = entry.as_ref().map(|entry| entry.version);
        self.view.lock().remember(at, version)?;
        self.with_addition(at, entry)
    }

    async fn write(
        &self,
        at: Address,
        value: Option<(Value, Option<Timestamp>)>,
        now: Timestamp,
    ) -> Result<Version, Invalid> {
        self.touch(std::iter::once(&at)).await;
        self.view.lock().write(at, value, now, self.batch_bytes)
    }

    /// Returns the run's buffered writes of several entries, within the size limit of an answer.
    /// Keys may be repeated.
    fn own_many(
        &self,
        keys: &[Address],
        left: &mut usize,
    ) -> Result<Vec<Option<Option<Entry>>>, Invalid> {
        let (view, now) = (self.view.lock(), Timestamp::now());
        let own = |at: &Address| {
            let own = view.buffered(at, now);
            take_bytes(
                left,
                self.batch_bytes,
                own.as_ref().and_then(Option::as_ref),
            )?;
            Ok(own)
        };
        keys.iter().map(own).collect()
    }

    async fn run(&self, caller: &Caller, op: Op) -> Result<Applied, ServiceError> {
        match op {
            Op::Set {
                collection,
                key,
                value,
                expires_at,
            } => {
                let value = Some((value, expires_at));
                let version = self
                    .write((collection, key), value, Timestamp::now())
                    .await?;
                Ok(Applied::Set(version))
            }
            Op::Delete { collection, key } => {
                let existed = self.remove(caller, (collection, key)).await?;
                Ok(Applied::Deleted { existed })
            }
            Op::Increment {
                collection,
                key,
                delta,
            } => {
                let (version, value) = self.sum(caller, (collection, key), delta).await?;
                Ok(Applied::Incremented { version, value })
            }
        }
    }

    /// Counts the entries of a list that the run has deleted, or that have expired in it.
    fn deleted_in(&self, query: &ListQuery) -> u32 {
        let (view, now) = (self.view.lock(), Timestamp::now());
        let is_absent = |entry: &Option<Entry>| {
            let live = entry.as_ref();
            live.is_none_or(|entry| entry.expires_at.is_some_and(|at| at <= now))
        };
        let deleted = view.written.iter().filter(|((collection, key), entry)| {
            *collection == query.collection && query.range.contains(key) && is_absent(entry)
        });
        u32::try_from(deleted.count()).unwrap_or(u32::MAX)
    }

    async fn remove(&self, caller: &Caller, at: Address) -> Result<bool, ServiceError> {
        let existed = self
            .see_value(&caller.without_access_checks(), &at)
            .await?
            .is_some();
        self.write(at, None, Timestamp::now()).await?;
        Ok(existed)
    }

    pub(super) async fn sum(
        &self,
        caller: &Caller,
        at: Address,
        delta: i64,
    ) -> Result<(Version, i64), ServiceError> {
        let before = self.see_value(&caller.without_access_checks(), &at).await?;
        let value = increment(before.as_ref().map(|entry| &entry.value), delta);
        let value = value.map_err(|why| ServiceError::of_increment(why, &at))?;
        let expires_at = before.and_then(|entry| entry.expires_at);
        let text = Value::Json(JsonText::integer(value));
        let mut view = self.view.lock();
        let now = Timestamp::now();
        let version = view.write(at, Some((text, expires_at)), now, self.batch_bytes)?;
        Ok((version, value))
    }

    /// Runs a batch's checks and operations. The caller must undo its changes on an error.
    async fn run_all(&self, caller: &Caller, batch: Batch) -> Result<Vec<Applied>, ServiceError> {
        let (mut failed, results) = (Vec::new(), batch.results());
        for (position, check) in batch.checks.into_iter().enumerate() {
            let at = (check.collection, check.key);
            let found = self.see(&caller.without_access_checks(), &at).await?;
            if !check.expect.holds(found.map(|entry| entry.version)) {
                failed.push(position);
            }
        }
        if !failed.is_empty() {
            return Err(ServiceError::Conflict { failed });
        }
        let mut applied = Vec::with_capacity(results);
        for operation in batch.ops {
            applied.push(self.run(caller, operation).await?);
        }
        for change in batch.timers {
            applied.push(self.change_timer(caller, change).await?);
        }
        for replay in batch.replays {
            applied.push(self.replay(caller, replay).await?);
        }
        Ok(applied)
    }
}

#[async_trait]
impl Kv for Transaction {
    async fn get(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<Option<Entry>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        self.see(caller, &(collection.clone(), key.clone())).await
    }

    async fn get_value(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<Option<Value>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let at = (collection.clone(), key.clone());
        let entry = self.see_value(caller, &at).await?;
        Ok(entry.map(|entry| entry.value))
    }

    async fn get_many(
        &self,
        caller: &Caller,
        keys: &[Address],
    ) -> Result<Vec<Option<Entry>>, ServiceError> {
        Invalid::check_count(Subject::Keys, keys.len(), BATCH_MAX)?;
        for at in self.added_among(keys) {
            self.see(caller, &at).await?;
        }
        let mut left = self.batch_bytes;
        let own = self.own_many(keys, &mut left)?;
        let others = keys.iter().zip(&own).filter(|(_, own)| own.is_none());
        let others: Vec<_> = others.map(|(at, _)| at.clone()).collect();
        self.touch(others.iter()).await;
        self.settle(others.iter()).await;
        let found = self.kv.get_many(caller, &others).await?;
        let mut view = self.view.lock();
        for (at, entry) in others.iter().zip(&found) {
            take_bytes(&mut left, self.batch_bytes, entry.as_ref())?;
            view.remember(at, entry.as_ref().map(|entry| entry.version))?;
        }
        let mut found = found.into_iter();
        let entry = |own: Option<Option<Entry>>| own.or_else(|| found.next()).flatten();
        Ok(own.into_iter().map(entry).collect())
    }

    async fn list(&self, caller: &Caller, list: List) -> Result<Listing, ServiceError> {
        let query = list_query(caller, &list, self.page_entries, usize::MAX)?;
        self.settle_followed().await;
        // More, in place of those that the run has deleted.
        let of_store = List {
            limit: Some(
                self.page_entries
                    .min(query.limit.saturating_add(self.deleted_in(&query))),
            ),
            ..list.clone()
        };
        let page = self.kv.list(caller, of_store).await?;
        let last = page.entries.last().map(|(key, _)| key.clone());
        let mut merged: BTreeMap<Key, Option<Entry>> = page.entries.into_iter().collect();
        let in_page = |key: &Key| match (&page.cursor, &last) {
            // The list continues after the last key of the page.
            (Some(_), Some(last)) if list.reverse => key >= last,
            (Some(_), Some(last)) => key <= last,
            _ => true,
        };
        let now = Timestamp::now();
        let in_list = |(collection, key): &Address| {
            *collection == list.collection && query.range.contains(key) && in_page(key)
        };
        let view = self.view.lock();
        for ((_, key), _) in view.added.iter().filter(|(at, _)| in_list(at)) {
            merged.entry(key.clone()).or_insert(None);
        }
        for ((_, key), entry) in view.written.iter().filter(|(at, _)| in_list(at)) {
            match entry
                .as_ref()
                .filter(|e| e.expires_at.is_none_or(|at| at > now))
            {
                Some(entry) => merged.insert(key.clone(), list.with_values.then(|| entry.clone())),
                None => merged.remove(key),
            };
        }
        let mut entries: Vec<_> = merged.into_iter().collect();
        if list.reverse {
            entries.reverse();
        }
        let cut = entries.len() > query.limit as usize;
        entries.truncate(query.limit as usize);
        // Only now: an addition that fails concerns a list that has its entry.
        let added = view.added.iter().filter(|(at, _)| in_list(at));
        for (at, addition) in added.filter(|_| list.with_values) {
            let place = entries.binary_search_by(|(key, _)| match list.reverse {
                true => at.1.cmp(key),
                false => key.cmp(&at.1),
            });
            if let Some((_, entry)) = place.ok().and_then(|place| entries.get_mut(place)) {
                let sum = addition.apply(entry.as_ref(), now);
                *entry = Some(sum.map_err(|why| ServiceError::of_increment(why, at))?);
            }
        }
        drop(view);
        let cursor = match entries.last().filter(|_| cut) {
            Some((key, _)) => Some(seal(caller, &list, key)),
            None => page.cursor,
        };
        Ok(Listing { entries, cursor })
    }

    async fn collections(
        &self,
        caller: &Caller,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, ServiceError> {
        self.kv.collections(caller, after, limit).await
    }

    async fn timer(&self, caller: &Caller, name: &TimerName) -> Result<Option<Uuid>, ServiceError> {
        self.see_timer(caller, name).await
    }

    async fn has_dead_letter(&self, caller: &Caller, letter: Uuid) -> Result<bool, ServiceError> {
        self.sees_dead_letter(caller, letter).await
    }

    async fn add(&self, caller: &Caller, at: Address, delta: i64) -> Result<(), ServiceError> {
        caller.check_access(Capability::AppKvWrite(caller.app()))?;
        self.add_unseen(caller, at, delta).await
    }

    async fn commit(&self, caller: &Caller, batch: Batch) -> Result<Vec<Applied>, ServiceError> {
        caller.check_access(capability(&batch, caller.app()))?;
        Invalid::check_count(Subject::Batch, parts(&batch), BATCH_MAX)?;
        if batch.results() <= 1 {
            // Nothing to undo: the one operation buffers its write last.
            return self.run_all(caller, batch).await;
        }
        let before = self.savepoint();
        let applied = self.run_all(caller, batch).await;
        if applied.is_err() {
            self.roll_back(before);
        }
        applied
    }
}
