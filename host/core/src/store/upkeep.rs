//! Periodic removal of old data. Each call is one small step, so that it delays nobody; callers
//! pause between steps.

use super::StoreError;
use crate::{AppId, Timestamp};
use async_trait::async_trait;
use uuid::Uuid;

/// The methods of a store for upkeep.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Removes up to `limit` audit rows whose identities were created before a time, oldest first.
    /// Returns the number removed.
    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Removes up to `limit` audit rows of an app beyond its newest `keep`, oldest first. Returns
    /// the number removed.
    async fn prune_audit_of(&self, app: AppId, keep: u32, limit: u32) -> Result<u64, StoreError>;

    /// Returns freed space to the file system, a little at a time. Returns whether there is more.
    /// Does nothing for a database that does so automatically.
    async fn reclaim_space(&self) -> Result<bool, StoreError>;

    /// Returns up to `limit` deleted apps that still have rows, by identity, after one if given.
    async fn tombstones(&self, after: Option<AppId>, limit: u32) -> Result<Vec<AppId>, StoreError>;

    /// Removes up to `limit` rows of a deleted app, and its tombstone after the last row. Returns
    /// the number of rows, 0 if the app does not exist or was not deleted.
    async fn reap(&self, app: AppId, limit: u32) -> Result<u64, StoreError>;

    /// Records a time that a host trusts, for [`Survey::clock`](super::Survey::clock) of a later
    /// start. A store that has its own clock or is not durable does nothing.
    async fn record_time(&self, now: Timestamp) -> Result<(), StoreError>;
}

/// Returns a lower bound of all version 7 identities that are created at or after a time.
pub fn first_id(at: Timestamp) -> Uuid {
    let ms = u128::try_from(at.0).unwrap_or(0).min((1 << 48) - 1);
    Uuid::from_u128(ms << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_id_sorts_between_adjacent_milliseconds() {
        let before = Timestamp::now();
        let id = Uuid::now_v7();
        assert!(first_id(before) < id);
        assert!(id < first_id(Timestamp::now().plus_ms(1)));
        assert!(first_id(Timestamp(-1)).is_nil());
    }
}
