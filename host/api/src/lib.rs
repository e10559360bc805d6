//! The JSON types of the administration API. Times are milliseconds since the Unix epoch.
#![deny(missing_docs)]

mod batch;
mod calls;
mod cost;
mod events;
mod grants;
mod handler;
mod limits;
mod overview;
mod problem;
mod settings;
mod timers;

pub use batch::present;
pub use batch::{CommitDone, CommitRequest, EntryRef, GetManyRequest, Incremented, Operation};
pub use batch::{Done, Precondition};
pub use calls::{CallDeliveryView, CallView};
pub use cost::CostView;
pub use events::{DeadLetterPage, DeadLetterView, DeclaredView, DeliveriesDone};
pub use events::{DeliveriesRequest, DeliveryPage, DeliveryView};
pub use events::{EventView, LettersDone, LettersRequest, TriggerPage, TriggerPut, TriggerView};
pub use grants::{ConfigNeedView, NeedChangesView, NeedsView, SecretNeedView, UnmetView};
pub use grants::{GrantList, GrantPage, GrantView, GrantedView, GrantsChanged};
pub use handler::{HandlerRequest, HandlerResponse};
use limits::given;
pub use limits::{LimitsChange, LimitsView};
pub use overview::{AttentionView, ConcernList, ConcernView, OverviewHostView, OverviewHosts};
pub use overview::{OverviewNumbers, OverviewPart, OverviewView};
pub use problem::ProblemView;
pub use settings::{ConfigPage, ConfigView, SecretPage, SecretView};
pub use timers::{TimerDone, TimerPage, TimerRequest, TimerView};

use kvasm_core::{App, Audit, DELIVERIES_MAX, Exports, PluginRecord, Token, Usage};
use kvasm_service::LogRecord;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppView {
    /// Unique name.
    pub name: String,
    /// Id.
    pub id: String,
    /// When the app was created.
    pub created_at: i64,
    /// Whether the app accepts calls without a token.
    pub public: bool,
    /// Limits of the app.
    pub limits: LimitsView,
    /// The active plugin version.
    pub plugin: Option<ActiveView>,
    /// The paused triggers. Only in the response for a single app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_triggers: Option<Vec<PausedView>>,
    /// The usage. Only in a list that was asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageView>,
}

/// A paused trigger.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PausedView {
    /// Name of the trigger.
    pub name: String,
    /// Why it is paused: `operator` or `failures`.
    pub paused: String,
    /// When the next delivery is tried, if it is paused after failures.
    pub probe_at: Option<i64>,
}

impl PausedView {
    /// The view of a trigger, if it is paused.
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
    /// Version number.
    pub version: u32,
    /// SHA-256 of the module.
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
            usage: None,
        }
    }
}

/// A page of apps.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppPage {
    /// Ordered by name.
    pub apps: Vec<AppView>,
    /// Cursor of the next page, to pass as `after`; absent on the last page.
    pub next: Option<String>,
}

/// An app to create.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApp {
    /// Name: 1 to 64 characters of `a-z`, `0-9`, `-` and `_`.
    pub name: String,
    /// Whether the app accepts calls without a token.
    #[serde(default)]
    pub public: bool,
}

/// A change to an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppPatch {
    /// Whether the app accepts calls without a token.
    pub public: bool,
}

/// The usage of an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// Number of entries.
    pub entries: u64,
    /// Bytes of the app's entries, deliveries and dead letters.
    pub bytes: u64,
    /// Number of outstanding deliveries, not counting scheduled runs.
    #[serde(default)]
    pub deliveries: u64,
    /// Maximum number of outstanding deliveries.
    #[serde(default)]
    pub deliveries_max: u64,
    /// Limits of the app.
    pub limits: LimitsView,
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
    /// Version number.
    pub version: u32,
    /// Whether this is the active version.
    pub active: bool,
    /// SHA-256 of the module.
    pub digest: String,
    /// Size of the module in bytes.
    pub size: u64,
    /// Names of the callable functions.
    pub functions: Vec<String>,
    /// Name of the export that handles HTTP requests.
    pub http: Option<String>,
    /// Triggers that the plugin declares.
    #[serde(default)]
    pub triggers: Vec<DeclaredView>,
    /// What it needs from its app.
    #[serde(default)]
    pub needs: NeedsView,
    /// The version that this one replaced, which a rollback activates.
    pub replaced: Option<u32>,
    /// When it was uploaded.
    pub created_at: i64,
    /// Name of the token or command that uploaded it.
    pub created_by: String,
}

impl PluginView {
    /// The JSON of the value.
    pub fn new(plugin: &PluginRecord, app: &App) -> PluginView {
        let Exports {
            functions,
            http,
            triggers,
            needs,
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
            needs: NeedsView::from(&needs),
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
    /// Cursor of the next page, to pass as `before`; absent on the last page.
    pub next: Option<u32>,
}

/// An uploaded module.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Deployed {
    /// Version number.
    pub version: u32,
    /// Whether it is now the active version.
    pub active: bool,
    /// SHA-256 of the module.
    pub digest: String,
    /// Names of the callable functions.
    pub functions: Vec<String>,
    /// Name of the export that handles HTTP requests.
    pub http: Option<String>,
    /// Triggers that the plugin declares.
    #[serde(default)]
    pub triggers: Vec<DeclaredView>,
    /// What it needs from its app.
    #[serde(default)]
    pub needs: NeedsView,
    /// How the grants that it needs differ from those of the version that was active before.
    #[serde(default)]
    pub changes: NeedChangesView,
}

/// The newly active version.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Activated {
    /// Version number.
    pub version: u32,
}

/// The functions and handlers of the active plugin.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Functions {
    /// Number of the active version.
    pub version: u32,
    /// Names of the callable functions.
    pub functions: Vec<String>,
    /// Name of the export that handles HTTP requests.
    pub http: Option<String>,
    /// Triggers that the plugin declares.
    #[serde(default)]
    pub triggers: Vec<DeclaredView>,
    /// What the version needs from its app.
    #[serde(default)]
    pub needs: NeedsView,
}

/// A token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Id.
    pub id: String,
    /// Name, for people.
    pub name: String,
    /// Scopes that the token grants.
    pub scopes: Vec<String>,
    /// Id of the only app that the token is valid for; absent if it is valid for every app.
    pub app: Option<String>,
    /// When it was created.
    pub created_at: i64,
    /// When it expires.
    pub expires_at: Option<i64>,
    /// When it was revoked.
    pub revoked_at: Option<i64>,
}

/// An event of a stream of server-sent events, as a client parses it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServerSentEvent {
    /// Name; absent for the usual kind.
    pub event: Option<String>,
    /// Position, from which a client resumes.
    pub id: Option<String>,
    /// JSON.
    pub data: String,
}

/// What the sender of a request may do: its token, without the secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OwnToken {
    /// Id; absent for a program with direct access to the store.
    pub id: Option<String>,
    /// Name, for people.
    pub name: String,
    /// Scopes that the token grants.
    pub scopes: Vec<String>,
    /// Id of the only app that the token is valid for; absent if it is valid for every app.
    pub app: Option<String>,
    /// When it expires.
    pub expires_at: Option<i64>,
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
    /// Ordered by id.
    pub tokens: Vec<TokenView>,
    /// Cursor of the next page, to pass as `after`; absent on the last page.
    pub next: Option<String>,
}

/// A token to create.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Name, for people: 1 to 128 bytes.
    pub name: String,
    /// Scopes to grant: `script:read`, `script:write`, `app:read`, `app:admin`, `plugin:deploy`,
    /// `log:read` or `instance:admin`.
    pub scopes: Vec<String>,
    /// When it expires, in the year 9999 at the latest. `null` means never. If absent, it expires
    /// with the token that creates it, or never if that one does not expire.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "given"
    )]
    #[schema(value_type = Option<i64>)]
    pub expires_at: Option<Option<i64>>,
}

/// A newly created token.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenMade {
    /// The token itself. It is returned only once.
    pub secret: String,
    /// Description of the token.
    pub token: TokenView,
}

/// A row of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Id.
    pub id: String,
    /// When the operation was performed.
    pub at: i64,
    /// Id of the token that was used.
    pub token: Option<String>,
    /// Name of the token, or the command that was used.
    pub actor: String,
    /// The operation.
    pub action: String,
    /// The app that it affected.
    pub app: Option<String>,
    /// Details of the operation.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// Id of the request.
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
    /// Cursor of the next page, to pass as `before`; absent on the last page.
    pub next: Option<String>,
}

/// A line of an app's log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogView {
    /// Position: microseconds since 1970, adjusted so that lines of one host have different ones.
    pub seq: u64,
    /// When the call that wrote it ended.
    pub at: i64,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// `plugin`, or `host` for messages of the host about the call.
    pub source: String,
    /// Name of the called function.
    pub function: String,
    /// Id of the request.
    pub request_id: String,
    /// Id of its trace, if it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Text of the line.
    pub message: String,
    /// Whether the run that wrote it was discarded and repeated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discarded: bool,
    /// What the call used; in its last line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostView>,
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
            trace_id: line.trace_id.map(|id| id.to_string()),
            message: line.message.clone(),
            discarded: line.discarded,
            cost: line.cost.as_deref().map(CostView::from),
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
    /// Ordered by name.
    pub collections: Vec<String>,
    /// Cursor of the next page, to pass as `after`; absent on the last page.
    pub next: Option<String>,
}

/// The result of an import.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Number of entries written.
    pub imported: u64,
    /// Number of lines skipped because their entries had expired.
    pub expired: u64,
}
