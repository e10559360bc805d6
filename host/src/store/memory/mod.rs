//! A store in memory, for tests and for trying things out.

mod registry;

use super::{Store, StoreError};
use crate::model::{
    App, AppId, AppName, Applied, Audit, Change, Changed, Check, Collection, Digest, Entry, Expect,
    Key, KeyRange, ListQuery, Op, Page, Plugin, PluginVersion, Quota, Resource, Timestamp, Token,
    TokenId, Usage, Value, Version, WriteBatch,
};
use async_trait::async_trait;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use uuid::Uuid;

/// Keeps everything in memory. **Not durable**: what it holds is gone with the
/// process. In all else it means the same as the other stores.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<AppName, AppId>,
    /// One for each app of `names`.
    apps: HashMap<AppId, Tenant>,
    modules: HashMap<Digest, Arc<[u8]>>,
    tokens: BTreeMap<TokenId, Token>,
    audit: BTreeMap<Uuid, Audit>,
    /// The last version given. One counter for all keys, and it never goes back,
    /// so no key sees a version twice.
    version: u64,
}

/// An app and what it owns.
#[derive(Debug)]
struct Tenant {
    app: App,
    entries: Collections,
    usage: Usage,
    plugins: BTreeMap<PluginVersion, Plugin>,
    last_plugin: u32,
}

type Collections = BTreeMap<Collection, BTreeMap<Key, Entry>>;

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }
}

fn live(entry: &Entry, now: Timestamp) -> bool {
    entry.expires_at.is_none_or(|at| at > now)
}

fn find<'a>(
    collections: &'a Collections,
    collection: &Collection,
    key: &Key,
    now: Timestamp,
) -> Option<&'a Entry> {
    let entry = collections.get(collection)?.get(key)?;
    live(entry, now).then_some(entry)
}

#[async_trait]
impl Store for MemoryStore {
    async fn create_app(&self, app: &App) -> Result<(), StoreError> {
        let change = Change::CreateApp(app.clone());
        registry::change(&mut self.state.write(), change, None).map(drop)
    }

    async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError> {
        let state = self.state.read();
        let id = state.names.get(name);
        Ok(id
            .and_then(|id| state.apps.get(id))
            .map(|tenant| tenant.app.clone()))
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

    async fn delete_app(&self, app: AppId) -> Result<bool, StoreError> {
        let changed = registry::change(&mut self.state.write(), Change::DeleteApp(app), None)?;
        Ok(changed == Changed::Done)
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

    async fn list(
        &self,
        app: AppId,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<Page, StoreError> {
        let state = self.state.read();
        let keys = state
            .apps
            .get(&app)
            .and_then(|tenant| tenant.entries.get(&query.collection));
        let (Some(keys), false) = (keys, query.range.is_empty()) else {
            return Ok(Page {
                entries: Vec::new(),
                more: false,
            });
        };
        let in_range = keys
            .range(key_bounds(&query.range))
            .filter(|(_, entry)| live(entry, now));
        Ok(if query.reverse {
            page(in_range.rev(), query)
        } else {
            page(in_range, query)
        })
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

    async fn commit(&self, batch: WriteBatch) -> Result<Vec<Applied>, StoreError> {
        let mut state = self.state.write();
        let State {
            apps,
            version,
            audit,
            ..
        } = &mut *state;
        let tenant = apps.get_mut(&batch.app_id).ok_or(StoreError::AppNotFound)?;
        let failed = failed_checks(&tenant.entries, &batch.checks, batch.now);
        if !failed.is_empty() {
            return Err(StoreError::Conflict { failed });
        }
        tenant.usage = usage_after(tenant, &batch.ops)?;
        let collections = &mut tenant.entries;
        if let Some(row) = batch.audit {
            audit.insert(row.id, *row);
        }
        // From here on nothing can fail, so there is nothing to roll back.
        let apply = |op| match op {
            Op::Set {
                collection,
                key,
                value,
                expires_at,
            } => {
                *version += 1;
                let keys = collections.entry(collection).or_default();
                set(keys, key, value, Version(*version), batch.now, expires_at)
            }
            Op::Delete { collection, key } => delete(collections, &collection, &key, batch.now),
        };
        Ok(batch.ops.into_iter().map(apply).collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn failed_checks(collections: &Collections, checks: &[Check], now: Timestamp) -> Vec<usize> {
    let holds = |check: &Check| {
        let Check {
            collection,
            key,
            expect,
        } = check;
        let expect: Expect = *expect;
        expect.holds(find(collections, collection, key, now).map(|entry| entry.version))
    };
    let failed = checks.iter().enumerate().filter(|(_, check)| !holds(check));
    failed.map(|(position, _)| position).collect()
}

/// What the app uses after the operations, if its quota has room for it. A write
/// that does not add to what is short is always taken.
fn usage_after(tenant: &Tenant, ops: &[Op]) -> Result<Usage, StoreError> {
    let before = tenant.usage;
    let mut after = before;
    // The sizes that the operations so far have left.
    let mut sizes: HashMap<(&Collection, &Key), u64> = HashMap::new();
    for op in ops {
        let (collection, key, size) = match op {
            Op::Set {
                collection,
                key,
                value,
                ..
            } => (collection, key, size(collection, key, value)),
            Op::Delete { collection, key } => (collection, key, 0),
        };
        let stored = tenant
            .entries
            .get(collection)
            .and_then(|keys| keys.get(key));
        let stored = stored.map_or(0, |entry| self::size(collection, key, &entry.value));
        let last = sizes.insert((collection, key), size).unwrap_or(stored);
        after.entries = after.entries + u64::from(size > 0) - u64::from(last > 0);
        after.bytes = after.bytes + size - last;
    }
    let Quota { entries, bytes } = tenant.app.settings.quota;
    let fits = |resource, before, after, limit: Option<u64>| match limit {
        Some(limit) if after > limit && after > before => {
            Err(StoreError::Quota { resource, limit })
        }
        _ => Ok(()),
    };
    fits(Resource::Entries, before.entries, after.entries, entries)?;
    fits(Resource::Bytes, before.bytes, after.bytes, bytes)?;
    Ok(after)
}

/// The bytes of an entry as quotas count them; never 0.
fn size(collection: &Collection, key: &Key, value: &Value) -> u64 {
    (collection.as_str().len() + key.as_str().len() + value.as_bytes().len()) as u64
}

fn set(
    keys: &mut BTreeMap<Key, Entry>,
    key: Key,
    value: Value,
    version: Version,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Applied {
    let before = keys.get(&key).filter(|entry| live(entry, now));
    let created_at = before.map_or(now, |entry| entry.created_at);
    keys.insert(
        key,
        Entry {
            value,
            version,
            created_at,
            updated_at: now,
            expires_at,
        },
    );
    Applied::Set(version)
}

fn delete(
    collections: &mut Collections,
    collection: &Collection,
    key: &Key,
    now: Timestamp,
) -> Applied {
    let Some(keys) = collections.get_mut(collection) else {
        return Applied::Deleted { existed: false };
    };
    let existed = keys.remove(key).is_some_and(|entry| live(&entry, now));
    if keys.is_empty() {
        collections.remove(collection);
    }
    Applied::Deleted { existed }
}

fn key_bounds(range: &KeyRange) -> (Bound<Key>, Bound<Key>) {
    let key = |bound: &Bound<String>| bound.as_ref().map(|text| Key::stored(text.clone()));
    (key(&range.lower), key(&range.upper))
}

/// Takes entries up to the query's limits, and looks one further for `more`.
fn page<'a>(mut rest: impl Iterator<Item = (&'a Key, &'a Entry)>, query: &ListQuery) -> Page {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for (key, entry) in rest.by_ref() {
        bytes += key.as_str().len();
        if query.with_values {
            bytes += entry.value.as_bytes().len();
        }
        entries.push((key.clone(), query.with_values.then(|| entry.clone())));
        if entries.len() >= query.limit as usize || bytes >= query.bytes_max {
            break;
        }
    }
    let more = rest.next().is_some();
    Page { entries, more }
}
