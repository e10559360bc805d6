//! The log of an app's changes, for watchers.

use super::StoreError;
use crate::{AppId, Collection, Key, Timestamp, Value, Version};
use async_trait::async_trait;
use std::time::Duration;

/// A change of an entry, as kept in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedChange {
    /// Its position: unique in the store, and increasing with the commits of its key.
    pub position: u64,
    /// When it was committed, by the clock of the host that did. Of a deletion on Postgres, by the
    /// clock of the database.
    pub at: Timestamp,
    /// The collection of the entry.
    pub collection: Collection,
    /// The key of the entry.
    pub key: Key,
    /// The version of the entry: the new one, or the last one if it was deleted.
    pub version: Version,
    /// The new value; `None` if the entry was deleted.
    pub value: Option<Value>,
}

/// What has changed in the store, for apps whose changes are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangesHead {
    /// All changes up to this position are readable: no earlier one will appear.
    pub position: u64,
    /// The apps with changes after the position that was asked for, up to this one.
    pub apps: Vec<AppId>,
}

/// A part of an app's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeRange {
    /// Only changes after this position.
    pub after: u64,
    /// Only changes up to this position, that of a [`ChangesHead`].
    pub to: u64,
    /// Maximum number of changes.
    pub limit: u32,
    /// Maximum size of collections, keys and values, in bytes; the first change is returned in any case.
    pub bytes_max: u64,
}

/// A page of an app's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangePage {
    /// The log has all changes after this position; `None` if no log is kept. If it is after the
    /// start of the range, changes are missing.
    pub start: Option<u64>,
    /// The changes by position.
    pub changes: Vec<LoggedChange>,
}

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeRetention {
    /// The age of the oldest change.
    pub age: Duration,
    /// The size of the collections, keys and values of an app, in bytes.
    pub bytes: u64,
}

/// The methods of a store for watchers of changes. A commit adds its changes to the log of its app,
/// in its own transaction, while that log is kept; other commits pay nothing. A write of an entry
/// is a change, and so is the deletion of one that has not expired; expiry is none.
#[async_trait]
pub trait ChangeLog: Send + Sync {
    /// Keeps the changes of an app until a time, or longer if they are already kept for longer.
    /// Returns the position after which the log is complete. Waits for commits in progress, which
    /// may not know of it yet.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`]; [`StoreError::Unavailable`] also if a commit takes too long.
    async fn keep_changes(&self, app: AppId, until: Timestamp) -> Result<u64, StoreError>;

    /// Returns the position up to which changes are readable, and the apps that have some after
    /// `after`.
    async fn changes_head(&self, after: u64) -> Result<ChangesHead, StoreError>;

    /// Returns changes of an app by position, from one snapshot.
    async fn changes(&self, app: AppId, range: ChangeRange) -> Result<ChangePage, StoreError>;

    /// Removes up to `limit` of an app's changes, the oldest first, beyond what is retained; and all
    /// of them if the log is no longer kept, or the app is deleted. Returns the number removed.
    async fn prune_changes(
        &self,
        app: AppId,
        now: Timestamp,
        retain: ChangeRetention,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Returns up to `limit` apps that have a log, by identity, after one if given. They may have
    /// been deleted.
    async fn apps_with_changes(
        &self,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, StoreError>;
}
