//! Where entries live. One trait, three backends, one conformance suite.
//!
//! A store keeps what it is given and knows nothing of guests, principals or
//! limits on callers. Every call names the app, and a backend leads every
//! statement with it.

mod error;
mod outbox;
mod registry;
mod schema;
mod sum;
mod survey;
mod upkeep;

use crate::{
    App, AppId, AppName, Collection, Committed, Entry, Key, ListQuery, Page, Timestamp, WriteBatch,
};
use async_trait::async_trait;

/// What the stores share, for backends.
pub mod backend {
    pub use super::error::BoxError;
    pub use super::registry::{Effect, check_triggers};
    pub use super::sum::sum;
    pub use super::survey::LETTERS_COUNTED_MAX;
    pub use super::upkeep::first_id;
}

pub use error::StoreError;
pub use outbox::Outbox;
pub use registry::Registry;
pub use schema::{Migrate, Schema, SchemaState};
pub use survey::{AppSurvey, LogSize, StoreClock, StoreSize, Survey};
pub use upkeep::Upkeep;

/// A durable, transactional store of apps and their entries.
///
/// - Reads see every write that was acknowledged before they began.
/// - An entry whose `expires_at` is at or before `now` is absent to every call.
/// - [`commit`](Store::commit) is atomic, and durable when it returns.
/// - Keys compare bytewise.
#[async_trait]
pub trait Store: Registry + Outbox + Upkeep + Survey + Send + Sync + 'static {
    /// The app of that name, if there is one.
    async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError>;

    /// The app of that identity, if there is one.
    async fn app_by_id(&self, app: AppId) -> Result<Option<App>, StoreError>;

    /// Up to `limit` apps in the order of their names, after `after` if given.
    async fn apps(&self, after: Option<&AppName>, limit: u32) -> Result<Vec<App>, StoreError>;

    /// The entry, if there is one.
    async fn get(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<Option<Entry>, StoreError>;

    /// Whether there is an entry, without reading its value.
    async fn has(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Entries in the order of their keys' places in `keys`, all as they were at
    /// one moment. A key may be asked for twice.
    ///
    /// # Errors
    /// [`StoreError::AnswerTooLarge`] when the values are over `bytes_max`
    /// together. They are not read then.
    async fn get_many(
        &self,
        app: AppId,
        keys: &[(Collection, Key)],
        now: Timestamp,
        bytes_max: usize,
    ) -> Result<Vec<Option<Entry>>, StoreError>;

    /// One page of a collection. Its cost does not depend on how far into the
    /// collection it is.
    async fn list(&self, app: AppId, query: &ListQuery, now: Timestamp)
    -> Result<Page, StoreError>;

    /// Up to `limit` names of the app's collections in order, after `after` if
    /// given. A collection whose entries have all expired may be among them. The
    /// cost grows with the collections, not with their entries.
    async fn collections(
        &self,
        app: AppId,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, StoreError>;

    /// Applies a batch as a whole, answers one [`Applied`](crate::Applied)
    /// for each operation, and makes a delivery for each trigger that a change
    /// fires. Writing an entry that then has expired is a change; deleting one that
    /// is absent is none.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] with the failed checks, [`StoreError::LeaseLost`]
    /// if the delivery that it acknowledges is no longer its own,
    /// [`StoreError::NotInteger`] and [`StoreError::Overflow`] of an increment,
    /// [`StoreError::AppNotFound`],
    /// [`StoreError::Quota`] if the app would then use more than before of
    /// something that it has not enough of, [`StoreError::Full`];
    /// after any error nothing of the batch is there, except after
    /// [`StoreError::Unavailable`], when a lost connection can hide a success.
    async fn commit(&self, batch: WriteBatch) -> Result<Committed, StoreError>;

    /// Makes a small write and commits it, to find out whether the store takes writes
    /// now. As costly as any write, so callers limit how often they ask.
    ///
    /// # Errors
    /// Those of a write: [`StoreError::Unavailable`] if the database cannot be
    /// reached, is locked or read-only, [`StoreError::Full`] without room,
    /// [`StoreError::Failed`] otherwise.
    async fn ping(&self) -> Result<(), StoreError>;
}
