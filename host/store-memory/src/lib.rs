//! A store in memory, for tests and experiments.
#![deny(missing_docs)]

mod answers;
mod change_log;
mod commit;
mod entries;
mod hosts;
mod log_segments;
mod outbox;
mod registry;
mod settings;
mod survey;
mod timers;
mod triggers;
mod upkeep;
mod usage;

use async_trait::async_trait;
use bytes::Bytes;
use entries::find;
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{
    AnswerId, App, AppId, AppName, Audit, Collection, Commit, Committed, DeadLetter, Digest, Entry,
    KeptAnswer, Key, KeyId, ListPage, ListQuery, PluginRecord, PluginVersion, TimerName, Timestamp,
    Token, TokenId, Trigger, TriggerName, Usage,
};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use triggers::QueuedDelivery;
use uuid::Uuid;

/// Keeps everything in memory. **Not durable**: its contents are lost when the process ends.
/// Otherwise it behaves like the other stores.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: RwLock<MemoryState>,
    logs: Mutex<log_segments::SegmentRows>,
    hosts: Mutex<hosts::HostRows>,
}

#[derive(Debug, Default)]
struct MemoryState {
    names: BTreeMap<AppName, AppId>,
    /// One for each app of `names`.
    apps: HashMap<AppId, AppData>,
    modules: HashMap<Digest, Bytes>,
    tokens: BTreeMap<TokenId, Token>,
    audit: BTreeMap<Uuid, Audit>,
    /// The identity of the last audit row; nil before the first.
    generation: Uuid,
    /// The key with which secrets are sealed; `None` before the first.
    secrets_key: Option<KeyId>,
    /// The changes that are kept for watchers.
    changes: change_log::ChangeRows,
    /// The last assigned version. One counter for all keys, which never decreases, so no key gets a
    /// version twice.
    version: u64,
}

/// An app with its rows.
#[derive(Debug)]
struct AppData {
    app: App,
    entries: Collections,
    usage: Usage,
    plugins: BTreeMap<PluginVersion, PluginRecord>,
    last_plugin: u32,
    triggers: BTreeMap<TriggerName, Trigger>,
    /// By trigger, ordering key and sequence number, as in the other stores.
    deliveries: BTreeMap<(TriggerName, i64, i64), QueuedDelivery>,
    dead_letters: BTreeMap<Uuid, DeadLetter>,
    answers: BTreeMap<AnswerId, KeptAnswer>,
    /// The deliveries that are timers, by name.
    timers: BTreeMap<TimerName, timers::RowKey>,
    settings: settings::SettingRows,
    grants: settings::GrantRows,
}

type Collections = BTreeMap<Collection, BTreeMap<Key, Entry>>;

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError> {
        let state = self.state.read();
        let id = state.names.get(name);
        Ok(id
            .and_then(|id| state.apps.get(id))
            .map(|tenant| tenant.app.clone()))
    }

    async fn app_by_id(&self, app: AppId) -> Result<Option<App>, StoreError> {
        let state = self.state.read();
        Ok(state.apps.get(&app).map(|tenant| tenant.app.clone()))
    }

    async fn apps(&self, after: Option<&AppName>, limit: u32) -> Result<Vec<App>, StoreError> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state.read();
        let names = state.names.range::<AppName, _>((lower, Bound::Unbounded));
        let apps = names.filter_map(|(_, id)| state.apps.get(id));
        Ok(apps
            .take(limit as usize)
            .map(|tenant| tenant.app.clone())
            .collect())
    }

    async fn get(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<Option<Entry>, StoreError> {
        let state = self.state.read();
        let collections = state.apps.get(&app).map(|tenant| &tenant.entries);
        Ok(collections
            .and_then(|all| find(all, collection, key, now))
            .cloned())
    }

    async fn has(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let state = self.state.read();
        let collections = state.apps.get(&app).map(|tenant| &tenant.entries);
        Ok(collections.is_some_and(|all| find(all, collection, key, now).is_some()))
    }

    async fn get_many(
        &self,
        app: AppId,
        keys: &[(Collection, Key)],
        now: Timestamp,
        bytes_max: usize,
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        let state = self.state.read();
        let collections = state.apps.get(&app).map(|tenant| &tenant.entries);
        let find = |(collection, key): &(Collection, Key)| find(collections?, collection, key, now);
        let found: Vec<_> = keys.iter().map(find).collect();
        let bytes = found.iter().flatten().map(|e| e.value.as_bytes().len());
        if bytes.sum::<usize>() > bytes_max {
            return Err(StoreError::AnswerTooLarge { limit: bytes_max });
        }
        Ok(found.into_iter().map(Option::<&Entry>::cloned).collect())
    }

    async fn list(
        &self,
        app: AppId,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<ListPage, StoreError> {
        let state = self.state.read();
        let collections = state.apps.get(&app).map(|tenant| &tenant.entries);
        Ok(collections.map_or_else(ListPage::default, |all| entries::list(all, query, now)))
    }

    async fn collections(
        &self,
        app: AppId,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, StoreError> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state.read();
        let Some(tenant) = state.apps.get(&app) else {
            return Ok(Vec::new());
        };
        let rest = tenant
            .entries
            .range::<Collection, _>((lower, Bound::Unbounded));
        let filled = rest.filter(|(_, entries)| !entries.is_empty());
        Ok(filled
            .take(limit as usize)
            .map(|(name, _)| name.clone())
            .collect())
    }

    async fn answer(
        &self,
        app: AppId,
        id: AnswerId,
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        let state = self.state.read();
        let tenant = state.apps.get(&app);
        Ok(tenant.and_then(|tenant| tenant.answer(id, now)).cloned())
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        commit::commit(&mut self.state.write(), commit)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
