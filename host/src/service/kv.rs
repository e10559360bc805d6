//! The key-value service: the script gate, validation, and one batch to the store.

use super::{Actor, Events, ServiceError};
use crate::metrics::Metrics;
use crate::model::{
    App, AppId, Applied, Audit, Capability, Check, Collection, Cursor, CursorKey, Entry, Expect,
    Invalid, Key, KeyRange, Limits, ListQuery, Op, Principal, Subject, Timestamp, Value, Version,
    WriteBatch,
};
use crate::store::{Store, StoreError};
use async_trait::async_trait;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// On whose behalf a call is made. The host builds it before a guest runs;
/// nothing that a guest says changes it.
#[derive(Debug, Clone)]
pub struct Caller {
    app: AppId,
    cursor_key: CursorKey,
    principal: Option<Principal>,
    /// Whose writes are written down, and the app's name with them.
    audited: Option<Arc<(Actor, App)>>,
}

impl Caller {
    /// A call for `app` by `principal`, or a public call if there is none.
    pub fn new(app: &App, principal: Option<Principal>) -> Caller {
        Caller {
            app: app.id,
            cursor_key: app.cursor_key.clone(),
            principal,
            audited: None,
        }
    }

    /// An administrator's own call. Each write leaves an audit row.
    pub fn administrator(app: &App, actor: &Actor) -> Caller {
        Caller {
            audited: Some(Arc::new((actor.clone(), app.clone()))),
            ..Caller::new(app, Some(actor.principal().clone()))
        }
    }

    /// The app whose rows the call touches.
    pub fn app(&self) -> AppId {
        self.app
    }

    /// The principal; none for a public call.
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// The script gate. With a principal, each call needs its capability.
    /// Without one, the plugin itself is the gate: it chose to do this for the
    /// public. Isolation between apps does not depend on it.
    fn gate(&self, capability: Capability) -> Result<(), ServiceError> {
        match &self.principal {
            None => Ok(()),
            Some(principal) if principal.holds(capability) => Ok(()),
            Some(_) => Err(ServiceError::Denied(capability)),
        }
    }
}

/// A write of one entry.
#[derive(Debug, Clone)]
pub struct Write {
    /// Its collection.
    pub collection: Collection,
    /// Its key.
    pub key: Key,
    /// Its new value.
    pub value: Value,
    /// The entry is absent this many milliseconds from now; at least 1.
    pub ttl_ms: Option<u64>,
    /// What the entry must be like; otherwise nothing is written.
    pub expect: Option<Expect>,
}

/// What is asked of a list.
#[derive(Debug, Clone)]
pub struct List {
    /// The collection.
    pub collection: Collection,
    /// The keys.
    pub range: KeyRange,
    /// Where the page before ended.
    pub cursor: Option<Cursor>,
    /// The most entries, 1 to [`Limits::page_entries`]; by default that.
    pub limit: Option<u32>,
    /// Descending keys.
    pub reverse: bool,
    /// Read the values too.
    pub with_values: bool,
}

impl List {
    /// Every key of a collection, ascending, without values.
    pub fn all(collection: Collection) -> List {
        List {
            collection,
            range: KeyRange::ALL,
            cursor: None,
            limit: None,
            reverse: false,
            with_values: false,
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The keys in order, with their entries if they were asked for.
    pub entries: Vec<(Key, Option<Entry>)>,
    /// Pass it back for the next page; none at the end of the list.
    pub cursor: Option<Cursor>,
}

/// The key-value service as host functions see it.
#[async_trait]
pub trait Kv: Send + Sync {
    /// The entry, if there is one.
    ///
    /// # Errors
    /// [`ServiceError::Denied`], or the store's failure.
    async fn get(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<Option<Entry>, ServiceError>;

    /// Whether there is an entry.
    ///
    /// # Errors
    /// As [`get`](Kv::get).
    async fn has(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<bool, ServiceError>;

    /// A page of a collection.
    ///
    /// # Errors
    /// As [`get`](Kv::get), and [`ServiceError::Invalid`] for a limit out of
    /// range or a cursor of another list.
    async fn list(&self, caller: &Caller, list: List) -> Result<Listing, ServiceError>;

    /// Writes one entry and returns its new version. It is durable then.
    ///
    /// # Errors
    /// As [`get`](Kv::get), [`ServiceError::Conflict`] when the entry is not as
    /// expected, and [`ServiceError::Invalid`] for a time to live of 0.
    async fn set(&self, caller: &Caller, write: Write) -> Result<Version, ServiceError>;

    /// Writes entries together or not at all, for an import. What the writes
    /// expect is not looked at.
    ///
    /// # Errors
    /// As [`set`](Kv::set).
    async fn set_many(&self, caller: &Caller, writes: Vec<Write>) -> Result<(), ServiceError>;

    /// Up to `limit` names of collections in order, after one if given.
    ///
    /// # Errors
    /// As [`get`](Kv::get).
    async fn collections(
        &self,
        caller: &Caller,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, ServiceError>;

    /// Removes an entry; whether there was one.
    ///
    /// # Errors
    /// As [`set`](Kv::set).
    async fn delete(
        &self,
        caller: &Caller,
        collection: Collection,
        key: Key,
        expect: Option<Expect>,
    ) -> Result<bool, ServiceError>;
}

/// [`Kv`] over a [`Store`].
pub struct KvService {
    store: Arc<dyn Store>,
    events: Arc<dyn Events>,
    metrics: Metrics,
    page_entries: u32,
    page_bytes: usize,
}

impl KvService {
    /// A service over `store` that tells `events` of each commit.
    pub fn new(
        store: Arc<dyn Store>,
        events: Arc<dyn Events>,
        metrics: Metrics,
        limits: &Limits,
    ) -> KvService {
        KvService {
            metrics,
            store,
            events,
            page_entries: limits.page_entries,
            page_bytes: limits.page_bytes,
        }
    }

    /// Commits one operation, guarded by what is expected of its entry.
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
            app_id: caller.app,
            now,
            checks: checks.into_iter().collect(),
            audit: audit_row(caller, now, std::slice::from_ref(&op)),
            ops: vec![op],
        };
        match self.commit(batch).await?.as_slice() {
            [applied] => Ok(*applied),
            _ => Err(broken_store()),
        }
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Vec<Applied>, ServiceError> {
        let app = batch.app_id;
        let applied = self.timed("commit", self.store.commit(batch)).await?;
        self.events.committed(app);
        Ok(applied)
    }

    async fn timed<T>(&self, operation: &'static str, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = work.await;
        self.metrics.store(operation, start.elapsed());
        result
    }

    /// The operation of a write, if it is a valid one.
    fn set_op(now: Timestamp, write: Write) -> Result<Op, Invalid> {
        if write.ttl_ms == Some(0) {
            return Err(Invalid::OutOfRange {
                subject: Subject::TimeToLive,
                found: 0,
                min: 1,
                max: u64::MAX,
            });
        }
        Ok(Op::Set {
            collection: write.collection,
            key: write.key,
            value: write.value,
            expires_at: write.ttl_ms.map(|ttl| now.plus_ms(ttl)),
        })
    }
}

/// What is written down of an administrator's write: which entry, or how many,
/// and never a value.
fn audit_row(caller: &Caller, now: Timestamp, ops: &[Op]) -> Option<Box<Audit>> {
    let (actor, app) = &**caller.audited.as_ref()?;
    let (action, detail) = match ops {
        [op] => {
            let (collection, key) = op.address();
            let action = match op {
                Op::Set { .. } => "kv.set",
                Op::Delete { .. } => "kv.delete",
            };
            (
                action,
                json!({ "collection": collection.as_str(), "key": key.as_str() }),
            )
        }
        ops => ("kv.import", json!({ "entries": ops.len() })),
    };
    Some(Box::new(actor.audit(action, Some(app), now, detail)))
}

/// A store answered with something else than it was asked for.
fn broken_store() -> ServiceError {
    ServiceError::Internal(StoreError::Failed(
        "the store did not answer one result for one operation".into(),
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
        caller.gate(Capability::AppKvRead(caller.app))?;
        let now = Timestamp::now();
        let get = self.store.get(caller.app, collection, key, now);
        Ok(self.timed("get", get).await?)
    }

    async fn has(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<bool, ServiceError> {
        caller.gate(Capability::AppKvRead(caller.app))?;
        let now = Timestamp::now();
        let has = self.store.has(caller.app, collection, key, now);
        Ok(self.timed("has", has).await?)
    }

    async fn list(&self, caller: &Caller, list: List) -> Result<Listing, ServiceError> {
        caller.gate(Capability::AppKvRead(caller.app))?;
        let limit = list.limit.unwrap_or(self.page_entries);
        if !(1..=self.page_entries).contains(&limit) {
            return Err(ServiceError::Invalid(Invalid::OutOfRange {
                subject: Subject::PageLimit,
                found: limit.into(),
                min: 1,
                max: self.page_entries.into(),
            }));
        }
        let List {
            collection,
            range,
            reverse,
            ..
        } = list;
        let rest = match &list.cursor {
            None => range.clone(),
            Some(cursor) => {
                let key = cursor.open(&caller.cursor_key, &collection, &range, reverse)?;
                range.clone().after(&key, reverse)
            }
        };
        let query = ListQuery {
            collection,
            range: rest,
            reverse,
            with_values: list.with_values,
            limit,
            bytes_max: self.page_bytes,
        };
        let list = self.store.list(caller.app, &query, Timestamp::now());
        let page = self.timed("list", list).await?;
        let cursor = match page.entries.last() {
            Some((key, _)) if page.more => Some(Cursor::seal(
                &caller.cursor_key,
                &query.collection,
                &range,
                reverse,
                key,
            )),
            _ => None,
        };
        Ok(Listing {
            entries: page.entries,
            cursor,
        })
    }

    async fn set(&self, caller: &Caller, write: Write) -> Result<Version, ServiceError> {
        caller.gate(Capability::AppKvWrite(caller.app))?;
        let now = Timestamp::now();
        let expect = write.expect;
        let op = KvService::set_op(now, write)?;
        match self.write(caller, now, op, expect).await? {
            Applied::Set(version) => Ok(version),
            Applied::Deleted { .. } => Err(broken_store()),
        }
    }

    async fn set_many(&self, caller: &Caller, writes: Vec<Write>) -> Result<(), ServiceError> {
        caller.gate(Capability::AppKvWrite(caller.app))?;
        let now = Timestamp::now();
        let ops = writes
            .into_iter()
            .map(|write| KvService::set_op(now, write));
        let ops = ops.collect::<Result<Vec<_>, _>>()?;
        let batch = WriteBatch {
            app_id: caller.app,
            now,
            checks: Vec::new(),
            audit: audit_row(caller, now, &ops),
            ops,
        };
        self.commit(batch).await.map(drop)
    }

    async fn collections(
        &self,
        caller: &Caller,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, ServiceError> {
        caller.gate(Capability::AppKvRead(caller.app))?;
        let collections = self.store.collections(caller.app, after, limit);
        Ok(self.timed("collections", collections).await?)
    }

    async fn delete(
        &self,
        caller: &Caller,
        collection: Collection,
        key: Key,
        expect: Option<Expect>,
    ) -> Result<bool, ServiceError> {
        caller.gate(Capability::AppKvWrite(caller.app))?;
        let op = Op::Delete { collection, key };
        match self.write(caller, Timestamp::now(), op, expect).await? {
            Applied::Deleted { existed } => Ok(existed),
            Applied::Set(_) => Err(broken_store()),
        }
    }
}
