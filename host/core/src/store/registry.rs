//! What administrators see and change: apps, plugins, tokens and the audit log.

use super::StoreError;
use crate::{
    App, AppId, AppLimits, Audit, Digest, Generation, Letters, LimitsPatch, NewPlugin, NewTrigger,
    Outstanding, Plugin, PluginVersion, TRIGGERS_MAX, Token, TokenId, Trigger, TriggerDeletion,
    TriggerName, Usage,
};
use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

/// The part of a store that administrators use. Lists are paged: up to `limit`
/// rows after the last one of the page before.
///
/// What takes an [`Audit`] is an operation. It writes the columns that it is about
/// and no others, and takes effect in one transaction with that row, so neither is
/// there without the other. One that changes nothing (it returns `false` or 0) or
/// fails leaves no row. With its row it becomes the [`generation`](Registry::generation),
/// in the same transaction.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Adds an app.
    ///
    /// # Errors
    /// [`StoreError::AppExists`] if the name is taken.
    async fn create_app(&self, app: App, audit: Audit) -> Result<(), StoreError>;

    /// Says whether an app takes calls without a token. Returns the app as it is
    /// then.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn set_public(&self, app: AppId, public: bool, audit: Audit) -> Result<App, StoreError>;

    /// Changes some of an app's limits, if they are as expected. Returns the app as
    /// it is then. Numbers above `i64::MAX` are kept as that.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`]; [`StoreError::LimitsChanged`] if limits are
    /// expected and the app has others.
    async fn set_limits(
        &self,
        app: AppId,
        patch: LimitsPatch,
        expected: Option<AppLimits>,
        audit: Audit,
    ) -> Result<App, StoreError>;

    /// Removes an app and everything it owns, its tokens too; whether there was
    /// one.
    async fn delete_app(&self, app: AppId, audit: Audit) -> Result<bool, StoreError>;

    /// Adds a plugin version, with the next number, which it returns.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`]; [`StoreError::Quota`] if the app has
    /// [`VERSIONS_MAX`](crate::VERSIONS_MAX) versions, or would have more than
    /// [`VERSION_BYTES_MAX`](crate::VERSION_BYTES_MAX) bytes of modules; of one that becomes active those of
    /// [`activate_plugin`](Registry::activate_plugin).
    async fn add_plugin(
        &self,
        plugin: NewPlugin,
        audit: Audit,
    ) -> Result<PluginVersion, StoreError>;

    /// Makes a version the active one, with the triggers that it declares.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`], [`StoreError::PluginNotFound`],
    /// [`StoreError::TooManyTriggers`].
    async fn activate_plugin(
        &self,
        app: AppId,
        version: PluginVersion,
        audit: Audit,
    ) -> Result<(), StoreError>;

    /// Makes the version active that the active one replaced, and returns it.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`], [`StoreError::NothingToRollBackTo`],
    /// [`StoreError::TooManyTriggers`].
    async fn roll_back_plugin(&self, app: AppId, audit: Audit)
    -> Result<PluginVersion, StoreError>;

    /// Removes a version that is not active, and its module if no other version
    /// has it; whether there was one.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`], [`StoreError::PluginActive`].
    async fn delete_plugin(
        &self,
        app: AppId,
        version: PluginVersion,
        audit: Audit,
    ) -> Result<bool, StoreError>;

    /// Adds a token. One whose identity is taken is not added; whether it was.
    ///
    /// An app has at most [`TOKENS_MAX`](crate::TOKENS_MAX) tokens. If it would
    /// have more, those of its tokens that are revoked, or expired by the time of the
    /// audit row, are removed first.
    ///
    /// # Errors
    /// Of the app that it is bound to: [`StoreError::AppNotFound`],
    /// [`StoreError::Quota`].
    async fn create_token(&self, token: Token, audit: Audit) -> Result<bool, StoreError>;

    /// Revokes a token, which must be bound to `app` if one is given; whether there
    /// was one that was not revoked.
    ///
    /// # Errors
    /// [`StoreError::LastAdmin`] for the last token that
    /// [administers](Token::administers) the instance at the time of the audit row.
    async fn revoke_token(
        &self,
        app: Option<AppId>,
        token: TokenId,
        audit: Audit,
    ) -> Result<bool, StoreError>;

    /// Makes an operator's trigger, or puts it in the place of the one of its name.
    /// It is not paused then and has no failures. When the one before was made
    /// stays, and when it is due next if the schedule is the same.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`], [`StoreError::TooManyTriggers`].
    async fn set_trigger(
        &self,
        app: AppId,
        trigger: NewTrigger,
        audit: Audit,
    ) -> Result<Trigger, StoreError>;

    /// Removes a trigger. Deliveries that it has made stay; if they must not, and there
    /// are some, nothing happens and no audit row is written.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn delete_trigger(
        &self,
        app: AppId,
        trigger: TriggerName,
        must_be_idle: bool,
        audit: Audit,
    ) -> Result<TriggerDeletion, StoreError>;

    /// Removes up to `limit` outstanding deliveries of an app, in the order of triggers
    /// and keys, and lets those behind them go on; how many. A handler that runs one
    /// of them cannot commit.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn discard_deliveries(
        &self,
        app: AppId,
        which: Outstanding,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError>;

    /// Lets a trigger's deliveries wait, or go on, and counts its failures from 0;
    /// whether there is the trigger.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn pause_trigger(
        &self,
        app: AppId,
        trigger: TriggerName,
        paused: bool,
        audit: Audit,
    ) -> Result<bool, StoreError>;

    /// Makes deliveries of up to `limit` dead letters again, the oldest first, and
    /// removes the letters; how many.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn replay(
        &self,
        app: AppId,
        letters: Letters,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError>;

    /// Removes up to `limit` dead letters, the oldest first; how many.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn discard(
        &self,
        app: AppId,
        letters: Letters,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError>;

    /// The last operation that has taken effect; nil before the first.
    ///
    /// Who reads it, then a row, and later the same generation again, knows that the
    /// row is as it was when the last read began.
    async fn generation(&self) -> Result<Generation, StoreError>;

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

    /// A module's bytes, if a version of an app has it. Versions of deleted apps do
    /// not count.
    async fn module(&self, digest: Digest) -> Result<Option<Bytes>, StoreError>;

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

/// What an operation returns.
pub trait Effect {
    /// Whether it has changed something, and so leaves its audit row.
    fn changed(&self) -> bool;
}

impl Effect for bool {
    fn changed(&self) -> bool {
        *self
    }
}

impl Effect for u64 {
    fn changed(&self) -> bool {
        *self > 0
    }
}

impl Effect for TriggerDeletion {
    fn changed(&self) -> bool {
        *self == TriggerDeletion::Deleted
    }
}

macro_rules! always_an_effect {
    ($($done:ty),*) => {
        $(impl Effect for $done {
            fn changed(&self) -> bool {
                true
            }
        })*
    };
}

always_an_effect!((), App, PluginVersion, Trigger);

/// Refuses an operation that takes an app from `before` triggers over their limit.
/// One that adds none is always taken.
pub fn check_triggers(before: usize, after: usize) -> Result<(), StoreError> {
    if after > TRIGGERS_MAX && after > before {
        let found = after as u64;
        return Err(StoreError::TooManyTriggers { found });
    }
    Ok(())
}
