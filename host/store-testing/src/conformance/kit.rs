//! Helpers for the properties.

use super::loop_guard::LoopGuard;
use super::rng::Rng;
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{
    App, AppId, AppLimits, AppName, Applied, Audit, Batch, Check, Collection, Commit, CursorKey,
    DELIVERY_BYTES, Digest, ENTRY_BYTES, Entry, Expect, Exports, Key, KeyRange, LeaseToken,
    ListPage, ListQuery, NewPlugin, Op, PluginVersion, Quota, Scope, SecretHash, Timestamp, Token,
    TokenId, Usage, Value, Version,
};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The time of most writes.
pub const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// The limit of values in these tests, in bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// The action of audit rows that are not the subject of a test.
pub const KIT_ACTION: &str = "kit";

/// A store to test, and the seed of the test's choices.
#[derive(Clone)]
pub struct Kit {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The seed.
    pub seed: u64,
}

impl Kit {
    /// Builds a kit from a store and a seed.
    pub fn new(store: Arc<dyn Store>, seed: u64) -> Kit {
        Kit { store, seed }
    }

    /// The random choices of this test.
    pub fn rng(&self) -> Rng {
        Rng::new(self.seed)
    }

    /// A new app.
    pub async fn app(&self) -> Tenant {
        let app = app(&unique_name());
        self.create(&app).await.expect("a new app");
        Tenant {
            store: Arc::clone(&self.store),
            id: app.id,
            name: app.name,
            now: NOW,
        }
    }

    /// Creates an app. Its audit row is ignored by every test.
    pub async fn create(&self, app: &App) -> Result<(), StoreError> {
        let row = audit_row(KIT_ACTION);
        self.store.create_app(app.clone(), row).await
    }

    /// Deletes an app. Returns whether it existed. See [`create`](Kit::create).
    pub async fn delete_app(&self, app: AppId) -> Result<bool, StoreError> {
        self.store.delete_app(app, audit_row(KIT_ACTION)).await
    }
}

/// A name that no other test of this process uses.
pub fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("app-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An app of that name, not yet created.
pub fn app(name: &str) -> App {
    App {
        id: AppId::generate(),
        name: AppName::parse(name).expect("a name"),
        created_at: NOW,
        cursor_key: CursorKey::new([7; CursorKey::BYTES]),
        public: false,
        limits: AppLimits::default(),
        active: None,
        settings: None,
    }
}

/// An audit row without an app or a token, not yet written. It sorts after all earlier ones.
pub fn audit_row(action: &'static str) -> Audit {
    Audit {
        id: AppId::generate().uuid(),
        at: NOW,
        token: None,
        actor: "a test".to_owned(),
        action: action.into(),
        app: None,
        detail: serde_json::json!({}),
        request_id: AppId::generate().uuid(),
    }
}

/// One app of a store, at a fixed time.
#[derive(Clone)]
pub struct Tenant {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The app.
    pub id: AppId,
    /// Its name.
    pub name: AppName,
    /// The time of its calls.
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

    /// Reports whether an entry exists.
    pub async fn has(&self, c: &str, k: &str) -> bool {
        self.store
            .has(self.id, &collection(c), &key(k), self.now)
            .await
            .expect("has")
    }

    /// A write of this app, without an audit row.
    pub fn batch(&self, checks: Vec<Check>, ops: Vec<Op>) -> Commit {
        let batch = Batch {
            checks,
            ops,
            ..Batch::default()
        };
        Commit::new(self.id, self.now, batch)
    }

    /// A batch of this app that acknowledges a delivery.
    pub fn acknowledging(&self, lease: &LeaseToken, checks: Vec<Check>, ops: Vec<Op>) -> Commit {
        let mut commit = self.batch(checks, ops);
        commit.batch.acknowledge = Some(Box::new(lease.clone()));
        commit
    }

    /// Commits a batch.
    pub async fn try_commit(
        &self,
        checks: Vec<Check>,
        ops: Vec<Op>,
    ) -> Result<Vec<Applied>, StoreError> {
        let committed = self.store.commit(self.batch(checks, ops)).await;
        committed.map(|committed| committed.applied)
    }

    /// Commits a batch that must succeed.
    pub async fn commit(&self, checks: Vec<Check>, ops: Vec<Op>) -> Vec<Applied> {
        let count = ops.len();
        let applied = self.try_commit(checks, ops).await.expect("commit");
        assert_eq!(applied.len(), count, "one result for each operation");
        applied
    }

    /// Commits a batch that must fail, and returns the positions of the failed checks.
    pub async fn expect_conflict(&self, checks: Vec<Check>, ops: Vec<Op>) -> Vec<usize> {
        match self.try_commit(checks, ops).await {
            Err(StoreError::Conflict { failed }) => failed,
            other => panic!("expected a conflict, not {other:?}"),
        }
    }

    /// Sets an entry.
    pub async fn set(&self, c: &str, k: &str, value: Value) -> Version {
        set_version(self.commit(vec![], vec![set(c, k, value)]).await)
    }

    /// Sets an entry that expires.
    pub async fn set_until(&self, c: &str, k: &str, value: Value, until: Timestamp) -> Version {
        set_version(
            self.commit(vec![], vec![set_until(c, k, value, until)])
                .await,
        )
    }

    /// Deletes an entry. Returns whether it existed.
    pub async fn delete(&self, c: &str, k: &str) -> bool {
        match self.commit(vec![], vec![delete(c, k)]).await.as_slice() {
            [Applied::Deleted { existed }] => *existed,
            other => panic!("a deletion returned {other:?}"),
        }
    }

    /// Reads a page.
    pub async fn page(&self, query: &ListQuery) -> ListPage {
        self.store
            .list(self.id, query, self.now)
            .await
            .expect("list")
    }

    /// Reads the keys of a whole collection, page by page.
    pub async fn keys(&self, c: &str) -> Vec<String> {
        let mut query = list(c);
        let mut keys = Vec::new();
        let mut rounds = LoopGuard::new();
        loop {
            rounds.next();
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

    /// The app's row.
    pub async fn app_row(&self) -> App {
        let row = self.store.app(&self.name).await.expect("app");
        row.expect("the app exists")
    }

    /// An audit row of this app at its time, not yet written.
    pub fn audit_row(&self, action: &'static str) -> Audit {
        Audit {
            at: self.now,
            app: Some((self.id, self.name.clone())),
            ..audit_row(action)
        }
    }

    /// Deletes the app. Returns whether it existed. See [`Kit::create`].
    pub async fn delete_app(&self) -> Result<bool, StoreError> {
        self.store.delete_app(self.id, audit_row(KIT_ACTION)).await
    }

    /// The app's entries, and the bytes of names and values that it uses, without the fixed
    /// part of each entry and delivery.
    pub async fn usage(&self) -> (u64, u64) {
        let used = self.quota_usage().await;
        let fixed = cost(used.entries, used.deliveries, 0);
        (used.entries, used.bytes - fixed)
    }

    /// The app's usage, as counted against its quota.
    pub async fn quota_usage(&self) -> Usage {
        self.store.usage(self.id).await.expect("usage")
    }

    /// Sets the app's quota and removes all other limits.
    pub async fn set_quota(&self, entries: Option<u64>, bytes: Option<u64>) {
        let limits = AppLimits {
            quota: Quota { entries, bytes },
            ..AppLimits::default()
        };
        let row = self.audit_row("test");
        let set = self.store.set_limits(self.id, limits.into(), None, row);
        assert_eq!(set.await.expect("limits").limits, limits);
    }

    /// Adds a plugin version.
    pub async fn try_add(&self, wasm: &str, activate: bool) -> Result<PluginVersion, StoreError> {
        let plugin = new_plugin(self.id, wasm, activate);
        self.store.add_plugin(plugin, self.audit_row("test")).await
    }

    /// Adds a plugin version, which must not fail, and returns its number.
    pub async fn add(&self, wasm: &str, activate: bool) -> u32 {
        self.try_add(wasm, activate).await.expect("a new version").0
    }

    /// Activates a plugin version.
    pub async fn try_activate(&self, version: u32) -> Result<(), StoreError> {
        let (version, row) = (PluginVersion(version), self.audit_row("test"));
        self.store.activate_plugin(self.id, version, row).await
    }

    /// Activates a plugin version, which must not fail.
    pub async fn activate(&self, version: u32) {
        self.try_activate(version).await.expect("activation");
        assert_eq!(self.active().await, Some(version));
    }

    /// Rolls back to the previous plugin version. Returns its number.
    pub async fn try_roll_back(&self) -> Result<u32, StoreError> {
        let row = self.audit_row("test");
        let back = self.store.roll_back_plugin(self.id, row).await;
        back.map(|version| version.0)
    }

    /// Deletes a plugin version.
    pub async fn try_delete_plugin(&self, version: u32) -> Result<bool, StoreError> {
        let (version, row) = (PluginVersion(version), self.audit_row("test"));
        self.store.delete_plugin(self.id, version, row).await
    }

    /// The number of the active plugin version.
    pub async fn active(&self) -> Option<u32> {
        self.app_row().await.active.map(|active| active.version.0)
    }
}

/// Removes all rows of deleted apps.
pub async fn reap(store: &dyn Store) {
    let mut rounds = LoopGuard::new();
    while reap_step(store, 500).await > 0 {
        rounds.next();
    }
}

/// Removes up to `limit` rows of one deleted app. Returns how many.
pub async fn reap_step(store: &dyn Store, limit: u32) -> u64 {
    match store.tombstones(None, 1).await.expect("graves").first() {
        Some(app) => store.reap(*app, limit).await.expect("reaped"),
        None => 0,
    }
}

/// The usage of entries and deliveries whose names and values have `bytes` bytes in total.
pub const fn cost(entries: u64, deliveries: u64, bytes: u64) -> u64 {
    entries * ENTRY_BYTES + deliveries * DELIVERY_BYTES + bytes
}

/// A token for one app or all, not yet created. It sorts after all earlier ones.
pub fn token(name: &str, app: Option<AppId>) -> Token {
    Token {
        id: TokenId(AppId::generate().uuid()),
        secret_hash: SecretHash([7; 32]),
        name: name.to_owned(),
        scopes: vec![Scope::ScriptRead],
        app,
        created_at: NOW,
        expires_at: None,
        revoked_at: None,
    }
}

/// The token identity with that number.
pub fn token_id(number: u128) -> TokenId {
    let text = format!("{number:032x}").into();
    TokenId(serde_json::from_value(text).expect("a UUID"))
}

/// A new plugin version that exports a function named after the module.
pub fn new_plugin(app: AppId, wasm: &str, activate: bool) -> NewPlugin {
    NewPlugin {
        app,
        digest: digest(wasm),
        wasm: wasm.as_bytes().to_vec().into(),
        exports: Exports {
            functions: vec![wasm.to_owned()],
            ..Exports::default()
        },
        activate,
    }
}

/// The digest of a module in these tests: the module itself. Stores do not verify digests.
pub fn digest(wasm: &str) -> Digest {
    let mut digest = [0; 32];
    digest[..wasm.len()].copy_from_slice(wasm.as_bytes());
    Digest(digest)
}

/// The version written by a batch of one set.
pub fn set_version(applied: Vec<Applied>) -> Version {
    match applied.as_slice() {
        [Applied::Set(version)] => *version,
        other => panic!("a set returned {other:?}"),
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

/// A binary value.
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

/// A check of an entry.
pub fn check(c: &str, k: &str, expect: Expect) -> Check {
    Check {
        collection: collection(c),
        key: key(k),
        expect,
    }
}

/// A check that an entry is absent.
pub fn absent(c: &str, k: &str) -> Check {
    check(c, k, Expect::Absent)
}

/// A check that an entry has this version.
pub fn at_version(c: &str, k: &str, version: Version) -> Check {
    check(c, k, Expect::Version(version))
}

/// A query for all keys of a collection.
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
pub fn keys_of(page: &ListPage) -> Vec<&str> {
    page.entries.iter().map(|(key, _)| key.as_str()).collect()
}

/// Asserts that a call failed because the app does not exist.
pub fn assert_app_not_found<T: Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::AppNotFound)),
        "not AppNotFound: {result:?}"
    );
}
