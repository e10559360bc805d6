//! From a change to the deliveries that it makes.

use super::super::batch::column;
use super::super::error;
use super::super::writer::Transaction;
use super::triggers::triggers;
use crate::model::{
    AppId, Changes, Collection, Key, Op, TriggerName, Value, Version, Watch, WriteBatch, chain_of,
};
use crate::store::StoreError;
use rusqlite::types::ToSqlOutput;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// The most apps whose watchers are kept.
const APPS_MAX: usize = 1_024;

/// Who watches the changes of an app.
struct Watcher {
    trigger: TriggerName,
    function: String,
    changes: Changes,
}

/// The watchers of apps, as of a number that grows with each change of them.
#[derive(Default)]
pub(in crate::store::sqlite) struct Watchers(HashMap<AppId, (i64, Arc<[Watcher]>)>);

impl Watchers {
    /// Forgets all: what was read may have been rolled back, and its number given
    /// again.
    pub(in crate::store::sqlite) fn forget(&mut self) {
        self.0.clear();
    }
}

/// A change of an entry, for those who watch.
pub(in crate::store::sqlite) struct Fired<'f> {
    pub(in crate::store::sqlite) collection: &'f Collection,
    pub(in crate::store::sqlite) key: &'f Key,
    /// The version that it got, or that it had when it was deleted.
    pub(in crate::store::sqlite) version: Version,
    /// The value that it got; none of a deletion.
    pub(in crate::store::sqlite) value: Option<&'f Value>,
}

impl Fired<'_> {
    fn is_for(&self, watcher: &Watcher) -> bool {
        match self.value {
            Some(_) => watcher.changes.on_set(self.collection, self.key),
            None => watcher.changes.on_delete(self.collection, self.key),
        }
    }
}

impl Transaction<'_> {
    /// Whether somebody may hear of what a batch does.
    pub(in crate::store::sqlite) fn watches(
        &mut self,
        batch: &WriteBatch,
    ) -> Result<bool, StoreError> {
        let Some(watchers) = self.watchers_of(batch.app_id)? else {
            return Ok(false);
        };
        let watched = |op: &Op| {
            let (collection, key) = op.address();
            watchers.iter().any(|watcher| match op {
                Op::Set { .. } | Op::Increment { .. } => watcher.changes.on_set(collection, key),
                Op::Delete { .. } => watcher.changes.on_delete(collection, key),
            })
        };
        Ok(batch.ops.iter().any(watched))
    }

    /// The app's watchers; none, without a look, if it never had a trigger.
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
                function: trigger.function,
                changes,
            }),
            Watch::Schedule(_) => None,
        });
        let watchers: Arc<[Watcher]> = watchers.collect();
        if self.watchers.0.len() >= APPS_MAX {
            self.watchers.forget();
        }
        self.watchers.0.insert(app, (number, Arc::clone(&watchers)));
        Ok(Some(watchers))
    }

    /// Makes the deliveries of a change; how many, and the bytes that they take.
    pub(in crate::store::sqlite) fn fire(
        &mut self,
        batch: &WriteBatch,
        fired: &Fired<'_>,
    ) -> Result<(u64, i64), StoreError> {
        let Some(watchers) = self.watchers_of(batch.app_id)? else {
            return Ok((0, 0));
        };
        let (mut deliveries, mut bytes) = (0, 0);
        let event = Uuid::now_v7();
        for watcher in watchers.iter().filter(|watcher| fired.is_for(watcher)) {
            let seq = self.next_version();
            bytes += self.enqueue(batch, watcher, fired, event, seq)?;
            deliveries += 1;
        }
        Ok((deliveries, bytes))
    }

    fn enqueue(
        &self,
        batch: &WriteBatch,
        watcher: &Watcher,
        fired: &Fired<'_>,
        event: Uuid,
        seq: i64,
    ) -> Result<i64, StoreError> {
        let (collection, key) = (fired.collection.as_str(), fired.key.as_str());
        let value = fired.value.map_or(0, |value| value.as_bytes().len());
        let size = (collection.len() + key.len() + value) as i64;
        let kind = if fired.value.is_some() {
            "set"
        } else {
            "delete"
        };
        let app_id = batch.app_id.uuid();
        let values = rusqlite::params![
            app_id.as_bytes(),
            watcher.trigger.as_str(),
            chain_of(key),
            seq,
            batch.now.0,
            watcher.function,
            event.as_bytes(),
            batch.depth.saturating_add(1),
            kind,
            collection,
            key,
            fired.version.0.cast_signed(),
            size,
            fired
                .value
                .map(|value| ToSqlOutput::Borrowed(column(value))),
        ];
        let insert = self.connection.prepare_cached(ENQUEUE);
        insert
            .and_then(|mut statement| statement.execute(values))
            .map_err(error::store)?;
        Ok(size)
    }
}

/// There is one writer, so it knows whether the delivery is the first of its chain.
const ENQUEUE: &str = "INSERT INTO deliveries
       (app_id, trigger_name, chain, seq, due_at, queued_at, function, event_id, depth, at, kind,
        collection, key, version, size, value)
     VALUES (?1, ?2, ?3, ?4,
       CASE WHEN EXISTS (SELECT 1 FROM deliveries
                         WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3)
            THEN NULL ELSE ?5 END,
       ?5, ?6, ?7, ?8, ?5, ?9, ?10, ?11, ?12, ?13, ?14)";
