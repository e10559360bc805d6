//! Changes that administrators make, and the record of each.

use super::{
    App, AppId, AppName, AppSettings, Digest, Exports, Letters, PluginVersion, Timestamp, Token,
    TokenId, Trigger, TriggerName,
};
use std::borrow::Cow;
use uuid::Uuid;

/// A change of apps, plugins or tokens. It takes effect in one transaction with
/// its [`Audit`] row, so neither is ever there without the other.
#[derive(Debug, Clone)]
pub enum Change {
    /// Makes an app.
    CreateApp(App),
    /// Replaces an app's settings.
    UpdateApp {
        /// The app.
        app: AppId,
        /// All of its settings.
        settings: AppSettings,
    },
    /// Removes an app and everything it owns.
    DeleteApp(AppId),
    /// Adds a plugin version, with the next number.
    AddPlugin(NewPlugin),
    /// Makes a version the active one.
    ActivatePlugin {
        /// The app.
        app: AppId,
        /// The version.
        version: PluginVersion,
    },
    /// Makes the version active that the active one replaced.
    RollBackPlugin(AppId),
    /// Removes a version that is not active, and its module if nobody else uses it.
    DeletePlugin {
        /// The app.
        app: AppId,
        /// The version.
        version: PluginVersion,
    },
    /// Adds a token. One whose identity is taken is not added.
    CreateToken(Token),
    /// Revokes a token.
    RevokeToken {
        /// The app that the token must be bound to; otherwise any token.
        app: Option<AppId>,
        /// The token.
        token: TokenId,
    },
    /// Makes a trigger, or replaces the one of its name.
    SetTrigger {
        /// The app.
        app: AppId,
        /// The trigger.
        trigger: Trigger,
    },
    /// Removes a trigger. Deliveries that it has made stay.
    DeleteTrigger {
        /// The app.
        app: AppId,
        /// The trigger.
        trigger: TriggerName,
    },
    /// Lets a trigger's deliveries wait, or go on.
    PauseTrigger {
        /// The app.
        app: AppId,
        /// The trigger.
        trigger: TriggerName,
        /// Whether they wait.
        paused: bool,
    },
    /// Makes deliveries of dead letters again, the oldest first, and removes the
    /// letters.
    Replay {
        /// The app.
        app: AppId,
        /// Which letters.
        letters: Letters,
        /// The most letters.
        limit: u32,
    },
    /// Removes dead letters, the oldest first.
    Discard {
        /// The app.
        app: AppId,
        /// Which letters.
        letters: Letters,
        /// The most letters.
        limit: u32,
    },
}

/// A plugin version to add.
#[derive(Clone)]
pub struct NewPlugin {
    /// Its app.
    pub app: AppId,
    /// The SHA-256 of the module.
    pub digest: Digest,
    /// The module.
    pub wasm: std::sync::Arc<[u8]>,
    /// What it offers.
    pub exports: Exports,
    /// Make it the active version in the same transaction.
    pub activate: bool,
}

impl std::fmt::Debug for NewPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewPlugin")
            .field("app", &self.app)
            .field("digest", &self.digest)
            .field("activate", &self.activate)
            .finish_non_exhaustive()
    }
}

/// What a [`Change`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It took effect.
    Done,
    /// What it was to remove or revoke was not there, or what it was to add was
    /// there already; nothing changed, and there is no audit row.
    Nothing,
    /// The plugin version that was added or made active.
    Plugin(PluginVersion),
    /// So many dead letters were replayed or discarded; at least one.
    Letters(u64),
}

/// Who did what, when, on whose request. One row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Its identity, which sorts by time.
    pub id: Uuid,
    /// When.
    pub at: Timestamp,
    /// The token that was used, if it was one.
    pub token: Option<TokenId>,
    /// The token's name, or the command that was used.
    pub actor: String,
    /// What was done, such as `plugin.activate`.
    pub action: Cow<'static, str>,
    /// The app that it was about, if it was one. Kept after the app is gone.
    pub app: Option<(AppId, AppName)>,
    /// What exactly: a JSON object. It holds no secret and no value.
    pub detail: serde_json::Value,
    /// The request's id.
    pub request_id: Uuid,
}
