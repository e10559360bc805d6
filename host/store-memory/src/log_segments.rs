//! Logs of apps and records of their calls.

use super::MemoryStore;
use async_trait::async_trait;
use kvasm_core::AppId;
use kvasm_core::store::{LogSegment, LogStore, SegmentKind, SegmentQuery, StoreError};
use std::collections::BTreeMap;
use std::ops::Bound;
use uuid::Uuid;

/// The segments of each kind and app, by last position and identity.
pub(super) type SegmentRows = BTreeMap<(SegmentKind, AppId), BTreeMap<(u64, Uuid), LogSegment>>;

#[async_trait]
impl LogStore for MemoryStore {
    async fn append_log(&self, segment: &LogSegment) -> Result<(), StoreError> {
        let mut logs = self.logs.lock();
        let of_app = logs.entry((segment.kind, segment.app)).or_default();
        let place = (segment.last, segment.id);
        of_app.entry(place).or_insert_with(|| segment.clone());
        Ok(())
    }

    async fn log_segments(
        &self,
        app: AppId,
        query: &SegmentQuery,
    ) -> Result<Vec<LogSegment>, StoreError> {
        let logs = self.logs.lock();
        let Some(of_app) = logs.get(&(query.kind, app)) else {
            return Ok(Vec::new());
        };
        let upper = match query.before {
            Some(before) => Bound::Excluded(before),
            None => Bound::Unbounded,
        };
        let newest_first = of_app.range((Bound::Unbounded, upper)).rev();
        let found = newest_first
            .take_while(|((last, _), _)| *last >= query.from)
            .filter(|(_, segment)| segment.first <= query.to)
            .filter(|(_, segment)| Some(segment.host) != query.not_of);
        let found = found.take(query.limit as usize);
        Ok(found.map(|(_, segment)| segment.clone()).collect())
    }

    async fn prune_log(
        &self,
        app: AppId,
        kind: SegmentKind,
        before: u64,
        bytes_max: u64,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let mut logs = self.logs.lock();
        let Some(of_app) = logs.get_mut(&(kind, app)) else {
            return Ok(0);
        };
        let mut bytes = 0_u64;
        let excess = of_app.iter().rev().filter(|((last, _), segment)| {
            bytes = bytes.saturating_add(segment.body.len() as u64);
            *last < before || bytes > bytes_max
        });
        let mut excess: Vec<_> = excess.map(|(place, _)| *place).collect();
        excess.reverse();
        excess.truncate(limit as usize);
        for place in &excess {
            of_app.remove(place);
        }
        if of_app.is_empty() {
            logs.remove(&(kind, app));
        }
        Ok(excess.len() as u64)
    }

    async fn apps_with_log(
        &self,
        kind: SegmentKind,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, StoreError> {
        let lower = after.map_or(Bound::Unbounded, |app| Bound::Excluded((kind, app)));
        let logs = self.logs.lock();
        let rest = logs.range((lower, Bound::Unbounded));
        let of_kind = rest.filter(|((of, _), _)| *of == kind);
        let apps = of_kind.map(|((_, app), _)| *app);
        Ok(apps.take(limit as usize).collect())
    }
}
