//! The log of changes, for watchers.

use super::{MemoryState, MemoryStore};
use async_trait::async_trait;
use kvasm_core::store::{
    ChangeLog, ChangePage, ChangeRange, ChangeRetention, ChangesHead, LoggedChange, StoreError,
};
use kvasm_core::{AppId, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// The log of one app.
#[derive(Debug)]
pub(super) struct AppChanges {
    start: u64,
    until: Timestamp,
    changes: VecDeque<LoggedChange>,
}

/// The logs that are kept.
pub(super) type ChangeRows = BTreeMap<AppId, AppChanges>;

/// Returns the size of a change, as it counts for retention.
fn size(change: &LoggedChange) -> u64 {
    let value = change.value.as_ref().map_or(0, |v| v.as_bytes().len());
    (change.collection.as_str().len() + change.key.as_str().len() + value) as u64
}

impl AppChanges {
    pub(super) fn push(&mut self, change: LoggedChange) {
        self.changes.push_back(change);
    }

    /// Removes the oldest changes, down to what is retained.
    fn prune(&mut self, before: Timestamp, bytes_max: u64, limit: u32) -> u64 {
        let mut bytes: u64 = self.changes.iter().map(size).sum();
        let mut removed = 0;
        while removed < u64::from(limit)
            && let Some(oldest) = self.changes.front()
            && (oldest.at < before || bytes > bytes_max)
        {
            bytes -= size(oldest);
            self.start = oldest.position;
            self.changes.pop_front();
            removed += 1;
        }
        removed
    }
}

impl MemoryState {
    fn keep_changes(&mut self, app: AppId, until: Timestamp) -> Result<u64, StoreError> {
        if !self.apps.contains_key(&app) {
            return Err(StoreError::AppNotFound);
        }
        // Positions are drawn from the versions.
        let start = self.version;
        let log = self.changes.entry(app).or_insert_with(|| AppChanges {
            start,
            until,
            changes: VecDeque::new(),
        });
        log.until = log.until.max(until);
        Ok(log.start)
    }
}

#[async_trait]
impl ChangeLog for MemoryStore {
    async fn keep_changes(&self, app: AppId, until: Timestamp) -> Result<u64, StoreError> {
        self.state.write().keep_changes(app, until)
    }

    async fn changes_head(&self, after: u64) -> Result<ChangesHead, StoreError> {
        let state = self.state.read();
        let is_new = |log: &&AppChanges| log.changes.back().is_some_and(|c| c.position > after);
        let new = state.changes.iter().filter(|(_, log)| is_new(log));
        Ok(ChangesHead {
            position: state.version,
            apps: new.map(|(app, _)| *app).collect(),
        })
    }

    async fn changes(&self, app: AppId, range: ChangeRange) -> Result<ChangePage, StoreError> {
        let state = self.state.read();
        let Some(log) = state.changes.get(&app) else {
            return Ok(ChangePage::default());
        };
        let mut bytes = 0;
        let first = log.changes.partition_point(|c| c.position <= range.after);
        let rest = log.changes.range(first..);
        let page = rest
            .take_while(|change| change.position <= range.to)
            .take(range.limit as usize)
            .enumerate()
            .take_while(|(at, change)| {
                bytes += size(change);
                *at == 0 || bytes <= range.bytes_max
            });
        Ok(ChangePage {
            start: Some(log.start),
            changes: page.map(|(_, change)| change.clone()).collect(),
        })
    }

    async fn prune_changes(
        &self,
        app: AppId,
        now: Timestamp,
        retain: ChangeRetention,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let mut state = self.state.write();
        let is_live = state.apps.contains_key(&app);
        let Some(log) = state.changes.get_mut(&app) else {
            return Ok(0);
        };
        if is_live && log.until > now {
            let age = i64::try_from(retain.age.as_millis()).unwrap_or(i64::MAX);
            let before = Timestamp(now.0.saturating_sub(age));
            return Ok(log.prune(before, retain.bytes, limit));
        }
        let removed = log.prune(Timestamp(i64::MAX), 0, limit);
        if log.changes.is_empty() {
            state.changes.remove(&app);
        }
        Ok(removed)
    }

    async fn apps_with_changes(
        &self,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, StoreError> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state.read();
        let apps = state.changes.range((lower, Bound::Unbounded));
        Ok(apps.map(|(app, _)| *app).take(limit as usize).collect())
    }
}
