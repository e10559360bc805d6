//! What administrators see and change: apps, plugins, tokens and the audit log.

use super::StoreError;
use crate::model::{
    AppId, Audit, Change, Changed, Digest, Plugin, PluginVersion, Token, TokenId, Usage,
};
use async_trait::async_trait;
use uuid::Uuid;

/// The part of a store that administrators use. Lists are paged: up to `limit`
/// rows after the last one of the page before.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Makes a change and writes its audit row, in one transaction. With
    /// [`Changed::Nothing`] there is no row.
    ///
    /// # Errors
    /// [`StoreError::AppExists`], [`StoreError::AppNotFound`] (not of a deletion),
    /// [`StoreError::PluginNotFound`] of an activation, [`StoreError::PluginActive`]
    /// of a deletion, [`StoreError::NothingToRollBackTo`].
    async fn change(&self, change: Change, audit: Audit) -> Result<Changed, StoreError>;

    /// What an app's entries take; zero for an app that is not there.
    async fn usage(&self, app: AppId) -> Result<Usage, StoreError>;

    /// An app's plugin versions, newest first, below a number if given.
    async fn plugins(
        &self,
        app: AppId,
        before: Option<PluginVersion>,
        limit: u32,
    ) -> Result<Vec<Plugin>, StoreError>;

    /// One plugin version.
    async fn plugin(
        &self,
        app: AppId,
        version: PluginVersion,
    ) -> Result<Option<Plugin>, StoreError>;

    /// A module's bytes.
    async fn module(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError>;

    /// A token, whether it is good or not.
    async fn token(&self, id: TokenId) -> Result<Option<Token>, StoreError>;

    /// The tokens that are bound to an app, or all tokens, in the order of their
    /// identities, after one if given.
    async fn tokens(
        &self,
        app: Option<AppId>,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<Token>, StoreError>;

    /// The audit rows of an app, or all, newest first, below one if given.
    async fn audit(
        &self,
        app: Option<AppId>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Audit>, StoreError>;
}
