//! Hosts and their minutes.

use super::MemoryStore;
use async_trait::async_trait;
use kvasm_core::Timestamp;
use kvasm_core::store::{
    HostBeat, HostMinute, HostRecord, HostStore, KeptMinutes, MinuteRange, StoreError,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// The hosts, and their minutes by time.
#[derive(Debug, Default)]
pub(super) struct HostRows {
    hosts: HashMap<Uuid, HostRecord>,
    minutes: BTreeMap<(i64, Uuid), HostMinute>,
}

impl HostRows {
    /// The last seen first.
    fn newest(&self) -> Vec<HostRecord> {
        let mut hosts: Vec<_> = self.hosts.values().cloned().collect();
        hosts.sort_by_key(|host| (Reverse(host.seen_at), host.beat.id));
        hosts
    }
}

#[async_trait]
impl HostStore for MemoryStore {
    async fn beat(
        &self,
        host: &HostBeat,
        minutes: &[HostMinute],
        now: Timestamp,
    ) -> Result<Timestamp, StoreError> {
        let mut rows = self.hosts.lock();
        let started_at = rows.hosts.get(&host.id).map_or(now, |row| row.started_at);
        let record = HostRecord {
            beat: host.clone(),
            started_at,
            seen_at: now,
        };
        rows.hosts.insert(host.id, record);
        for minute in minutes {
            rows.minutes.insert((minute.minute, host.id), *minute);
        }
        Ok(now)
    }

    async fn hosts(&self, limit: u32) -> Result<Vec<HostRecord>, StoreError> {
        let mut hosts = self.hosts.lock().newest();
        hosts.truncate(limit as usize);
        Ok(hosts)
    }

    async fn history(&self, range: MinuteRange) -> Result<Vec<HostMinute>, StoreError> {
        let rows = self.hosts.lock();
        let width = range.width.max(1);
        let mut sums: BTreeMap<i64, HostMinute> = BTreeMap::new();
        for ((minute, _), row) in &rows.minutes {
            if *minute < range.from || *minute >= range.to {
                continue;
            }
            let first = minute / width * width;
            let sum = sums.entry(first).or_insert(HostMinute {
                minute: first,
                ..HostMinute::default()
            });
            sum.counts.add(&row.counts);
            sum.gauges = match (sum.gauges, row.gauges) {
                (Some(sum), Some(row)) => Some(sum.max(&row)),
                (sum, row) => sum.or(row),
            };
        }
        Ok(sums.into_values().collect())
    }

    async fn prune_history(&self, kept: KeptMinutes, limit: u32) -> Result<u64, StoreError> {
        let mut rows = self.hosts.lock();
        let rows_max = usize::try_from(kept.rows_max).unwrap_or(usize::MAX);
        let excess = rows.minutes.keys().rev().nth(rows_max);
        let cut = excess.map_or(i64::MIN, |(minute, _)| *minute);
        let is_kept = |minute: i64| minute > cut && minute >= kept.from && minute <= kept.to;
        let old = rows.minutes.keys().filter(|(minute, _)| !is_kept(*minute));
        let old: Vec<_> = old.take(limit as usize).copied().collect();
        for place in &old {
            rows.minutes.remove(place);
        }
        Ok(old.len() as u64)
    }

    async fn prune_hosts(
        &self,
        before: Timestamp,
        after: Timestamp,
        keep: u32,
    ) -> Result<u64, StoreError> {
        let mut rows = self.hosts.lock();
        let newest = rows.newest();
        let old = newest.iter().enumerate().filter(|(place, host)| {
            *place >= keep as usize || host.seen_at < before || host.seen_at > after
        });
        let mut removed = 0;
        for (_, host) in old {
            rows.hosts.remove(&host.beat.id);
            removed += 1;
        }
        Ok(removed)
    }
}
