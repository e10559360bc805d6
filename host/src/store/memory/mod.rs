//! A store in memory, for tests and for trying things out.

use super::{Store, StoreError};
use crate::model::{
    App, AppId, AppName, Applied, Check, Collection, Entry, Expect, Key, KeyRange, ListQuery, Op,
    Page, Timestamp, Value, Version, WriteBatch,
};
use async_trait::async_trait;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// Keeps everything in memory. **Not durable**: what it holds is gone with the
/// process. In all else it means the same as the other stores.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    apps: BTreeMap<AppName, App>,
    /// One for each app of `apps`.
    entries: HashMap<AppId, Collections>,
    /// The last version given. One counter for all keys, and it never goes back,
    /// so no key sees a version twice.
    version: u64,
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
        let mut state = self.state.write();
        if state.apps.contains_key(&app.name) || state.entries.contains_key(&app.id) {
            return Err(StoreError::AppExists);
        }
        state.apps.insert(app.name.clone(), app.clone());
        state.entries.insert(app.id, Collections::new());
        Ok(())
    }

    async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError> {
        Ok(self.state.read().apps.get(name).cloned())
    }

    async fn apps(&self, after: Option<&AppName>, limit: u32) -> Result<Vec<App>, StoreError> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state.read();
        let apps = state.apps.range::<AppName, _>((lower, Bound::Unbounded));
        Ok(apps
            .take(limit as usize)
            .map(|(_, app)| app.clone())
            .collect())
    }

    async fn delete_app(&self, app: AppId) -> Result<bool, StoreError> {
        let mut state = self.state.write();
        state.apps.retain(|_, row| row.id != app);
        Ok(state.entries.remove(&app).is_some())
    }

    async fn get(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<Option<Entry>, StoreError> {
        let state = self.state.read();
        let collections = state.entries.get(&app);
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
        let collections = state.entries.get(&app);
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
            .entries
            .get(&app)
            .and_then(|all| all.get(&query.collection));
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
        let Some(collections) = state.entries.get(&app) else {
            return Ok(Vec::new());
        };
        let rest = collections.range::<Collection, _>((lower, Bound::Unbounded));
        let filled = rest.filter(|(_, entries)| !entries.is_empty());
        Ok(filled
            .take(limit as usize)
            .map(|(name, _)| name.clone())
            .collect())
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Vec<Applied>, StoreError> {
        let mut state = self.state.write();
        let State {
            entries, version, ..
        } = &mut *state;
        let collections = entries
            .get_mut(&batch.app_id)
            .ok_or(StoreError::AppNotFound)?;
        let failed = failed_checks(collections, &batch.checks, batch.now);
        if !failed.is_empty() {
            return Err(StoreError::Conflict { failed });
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
