//! What a store removes and gives back as time goes by. Each call is one small
//! step, so that nobody waits for it; a caller rests between two.

use super::StoreError;
use crate::{AppId, Timestamp};
use async_trait::async_trait;
use uuid::Uuid;

/// The part of a store that upkeep uses.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Removes up to `limit` audit rows whose identities were made before a time,
    /// the oldest first; how many.
    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Removes up to `limit` audit rows of an app that are older than its newest
    /// `keep`, the oldest first; how many.
    async fn prune_audit_of(&self, app: AppId, keep: u32, limit: u32) -> Result<u64, StoreError>;

    /// Gives space back to the file system that removed rows have left, a little at
    /// a time; whether there is more to give. A database that does so automatically
    /// has nothing to do.
    async fn give_back(&self) -> Result<bool, StoreError>;

    /// Up to `limit` apps that were deleted and whose rows are not all removed yet, in
    /// the order of their identities, after one if given.
    async fn graves(&self, after: Option<AppId>, limit: u32) -> Result<Vec<AppId>, StoreError>;

    /// Removes up to `limit` rows of an app that was deleted, and the app when it has
    /// no more; how many. 0 if nothing is left of it, or it was not deleted.
    async fn reap(&self, app: AppId, limit: u32) -> Result<u64, StoreError>;

    /// Keeps a time that a host trusts, for [`Survey::clock`](super::Survey::clock) of a
    /// later start. A store with a clock of its own, or that keeps nothing, does nothing.
    async fn note_time(&self, now: Timestamp) -> Result<(), StoreError>;
}

/// Below each identity of version 7 that is made at a time or later.
pub fn first_id(at: Timestamp) -> Uuid {
    let ms = u128::try_from(at.0).unwrap_or(0).min((1 << 48) - 1);
    Uuid::from_u128(ms << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_after_their_time_and_before_the_next() {
        let before = Timestamp::now();
        let id = Uuid::now_v7();
        assert!(first_id(before) < id);
        assert!(id < first_id(Timestamp::now().plus_ms(1)));
        assert!(first_id(Timestamp(-1)).is_nil());
    }
}
