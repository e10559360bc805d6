//! The registry: apps, plugins, tokens and the audit log.

use super::StoreError;
use crate::{
    App, AppId, AppLimits, Audit, DeadLetterFilter, DeliveryFilter, Digest, Generation,
    LimitsPatch, NewPlugin, NewTrigger, PluginRecord, PluginVersion, TRIGGERS_MAX, TimerName,
    Token, TokenId, Trigger, TriggerDeletion, TriggerName, Usage,
};
use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

/// The methods of a store for administrators. Lists are paged: up to `limit` rows after the last
/// one of the previous page.
///
/// A method that takes an [`Audit`] is an operation. It writes only the columns that it changes, in
/// one transaction with its audit row: neither exists without the other. An operation that fails or
/// changes nothing (it returns `false` or 0) leaves no audit row. The same transaction makes its
/// audit row the new [`generation`](Registry::generation).
#[async_trait]
pub trait Registry: Send + Sync {
    /// Adds an app.
    ///
    /// # Errors
    /// [`StoreError::AppExists`] if the name is taken.
    async fn create_app(&self, app: App, audit: Audit) -> Result<(), StoreError>;

    /// Sets whether an app accepts calls without a token. Returns the updated app.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn set_public(&self, app: AppId, public: bool, audit: Audit) -> Result<App, StoreError>;

    /// Changes some of an app's limits, if they match the expected ones. Returns the updated app.
    /// Numbers above `i64::MAX` are stored as that.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`]; [`StoreError::LimitsChanged`] if limits are expected and the
    /// app has others.
    async fn set_limits(
        &self,
        app: AppId,
        patch: LimitsPatch,
        expected: Option<AppLimits>,
        audit: Audit,
    ) -> Result<App, StoreError>;

    /// Deletes an app with its rows and tokens. Returns whether it existed.
    async fn delete_app(&self, app: AppId, audit: Audit) -> Result<bool, StoreError>;

    /// Adds a plugin version. Returns its number.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`]; [`StoreError::Quota`] if the app has
    /// [`VERSIONS_MAX`](crate::VERSIONS_MAX) versions, or would have more than
    /// [`VERSION_BYTES_MAX`](crate::VERSION_BYTES_MAX) bytes of modules; if it is activated,
    /// those of [`activate_plugin`](Registry::activate_plugin).
    async fn add_plugin(
        &self,
        plugin: NewPlugin,
        audit: Audit,
    ) -> Result<PluginVersion, StoreError>;

    /// Activates a version, with the triggers that it declares, if the app meets its needs in the
    /// same transaction.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`], [`StoreError::PluginNotFound`],
    /// [`StoreError::TooManyTriggers`], [`StoreError::NeedsUnmet`].
    async fn activate_plugin(
        &self,
        app: AppId,
        version: PluginVersion,
        audit: Audit,
    ) -> Result<(), StoreError>;

    /// Activates the version that the active one replaced, and returns it. The app must meet its
    /// needs, as for [`activate_plugin`](Registry::activate_plugin).
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`], [`StoreError::NothingToRollBackTo`],
    /// [`StoreError::TooManyTriggers`], [`StoreError::NeedsUnmet`].
    async fn roll_back_plugin(&self, app: AppId, audit: Audit)
    -> Result<PluginVersion, StoreError>;

    /// Deletes a version that is not active, and its module if no other version has it. Returns
    /// whether it existed.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`], [`StoreError::PluginActive`].
    async fn delete_plugin(
        &self,
        app: AppId,
        version: PluginVersion,
        audit: Audit,
    ) -> Result<bool, StoreError>;

    /// Adds a token unless its identity is taken. Returns whether it was added.
    ///
    /// An app has at most [`TOKENS_MAX`](crate::TOKENS_MAX) tokens. If a new one would
    /// exceed that, the app's tokens that are revoked, or expired at the time of the audit row, are
    /// removed first.
    ///
    /// # Errors
    /// If it is bound to an app: [`StoreError::AppNotFound`], [`StoreError::Quota`].
    async fn create_token(&self, token: Token, audit: Audit) -> Result<bool, StoreError>;

    /// Revokes a token, which must be bound to `app` if one is given. Returns whether there was
    /// such a token that was not revoked.
    ///
    /// # Errors
    /// [`StoreError::LastAdmin`] for the last token that [administers](Token::administers) the
    /// instance at the time of the audit row.
    async fn revoke_token(
        &self,
        app: Option<AppId>,
        token: TokenId,
        audit: Audit,
    ) -> Result<bool, StoreError>;

    /// Creates an operator's trigger, or replaces the trigger of the same name. A replaced trigger
    /// is resumed and its failures are reset. It keeps its creation time, and the next due time if
    /// the schedule is the same.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`], [`StoreError::TooManyTriggers`].
    async fn set_trigger(
        &self,
        app: AppId,
        trigger: NewTrigger,
        audit: Audit,
    ) -> Result<Trigger, StoreError>;

    /// Deletes a trigger. Its deliveries stay. If they must not and there are some, nothing changes
    /// and no audit row is written.
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

    /// Discards up to `limit` outstanding deliveries of an app, by trigger and ordering key, and
    /// unblocks the deliveries behind them. Returns the number discarded. A handler that is running
    /// one of them cannot commit.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn discard_deliveries(
        &self,
        app: AppId,
        which: DeliveryFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError>;

    /// Pauses or resumes a trigger, and resets its failures. Returns whether it exists.
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

    /// Makes a timer due at the time of the audit row, unless it is leased. Returns whether there was
    /// such a timer.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn run_timer(
        &self,
        app: AppId,
        name: TimerName,
        audit: Audit,
    ) -> Result<bool, StoreError>;

    /// Turns up to `limit` dead letters, oldest first, back into deliveries. Returns their number.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn replay(
        &self,
        app: AppId,
        letters: DeadLetterFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError>;

    /// Discards up to `limit` dead letters, oldest first. Returns their number.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn discard(
        &self,
        app: AppId,
        letters: DeadLetterFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError>;

    /// Returns the last operation that has taken effect; nil before the first.
    ///
    /// If a caller reads the generation, then a row, and later the same generation again, the row
    /// had not changed when the last read began.
    async fn generation(&self) -> Result<Generation, StoreError>;

    /// Returns what an app uses; zero if it does not exist.
    async fn usage(&self, app: AppId) -> Result<Usage, StoreError>;

    /// Returns an app's plugin versions, newest first, below a number if given.
    async fn plugins(
        &self,
        app: AppId,
        before: Option<PluginVersion>,
        limit: u32,
    ) -> Result<Vec<PluginRecord>, StoreError>;

    /// Returns one plugin version.
    async fn plugin(
        &self,
        app: AppId,
        version: PluginVersion,
    ) -> Result<Option<PluginRecord>, StoreError>;

    /// Returns a module's bytes, if a version of an app has it. Deleted apps do not count.
    async fn module(&self, digest: Digest) -> Result<Option<Bytes>, StoreError>;

    /// Returns a token, whether or not it is valid.
    async fn token(&self, id: TokenId) -> Result<Option<Token>, StoreError>;

    /// Returns the tokens that are bound to an app, or all tokens, by identity, after one if given.
    async fn tokens(
        &self,
        app: Option<AppId>,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<Token>, StoreError>;

    /// Returns the audit rows of an app, or all, newest first, below one if given.
    async fn audit(
        &self,
        app: Option<AppId>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Audit>, StoreError>;
}

/// The result of an operation.
pub trait Effect {
    /// Returns whether it changed something, and so leaves an audit row.
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

/// Refuses an operation that raises an app's number of triggers from `before` above the limit. An
/// operation that adds none is always allowed.
pub fn check_triggers(before: usize, after: usize) -> Result<(), StoreError> {
    if after > TRIGGERS_MAX && after > before {
        let found = after as u64;
        return Err(StoreError::TooManyTriggers { found });
    }
    Ok(())
}
