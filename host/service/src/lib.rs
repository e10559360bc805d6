//! Policy: access control, validation and limits. The layer between all entry points of the host
//! (guests, HTTP, the command line) and the store.
#![deny(missing_docs)]

mod access;
mod actor;
mod admin;
mod admission;
mod audit;
mod caller;
mod calls;
mod coalesce;
mod context;
mod dead_letters;
mod deadline;
mod deliveries;
mod error;
mod events;
mod fair;
mod grants;
mod health;
mod health_limits;
mod history;
mod kv;
mod logs;
mod noop;
mod notifier;
mod outbound;
mod outbound_span;
mod permissions;
mod rates;
mod rfc3339;
mod secrets;
mod settings;
mod snapshot;
mod spans;
mod throttle;
mod timers;
mod tokens;
mod triggers;
mod watch;
mod webhook;

use std::sync::Arc;

pub use access::{AppTokenCache, SeenGeneration};
pub use actor::Actor;
pub use admin::Admin;
pub use admission::{Admission, Pass, Refusal, Ticket};
pub use audit::{AuditQuery, AuditRows};
pub use caller::Caller;
pub use calls::{
    CALL_OUTCOMES, CallFilter, CallPage, CallQuery, CallRecord, CallRecords, DeliveredCall,
};
pub use context::CallContext;
pub use dead_letters::{DEAD_LETTERS_MAX, RowPage};
pub use deadline::{Deadline, Stage, Timed, Timeout};
pub use deliveries::DELIVERIES_MAX;
pub use error::{IncrementTarget, ServiceError};
pub use events::StoredDeadLetters;
pub use events::{CommitListener, DeadLetters};
pub use fair::{FairPermit, FairSemaphore, Share};
pub use health::{Health, Readiness, StoreFailure, TaskHealth};
pub use health::{TaskHandle, Working, error_chain};
pub use health_limits::HealthLimits;
pub use history::{
    AppConcern, Attention, CONCERNS_MAX, Concerns, HOST_NAME_CHARS_MAX, HOSTS_SHOWN_MAX,
    HistoryRetention, HostHistory, HostState, Overview, OverviewHost, OverviewSum, OverviewWindow,
    StoreSample, quantile_us,
};
pub use kv::{
    Address, BATCH_BYTES_MAX, BATCH_MAX, KeyLocks, Kv, KvService, List, Listing, LockPolicy,
    LockSet, LockSetGuard, PendingCommitGuard, Transaction, WriteSavepoint,
};
pub use logs::{
    CallKeeper, FOLLOWERS_OF_APP_MAX, Following, LogCursor, LogFilter, LogKeeper, LogPage,
    LogQuery, LogRecord, LogRetention, LogSource, LogTail, Logs, RecordPage, RecordQuery,
    SegmentKeeper,
};
pub use notifier::DispatchNotifier;
pub use outbound::{
    HttpPermissions, Outbound, OutboundBlame, OutboundCaller, OutboundError, OutboundRequest,
    OutboundResponse,
};
pub use outbound_span::OutboundSpan;
pub use rates::WriteRates;
pub use rfc3339::rfc3339;
pub use secrets::{
    KeyFileError, Keyring, NewKey, OpenedSecret, Rotated, SecretsError, create_key_file,
    rotate_secrets_key,
};
pub use snapshot::{SettingsCache, SettingsSnapshot};
pub use spans::{
    HOST_FUNCTION_SPANS_MAX, OpenSpan, SPAN_TEXT_BYTES_MAX, Span, SpanArrival, SpanKind,
    SpanRecorder, SpanSink, SpanValue, Spans,
};
pub use throttle::admit_app_line;
pub use throttle::{RequestOutcome, admit_failed_request_line, admit_request_line};
pub use tokens::{Expiry, TokenSpec, Unauthenticated};
pub use triggers::OnTriggerDelete;
pub use watch::{ChangeFeeds, ChangeFilter, ChangeWatcher, WatchError, WatchLimits, WatchStep};
pub use webhook::{SigningKeyError, WebhookCall, WebhookError};

/// The services behind a plugin's host functions, as trait objects, so that an embedder or a
/// test can replace each of them.
///
/// The default is a set of no-ops: reads find nothing, and writes fail as unavailable, so that
/// none is acknowledged and lost.
#[derive(Clone)]
pub struct Services {
    /// The key-value store.
    pub kv: Arc<dyn Kv>,
    /// Dead letters.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The client of other HTTP servers.
    pub outbound: Arc<dyn Outbound>,
}

impl Default for Services {
    fn default() -> Services {
        Services {
            kv: Arc::new(noop::Noop),
            dead_letters: Arc::new(noop::Noop),
            outbound: Arc::new(noop::Noop),
        }
    }
}
