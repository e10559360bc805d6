//! The key-value service over a store: access checks, validation, and one batch for each write.

use super::key_locks::{Address, CommitGuard, KeyLocks};
use super::kv::{BATCH_MAX, Batch, Kv, List, Listing, Operation, Write};
use super::{Caller, CommitListener, ServiceError};
use async_trait::async_trait;
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{
    Applied, Audit, Capability, Check, Collection, Committed, Cursor, Entry, Expect, Invalid, Key,
    Limits, ListQuery, Op, Subject, Timestamp, Version, WriteBatch,
};
use kvasm_metrics::Metrics;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

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
    async fn pass(&self, caller: &Caller, batch: &WriteBatch) -> Option<CommitGuard> {
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

    /// Creates an empty batch of this caller.
    fn batch(caller: &Caller, now: Timestamp) -> WriteBatch {
        WriteBatch {
            depth: caller.depth(),
            delivery_budget: caller.followers(),
            ..WriteBatch::new(caller.app(), now)
        }
    }

    /// Commits one operation with its precondition.
    async fn write(
        &self,
        caller: &Caller,
        now: Timestamp,
        op: Op,
        expect: Option<Expect>,
    ) -> Result<Applied, ServiceError> {
        let (collection, key) = op.address();
        let checks = expect.map(|expect| Check {
            collection: collection.clone(),
            key: key.clone(),
            expect,
        });
        let batch = WriteBatch {
            checks: checks.into_iter().collect(),
            audit: audit_row(caller, now, std::slice::from_ref(&op), "kv.commit"),
            ops: vec![op],
            ..KvService::batch(caller, now)
        };
        match self.store_batch(caller, batch).await?.as_slice() {
            [applied] => Ok(*applied),
            _ => Err(broken_store()),
        }
    }

    async fn store_batch(
        &self,
        caller: &Caller,
        batch: WriteBatch,
    ) -> Result<Vec<Applied>, ServiceError> {
        let app = batch.app_id;
        let _passage = self.pass(caller, &batch).await;
        let commit = self.timed("commit", self.store.commit(batch));
        let Committed {
            applied,
            deliveries,
        } = commit.await?;
        if deliveries > 0 {
            self.events.committed(app);
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

/// Returns when an entry with a time to live expires.
pub(super) fn expiry(now: Timestamp, ttl_ms: Option<u64>) -> Result<Option<Timestamp>, Invalid> {
    match ttl_ms {
        None => Ok(None),
        Some(0) => Err(Invalid::OutOfRange {
            subject: Subject::TimeToLive,
            found: 0,
            min: 1,
            max: u64::MAX,
        }),
        Some(ttl) => Ok(Some(now.plus_ms(ttl))),
    }
}

fn set_op(now: Timestamp, write: Write) -> Result<Op, Invalid> {
    Ok(Op::Set {
        collection: write.collection,
        key: write.key,
        value: write.value,
        expires_at: expiry(now, write.ttl_ms)?,
    })
}

fn op(now: Timestamp, operation: Operation) -> Result<Op, Invalid> {
    Ok(match operation {
        Operation::Set {
            collection,
            key,
            value,
            ttl_ms,
        } => Op::Set {
            collection,
            key,
            value,
            expires_at: expiry(now, ttl_ms)?,
        },
        Operation::Delete { collection, key } => Op::Delete { collection, key },
        Operation::Increment {
            collection,
            key,
            delta,
        } => Op::Increment {
            collection,
            key,
            delta,
        },
    })
}

/// Returns an error for more parts than allowed.
pub(super) fn check_count(subject: Subject, found: usize) -> Result<(), Invalid> {
    if found > BATCH_MAX {
        return Err(Invalid::TooMany {
            subject,
            found: found as u64,
            limit: BATCH_MAX as u64,
        });
    }
    Ok(())
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
/// never a value. The action of several is `many`. A batch of checks alone is a read, which has
/// no row.
fn audit_row(
    caller: &Caller,
    now: Timestamp,
    ops: &[Op],
    many: &'static str,
) -> Option<Box<Audit>> {
    let (actor, app) = caller.audited()?;
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
        ops => (many, json!({ "entries": ops.len() })),
    };
    Some(Box::new(actor.audit(action, Some(app), now, detail)))
}

/// The store returned an unexpected result.
fn broken_store() -> ServiceError {
    ServiceError::Internal(StoreError::Failed(
        "the store did not return one result per operation".into(),
    ))
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
        keys: &[(Collection, Key)],
    ) -> Result<Vec<Option<Entry>>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        check_count(Subject::Keys, keys.len())?;
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

    async fn set(&self, caller: &Caller, write: Write) -> Result<Version, ServiceError> {
        caller.check_access(Capability::AppKvWrite(caller.app()))?;
        let now = Timestamp::now();
        let expect = write.expect;
        let op = set_op(now, write)?;
        match self.write(caller, now, op, expect).await? {
            Applied::Set(version) => Ok(version),
            Applied::Deleted { .. } | Applied::Incremented { .. } => Err(broken_store()),
        }
    }

    async fn set_many(&self, caller: &Caller, writes: Vec<Write>) -> Result<(), ServiceError> {
        caller.check_access(Capability::AppKvWrite(caller.app()))?;
        let now = Timestamp::now();
        let ops = writes.into_iter().map(|write| set_op(now, write));
        let ops = ops.collect::<Result<Vec<_>, _>>()?;
        let batch = WriteBatch {
            audit: audit_row(caller, now, &ops, "kv.import"),
            ops,
            ..KvService::batch(caller, now)
        };
        self.store_batch(caller, batch).await.map(drop)
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

    async fn delete(
        &self,
        caller: &Caller,
        collection: Collection,
        key: Key,
        expect: Option<Expect>,
    ) -> Result<bool, ServiceError> {
        caller.check_access(Capability::AppKvWrite(caller.app()))?;
        let op = Op::Delete { collection, key };
        match self.write(caller, Timestamp::now(), op, expect).await? {
            Applied::Deleted { existed } => Ok(existed),
            Applied::Set(_) | Applied::Incremented { .. } => Err(broken_store()),
        }
    }

    async fn increment(
        &self,
        caller: &Caller,
        collection: Collection,
        key: Key,
        delta: i64,
    ) -> Result<(Version, i64), ServiceError> {
        caller.check_access(Capability::AppKvWrite(caller.app()))?;
        let op = Op::Increment {
            collection,
            key,
            delta,
        };
        match self.write(caller, Timestamp::now(), op, None).await? {
            Applied::Incremented { version, value } => Ok((version, value)),
            Applied::Set(_) | Applied::Deleted { .. } => Err(broken_store()),
        }
    }

    async fn commit(&self, caller: &Caller, batch: Batch) -> Result<Vec<Applied>, ServiceError> {
        caller.check_access(batch.needs(caller.app()))?;
        check_count(Subject::Batch, batch.checks.len() + batch.operations.len())?;
        let now = Timestamp::now();
        let ops = batch.operations.into_iter().map(|o| op(now, o));
        let ops = ops.collect::<Result<Vec<_>, _>>()?;
        let count = ops.len();
        let batch = WriteBatch {
            checks: batch.checks,
            audit: audit_row(caller, now, &ops, "kv.commit"),
            ops,
            acknowledge: batch.acknowledge,
            link: batch.link,
            ..KvService::batch(caller, now)
        };
        let applied = self.store_batch(caller, batch).await?;
        match applied.len() == count {
            true => Ok(applied),
            false => Err(broken_store()),
        }
    }
}
