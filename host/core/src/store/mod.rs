//! Storage of entries: one trait, three backends, one conformance suite.
//!
//! A store knows nothing of guests, principals or limits of callers. Every call names the app, and
//! every statement of a backend names it first.

mod change_log;
mod host_store;
mod log_store;
mod outbox;
mod registry;
mod schema;
mod settings_store;
mod signed;
mod store_error;
mod sum;
mod survey;
mod upkeep;

use crate::{
    AnswerId, App, AppId, AppName, Collection, Commit, Committed, Entry, KeptAnswer, Key, ListPage,
    ListQuery, Timestamp,
};
use async_trait::async_trait;

/// What the stores share, for backends.
pub mod backend {
    pub use super::registry::{Effect, check_triggers};
    pub use super::signed::signed;
    pub use super::store_error::BoxError;
    pub use super::sum::sum;
    pub use super::survey::LETTERS_COUNTED_MAX;
    pub use super::upkeep::first_id;
}

pub use change_log::{
    ChangeLog, ChangePage, ChangeRange, ChangeRetention, ChangesHead, LoggedChange,
};
pub use host_store::{
    DURATION_BUCKETS, HostBeat, HostMinute, HostRecord, HostStore, KeptMinutes, MinuteCounts,
    MinuteRange, StoreGauges,
};
pub use log_store::{LogSegment, LogStore, SegmentKind, SegmentQuery};
pub use outbox::Outbox;
pub use registry::Registry;
pub use schema::{Migrate, Schema, SchemaState};
pub use settings_store::SettingsStore;
pub use store_error::StoreError;
pub use survey::{AppSurvey, LogSize, StoreClock, StoreSize, Survey};
pub use upkeep::Upkeep;

/// A durable, transactional store of apps and their entries.
///
/// - Reads see every write that was acknowledged before they began.
/// - An entry whose `expires_at` is at or before `now` is absent to every call.
/// - [`commit`](Store::commit) is atomic, and durable when it returns.
/// - Keys compare bytewise.
#[async_trait]
pub trait Store:
    Registry
    + SettingsStore
    + Outbox
    + LogStore
    + ChangeLog
    + HostStore
    + Upkeep
    + Survey
    + Send
    + Sync
    + 'static
{
    /// Returns the app with this name, if it exists.
    async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError>;

    /// Returns the app with this identity, if it exists.
    async fn app_by_id(&self, app: AppId) -> Result<Option<App>, StoreError>;

    /// Returns up to `limit` apps by name, after `after` if given.
    async fn apps(&self, after: Option<&AppName>, limit: u32) -> Result<Vec<App>, StoreError>;

    /// Returns the entry, if it exists.
    async fn get(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<Option<Entry>, StoreError>;

    /// Returns whether the entry exists, without reading its value.
    async fn has(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Returns the entries of `keys`, in the same order, from one snapshot. Keys may repeat.
    ///
    /// # Errors
    /// [`StoreError::AnswerTooLarge`] if the values exceed `bytes_max` in total. They are not read
    /// then.
    async fn get_many(
        &self,
        app: AppId,
        keys: &[(Collection, Key)],
        now: Timestamp,
        bytes_max: usize,
    ) -> Result<Vec<Option<Entry>>, StoreError>;

    /// Returns one page of a collection. The cost does not depend on the position of the page.
    async fn list(
        &self,
        app: AppId,
        query: &ListQuery,
        now: Timestamp,
    ) -> Result<ListPage, StoreError>;

    /// Returns up to `limit` names of the app's collections in order, after `after` if given. They
    /// may include a collection whose entries have all expired. The cost grows with the number of
    /// collections, not of entries.
    async fn collections(
        &self,
        app: AppId,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, StoreError>;

    /// Returns a kept answer, if it exists and has not expired.
    async fn answer(
        &self,
        app: AppId,
        id: AnswerId,
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError>;

    /// Applies a batch atomically, returns one [`Applied`](crate::Applied) for each
    /// operation, and creates a delivery for each trigger that a change fires. A write of an entry
    /// that has already expired is a change; a deletion of an absent entry is not.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] with the failed checks; [`StoreError::LeaseLost`] if the lease of
    /// the acknowledged delivery no longer holds; [`StoreError::AlreadyAnswered`] if the answer to
    /// keep exists, which is found out before the checks; [`StoreError::NotInteger`] and
    /// [`StoreError::Overflow`] of an increment; [`StoreError::AppNotFound`]; [`StoreError::Quota`]
    /// if the batch would increase the app's usage of an exhausted resource; [`StoreError::Full`].
    /// After an error nothing of the batch is written, except that [`StoreError::Unavailable`] may
    /// hide a success if the connection was lost.
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError>;

    /// Commits a small write, to check that the store accepts writes. It costs as much as any
    /// write, so callers limit the rate.
    ///
    /// # Errors
    /// Those of a write: [`StoreError::Unavailable`] if the database cannot be reached, is locked
    /// or read-only, [`StoreError::Full`] without space, [`StoreError::Failed`] otherwise.
    async fn ping(&self) -> Result<(), StoreError>;
}
