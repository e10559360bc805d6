//! What the properties are written with.

use super::rng::Rng;
use kvasm::model::{
    App, AppId, AppName, Applied, Check, Collection, CursorKey, Entry, Expect, Key, KeyRange,
    ListQuery, Op, Page, Timestamp, Value, Version, WriteBatch,
};
use kvasm::store::{Store, StoreError};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The time of most writes.
pub const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// The limit of values in these tests, in bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// A store to test, and the seed of the test's choices.
#[derive(Clone)]
pub struct Kit {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The seed.
    pub seed: u64,
}

impl Kit {
    /// For a store and a seed.
    pub fn new(store: Arc<dyn Store>, seed: u64) -> Kit {
        Kit { store, seed }
    }

    /// The choices of this test.
    pub fn rng(&self) -> Rng {
        Rng::new(self.seed)
    }

    /// A new app.
    pub async fn app(&self) -> Tenant {
        let app = app(&unique_name());
        self.store.create_app(&app).await.expect("a new app");
        Tenant {
            store: Arc::clone(&self.store),
            id: app.id,
            now: NOW,
        }
    }
}

/// A name that no other test of this process uses.
pub fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("app-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An app of that name, not created yet.
pub fn app(name: &str) -> App {
    App {
        id: AppId::generate(),
        name: AppName::parse(name).expect("a name"),
        created_at: NOW,
        cursor_key: CursorKey::new([7; CursorKey::BYTES]),
    }
}

/// One app of a store, at a time.
#[derive(Clone)]
pub struct Tenant {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The app.
    pub id: AppId,
    /// When its calls take place.
    pub now: Timestamp,
}

impl Tenant {
    /// The same app, `ms` later.
    pub fn later(&self, ms: u64) -> Tenant {
        Tenant {
            now: self.now.plus_ms(ms),
            ..self.clone()
        }
    }

    /// Reads an entry.
    pub async fn get(&self, c: &str, k: &str) -> Option<Entry> {
        self.store
            .get(self.id, &collection(c), &key(k), self.now)
            .await
            .expect("get")
    }

    /// Reads an entry's value.
    pub async fn value(&self, c: &str, k: &str) -> Option<Value> {
        self.get(c, k).await.map(|entry| entry.value)
    }

    /// Asks for an entry.
    pub async fn has(&self, c: &str, k: &str) -> bool {
        self.store
            .has(self.id, &collection(c), &key(k), self.now)
            .await
            .expect("has")
    }

    /// Commits.
    pub async fn try_commit(
        &self,
        checks: Vec<Check>,
        ops: Vec<Op>,
    ) -> Result<Vec<Applied>, StoreError> {
        let batch = WriteBatch {
            app_id: self.id,
            now: self.now,
            checks,
            ops,
        };
        self.store.commit(batch).await
    }

    /// Commits what must succeed.
    pub async fn commit(&self, checks: Vec<Check>, ops: Vec<Op>) -> Vec<Applied> {
        let count = ops.len();
        let applied = self.try_commit(checks, ops).await.expect("commit");
        assert_eq!(applied.len(), count, "one answer for each operation");
        applied
    }

    /// Commits what must fail, and returns the positions of the failed checks.
    pub async fn conflict(&self, checks: Vec<Check>, ops: Vec<Op>) -> Vec<usize> {
        match self.try_commit(checks, ops).await {
            Err(StoreError::Conflict { failed }) => failed,
            other => panic!("a conflict was expected, not {other:?}"),
        }
    }

    /// Sets an entry.
    pub async fn set(&self, c: &str, k: &str, value: Value) -> Version {
        written(self.commit(vec![], vec![set(c, k, value)]).await)
    }

    /// Sets an entry that expires.
    pub async fn set_until(&self, c: &str, k: &str, value: Value, until: Timestamp) -> Version {
        written(
            self.commit(vec![], vec![set_until(c, k, value, until)])
                .await,
        )
    }

    /// Deletes an entry; whether there was one.
    pub async fn delete(&self, c: &str, k: &str) -> bool {
        match self.commit(vec![], vec![delete(c, k)]).await.as_slice() {
            [Applied::Deleted { existed }] => *existed,
            other => panic!("a deletion was answered with {other:?}"),
        }
    }

    /// Reads a page.
    pub async fn page(&self, query: &ListQuery) -> Page {
        self.store
            .list(self.id, query, self.now)
            .await
            .expect("list")
    }

    /// Reads the keys of a whole collection, by pages.
    pub async fn keys(&self, c: &str) -> Vec<String> {
        let mut query = list(c);
        let mut keys = Vec::new();
        loop {
            let page = self.page(&query).await;
            keys.extend(page.entries.iter().map(|(key, _)| key.as_str().to_owned()));
            if !page.more {
                return keys;
            }
            query.range = query
                .range
                .after(&page.entries.last().expect("a key").0, false);
        }
    }
}

/// The version of a batch of one set.
pub fn written(applied: Vec<Applied>) -> Version {
    match applied.as_slice() {
        [Applied::Set(version)] => *version,
        other => panic!("a set was answered with {other:?}"),
    }
}

/// A collection's name.
pub fn collection(name: &str) -> Collection {
    Collection::parse(name).expect("a collection")
}

/// A key.
pub fn key(name: &str) -> Key {
    Key::parse(name).expect("a key")
}

/// A JSON value.
pub fn json(text: &str) -> Value {
    Value::json(text, VALUE_BYTES_MAX).expect("JSON")
}

/// A value of bytes.
pub fn bytes(bytes: impl AsRef<[u8]>) -> Value {
    Value::bytes(bytes.as_ref().to_vec(), VALUE_BYTES_MAX).expect("bytes")
}

/// A set.
pub fn set(c: &str, k: &str, value: Value) -> Op {
    Op::Set {
        collection: collection(c),
        key: key(k),
        value,
        expires_at: None,
    }
}

/// A set that expires.
pub fn set_until(c: &str, k: &str, value: Value, until: Timestamp) -> Op {
    Op::Set {
        collection: collection(c),
        key: key(k),
        value,
        expires_at: Some(until),
    }
}

/// A deletion.
pub fn delete(c: &str, k: &str) -> Op {
    Op::Delete {
        collection: collection(c),
        key: key(k),
    }
}

/// A check.
pub fn check(c: &str, k: &str, expect: Expect) -> Check {
    Check {
        collection: collection(c),
        key: key(k),
        expect,
    }
}

/// A check that there is no entry.
pub fn absent(c: &str, k: &str) -> Check {
    check(c, k, Expect::Absent)
}

/// A check that the entry has a version.
pub fn at_version(c: &str, k: &str, version: Version) -> Check {
    check(c, k, Expect::Version(version))
}

/// A list of all keys of a collection.
pub fn list(c: &str) -> ListQuery {
    ListQuery {
        collection: collection(c),
        range: KeyRange::ALL,
        reverse: false,
        with_values: false,
        limit: 1000,
        bytes_max: VALUE_BYTES_MAX,
    }
}

/// The keys of a page.
pub fn keys_of(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|(key, _)| key.as_str()).collect()
}

/// Asserts that a call found no app.
pub fn assert_app_not_found<T: Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::AppNotFound)),
        "not AppNotFound: {result:?}"
    );
}
