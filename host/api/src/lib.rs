//! The JSON of the administrators' API. Times are milliseconds since the Unix
//! epoch.
#![deny(missing_docs)]

mod batch;
mod events;
mod limits;
mod problem;

pub use batch::present;
pub use batch::{CommitDone, CommitRequest, EntryRef, GetManyRequest, Incremented, Operation};
pub use batch::{Done, Precondition};
pub use events::{DeadLetterPage, DeadLetterView, DeclaredView, DeliveriesDone};
pub use events::{DeliveriesRequest, DeliveryPage, DeliveryView};
pub use events::{EventView, LettersDone, LettersRequest, TriggerPage, TriggerPut, TriggerView};
use limits::given;
pub use limits::{Limits, LimitsChange};
pub use problem::ProblemView;

use kvasm_core::{App, Audit, DELIVERIES_MAX, Exports, Plugin, Token, Usage};
use kvasm_service::LogRecord;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppView {
    /// Its unique name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// When it was created.
    pub created_at: i64,
    /// Whether it takes calls without a token.
    pub public: bool,
    /// What it may use.
    pub limits: Limits,
    /// The plugin version that its calls go to.
    pub plugin: Option<ActiveView>,
    /// The triggers whose deliveries wait, if the app is shown alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_triggers: Option<Vec<PausedView>>,
}

/// A trigger whose deliveries wait.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PausedView {
    /// Its name.
    pub name: String,
    /// Why: `operator` or `failures`.
    pub paused: String,
    /// If failures have paused it, when the next delivery is tried.
    pub probe_at: Option<i64>,
}

impl PausedView {
    /// What a trigger shows, if it is paused.
    pub fn of(trigger: TriggerView) -> Option<PausedView> {
        Some(PausedView {
            paused: trigger.paused?,
            name: trigger.name,
            probe_at: trigger.probe_at,
        })
    }
}

/// The active plugin version.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ActiveView {
    /// Its number.
    pub version: u32,
    /// The SHA-256 of its module.
    pub digest: String,
}

impl From<&App> for AppView {
    fn from(app: &App) -> AppView {
        AppView {
            name: app.name.to_string(),
            id: app.id.to_string(),
            created_at: app.created_at.0,
            public: app.public,
            limits: (&app.limits).into(),
            plugin: app.active.map(|active| ActiveView {
                version: active.version.0,
                digest: active.digest.to_string(),
            }),
            paused_triggers: None,
        }
    }
}

/// A page of apps.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppPage {
    /// In the order of their names.
    pub apps: Vec<AppView>,
    /// Pass it as `after` for the next page; absent at the end.
    pub next: Option<String>,
}

/// An app to make.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApp {
    /// 1 to 64 of `a-z`, `0-9`, `-` and `_`.
    pub name: String,
    /// Whether it takes calls without a token.
    #[serde(default)]
    pub public: bool,
}

/// A change of an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppPatch {
    /// Whether it takes calls without a token.
    pub public: bool,
}

/// What an app uses.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// The number of its entries.
    pub entries: u64,
    /// Their bytes, and those of deliveries and dead letters.
    pub bytes: u64,
    /// Outstanding deliveries, without runs of schedules.
    #[serde(default)]
    pub deliveries: u64,
    /// The most outstanding deliveries.
    #[serde(default)]
    pub deliveries_max: u64,
    /// What it may use.
    pub limits: Limits,
}

impl UsageView {
    /// The JSON of the value.
    pub fn new(usage: Usage, app: &App) -> UsageView {
        UsageView {
            entries: usage.entries,
            bytes: usage.bytes,
            deliveries: usage.deliveries,
            deliveries_max: DELIVERIES_MAX,
            limits: (&app.limits).into(),
        }
    }
}

/// A plugin version.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PluginView {
    /// Its number.
    pub version: u32,
    /// Whether the app's calls go to it.
    pub active: bool,
    /// The SHA-256 of its module.
    pub digest: String,
    /// The module's size in bytes.
    pub size: u64,
    /// The functions that can be called.
    pub functions: Vec<String>,
    /// The export that answers HTTP requests.
    pub http: Option<String>,
    /// The triggers that it declares.
    #[serde(default)]
    pub triggers: Vec<DeclaredView>,
    /// The version that a roll back from this one goes to.
    pub replaced: Option<u32>,
    /// When it was uploaded.
    pub created_at: i64,
    /// Who uploaded it.
    pub created_by: String,
}

impl PluginView {
    /// The JSON of the value.
    pub fn new(plugin: &Plugin, app: &App) -> PluginView {
        let Exports {
            functions,
            http,
            triggers,
        } = plugin.exports.clone();
        PluginView {
            version: plugin.version.0,
            active: app
                .active
                .is_some_and(|active| active.version == plugin.version),
            digest: plugin.digest.to_string(),
            size: plugin.size,
            functions,
            http,
            triggers: triggers.iter().map(DeclaredView::from).collect(),
            replaced: plugin.replaced.map(|version| version.0),
            created_at: plugin.created_at.0,
            created_by: plugin.created_by.clone(),
        }
    }
}

/// A page of plugin versions.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PluginPage {
    /// Newest first.
    pub plugins: Vec<PluginView>,
    /// Pass it as `before` for the next page; absent at the end.
    pub next: Option<u32>,
}

/// A module that was uploaded.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Deployed {
    /// Its version's number.
    pub version: u32,
    /// Whether it is the active version now.
    pub active: bool,
    /// The SHA-256 of the module.
    pub digest: String,
    /// The functions that can be called.
    pub functions: Vec<String>,
    /// The export that answers HTTP requests.
    pub http: Option<String>,
    /// The triggers that it declares.
    #[serde(default)]
    pub triggers: Vec<DeclaredView>,
}

/// The version that is active now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Activated {
    /// Its number.
    pub version: u32,
}

/// What the active plugin offers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Functions {
    /// The active version.
    pub version: u32,
    /// The functions that can be called.
    pub functions: Vec<String>,
    /// The export that answers HTTP requests.
    pub http: Option<String>,
    /// The triggers that it declares.
    #[serde(default)]
    pub triggers: Vec<DeclaredView>,
}

/// A token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Its identity.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it grants.
    pub scopes: Vec<String>,
    /// The identity of the one app that it is good for; absent: every app.
    pub app: Option<String>,
    /// When it was made.
    pub created_at: i64,
    /// When it stops being good.
    pub expires_at: Option<i64>,
    /// When it was revoked.
    pub revoked_at: Option<i64>,
}

impl From<&Token> for TokenView {
    fn from(token: &Token) -> TokenView {
        TokenView {
            id: token.id.to_string(),
            name: token.name.clone(),
            scopes: token.scopes.iter().map(ToString::to_string).collect(),
            app: token.app.map(|app| app.to_string()),
            created_at: token.created_at.0,
            expires_at: token.expires_at.map(|at| at.0),
            revoked_at: token.revoked_at.map(|at| at.0),
        }
    }
}

/// A page of tokens.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenPage {
    /// In the order of their identities.
    pub tokens: Vec<TokenView>,
    /// Pass it as `after` for the next page; absent at the end.
    pub next: Option<String>,
}

/// A token to make.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What people call it: 1 to 128 bytes.
    pub name: String,
    /// What it grants: of `script:read`, `script:write`, `app:read`, `app:admin`,
    /// `plugin:deploy`, `log:read` and `instance:admin`.
    pub scopes: Vec<String>,
    /// When it stops being good, in the year 9999 at the latest; `null`: never. Absent:
    /// with the token of its maker, or never if that does not expire.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "given"
    )]
    #[schema(value_type = Option<i64>)]
    pub expires_at: Option<Option<i64>>,
}

/// A token that was made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenMade {
    /// The token itself. It is shown here and never again.
    pub secret: String,
    /// What it is.
    pub token: TokenView,
}

/// A row of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Its identity.
    pub id: String,
    /// When.
    pub at: i64,
    /// The identity of the token that was used.
    pub token: Option<String>,
    /// The token's name, or the command that was used.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// The app that it was about.
    pub app: Option<String>,
    /// What exactly.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// The request.
    pub request_id: String,
}

impl From<&Audit> for AuditView {
    fn from(row: &Audit) -> AuditView {
        AuditView {
            id: row.id.to_string(),
            at: row.at.0,
            token: row.token.map(|token| token.to_string()),
            actor: row.actor.clone(),
            action: row.action.to_string(),
            app: row.app.as_ref().map(|(_, name)| name.to_string()),
            detail: row.detail.clone(),
            request_id: row.request_id.to_string(),
        }
    }
}

/// A page of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// Newest first.
    pub audit: Vec<AuditView>,
    /// Pass it as `before` for the next page; absent at the end.
    pub next: Option<String>,
}

/// A line of an app's log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogView {
    /// Its number on this host; later lines have larger ones.
    pub seq: u64,
    /// When the call that wrote it ended.
    pub at: i64,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// `plugin`, or `host` for what the host says about the call.
    pub source: String,
    /// The function that was called.
    pub function: String,
    /// The request.
    pub request_id: String,
    /// Its text.
    pub message: String,
    /// Whether the run that wrote it was discarded, and run again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discarded: bool,
}

impl From<&LogRecord> for LogView {
    fn from(line: &LogRecord) -> LogView {
        LogView {
            seq: line.seq,
            at: line.at.0,
            level: line.level.to_string(),
            source: line.source.to_string(),
            function: line.function.to_string(),
            request_id: line.request_id.to_string(),
            message: line.message.clone(),
            discarded: line.discarded,
        }
    }
}

/// An entry's new version.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// The version.
    pub version: u64,
}

/// A page of collections.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CollectionPage {
    /// In the order of their names.
    pub collections: Vec<String>,
    /// Pass it as `after` for the next page; absent at the end.
    pub next: Option<String>,
}

/// What an import did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Entries that were written.
    pub imported: u64,
    /// Lines whose entries had expired and were left out.
    pub expired: u64,
}
