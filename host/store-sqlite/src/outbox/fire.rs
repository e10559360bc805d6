//! Creation of deliveries from changes.

use super::super::commit::column;
use super::super::error;
use super::super::usage::UsageDelta;
use super::super::writer::WriteTransaction;
use super::triggers::triggers;
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Changes, Collection, Commit, DELIVERY_BYTES, DeliveryTarget, Key, Op, TraceContext,
    TriggerName, Value, Version, Watch, ordering_key_of, share,
};
use rusqlite::types::ToSqlOutput;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// The maximum number of apps whose watchers are cached.
const APPS_MAX: usize = 1_024;

/// A trigger that watches the changes of an app.
struct Watcher {
    trigger: TriggerName,
    target: DeliveryTarget,
    changes: Changes,
}

/// The watchers of apps, each with the generation of the app's triggers at which it was read.
#[derive(Default)]
pub(crate) struct Watchers(HashMap<AppId, (i64, Arc<[Watcher]>)>);

impl Watchers {
    /// Forgets everything: it may have been read in a transaction that was rolled back, and its
    /// generation may be reused.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

/// A change of an entry, to be matched with watchers.
pub(crate) struct Fired<'f> {
    pub(crate) collection: &'f Collection,
    pub(crate) key: &'f Key,
    /// Its new version, or its last one if it was deleted.
    pub(crate) version: Version,
    /// Its new value; `None` if it was deleted.
    pub(crate) value: Option<&'f Value>,
}

/// The key of a delivery that a batch has created.
struct Made {
    trigger: TriggerName,
    chain: i64,
    seq: i64,
}

/// The deliveries that a batch has created so far.
#[derive(Default)]
pub(crate) struct Deliveries(Vec<Made>);

impl Deliveries {
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

/// The fields that all deliveries of a change share.
struct NewEvent {
    id: Uuid,
    followers: u32,
    trace: Option<Vec<u8>>,
}

impl Fired<'_> {
    fn is_for(&self, watcher: &Watcher) -> bool {
        match self.value {
            Some(_) => watcher.changes.on_set(self.collection, self.key),
            None => watcher.changes.on_delete(self.collection, self.key),
        }
    }
}

impl WriteTransaction<'_> {
    /// Returns whether a trigger may match a change of the batch.
    pub(crate) fn watches(&mut self, commit: &Commit) -> Result<bool, StoreError> {
        let Some(watchers) = self.watchers_of(commit.app_id)? else {
            return Ok(false);
        };
        let watched = |op: &Op| {
            let (collection, key) = op.address();
            watchers.iter().any(|watcher| match op {
                Op::Set { .. } | Op::Increment { .. } => watcher.changes.on_set(collection, key),
                Op::Delete { .. } => watcher.changes.on_delete(collection, key),
            })
        };
        Ok(commit.batch.ops.iter().any(watched))
    }

    /// Returns the app's watchers; `None`, without a query, if it never had a trigger.
    fn watchers_of(&mut self, app: AppId) -> Result<Option<Arc<[Watcher]>>, StoreError> {
        let number = self.tally.triggers(app);
        if number == 0 {
            return Ok(None);
        }
        if let Some((of, watchers)) = self.watchers.0.get(&app)
            && *of == number
        {
            return Ok(Some(Arc::clone(watchers)));
        }
        let all = triggers(self.connection, app).map_err(error::store)?;
        let watchers = all.into_iter().filter_map(|trigger| match trigger.watch {
            Watch::Changes(changes) => Some(Watcher {
                trigger: trigger.name,
                target: trigger.target.of_delivery(),
                changes,
            }),
            Watch::Schedule(_) | Watch::Timers => None,
        });
        let watchers: Arc<[Watcher]> = watchers.collect();
        if self.watchers.0.len() >= APPS_MAX {
            self.watchers.forget();
        }
        self.watchers.0.insert(app, (number, Arc::clone(&watchers)));
        Ok(Some(watchers))
    }

    /// Creates the deliveries of a change. Returns their usage.
    ///
    /// # Errors
    /// [`StoreError::Deliveries`] if there are more than the batch may create.
    pub(crate) fn fire(
        &mut self,
        commit: &Commit,
        fired: &Fired<'_>,
        made: &mut Deliveries,
    ) -> Result<UsageDelta, StoreError> {
        let Some(watchers) = self.watchers_of(commit.app_id)? else {
            return Ok(UsageDelta::default());
        };
        let meant: Vec<_> = watchers.iter().filter(|w| fired.is_for(w)).collect();
        if meant.is_empty() {
            return Ok(UsageDelta::default());
        }
        let siblings = u32::try_from(meant.len()).unwrap_or(u32::MAX);
        let limit = commit.deliveries_max();
        if made.count().saturating_add(siblings) > limit {
            return Err(StoreError::Deliveries { limit });
        }
        let event = NewEvent {
            id: Uuid::now_v7(),
            // For a handler, `share_out` sets it once all are created.
            followers: share(commit.shared_budget(), siblings),
            trace: commit.trace.as_ref().map(TraceContext::encode),
        };
        let mut delta = UsageDelta::default();
        for watcher in meant {
            let place = Made {
                trigger: watcher.trigger.clone(),
                chain: ordering_key_of(fired.key.as_str()),
                seq: self.next_version(),
            };
            let size = self.enqueue(commit, watcher, fired, &event, &place)?;
            delta += UsageDelta::queued(size);
            made.0.push(place);
        }
        Ok(delta)
    }

    /// Sets how many deliveries may follow from each delivery that a handler's batch has created.
    pub(crate) fn share_out(&self, commit: &Commit, made: &Deliveries) -> Result<(), StoreError> {
        if commit.depth == 0 || made.0.is_empty() {
            return Ok(());
        }
        let followers = share(commit.shared_budget(), made.count());
        let app = commit.app_id.uuid();
        let mut statement = self
            .connection
            .prepare_cached(
                "UPDATE deliveries SET followers = ?5
                 WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4",
            )
            .map_err(error::store)?;
        for Made {
            trigger,
            chain,
            seq,
        } in &made.0
        {
            let parameters =
                rusqlite::params![app.as_bytes(), trigger.as_str(), chain, seq, followers];
            statement.execute(parameters).map_err(error::store)?;
        }
        Ok(())
    }

    fn enqueue(
        &self,
        commit: &Commit,
        watcher: &Watcher,
        fired: &Fired<'_>,
        event: &NewEvent,
        place: &Made,
    ) -> Result<i64, StoreError> {
        let (collection, key) = (fired.collection.as_str(), fired.key.as_str());
        let value = fired.value.map_or(0, |value| value.as_bytes().len());
        let trace = event.trace.as_ref().map_or(0, Vec::len);
        let size = (collection.len() + key.len() + value + trace) as i64 + DELIVERY_BYTES as i64;
        let kind = if fired.value.is_some() {
            "set"
        } else {
            "delete"
        };
        let app_id = commit.app_id.uuid();
        let values = rusqlite::params![
            app_id.as_bytes(),
            watcher.trigger.as_str(),
            place.chain,
            place.seq,
            commit.now.0,
            watcher.target.column(),
            event.id.as_bytes(),
            commit.depth.saturating_add(1),
            kind,
            collection,
            key,
            fired.version.0.cast_signed(),
            size,
            fired
                .value
                .map(|value| ToSqlOutput::Borrowed(column(value))),
            event.followers,
            event.trace,
        ];
        let insert = self.connection.prepare_cached(ENQUEUE);
        insert
            .and_then(|mut statement| statement.execute(values))
            .map_err(error::store)?;
        Ok(size)
    }
}

/// There is only one writer, so it can tell whether the delivery is the first of its ordering key.
const ENQUEUE: &str = "INSERT INTO deliveries
       (app_id, trigger_name, chain, seq, due_at, queued_at, function, event_id, depth, at, kind,
        collection, key, version, size, value, followers, trace_context)
     VALUES (?1, ?2, ?3, ?4,
       CASE WHEN EXISTS (SELECT 1 FROM deliveries
                         WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3)
            THEN NULL ELSE ?5 END,
       ?5, ?6, ?7, ?8, ?5, ?9, ?10, ?11, ?12, ?13, ?14, ?15,
       ?16)";
