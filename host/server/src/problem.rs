//! Errors as RFC 9457 problem details. Each case has a stable `type`.

use super::budget::NoRoom;
use super::cost;
use crate::PROBLEMS;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use kvasm_api::{ProblemView, UnmetView};
use kvasm_core::{Cost, Invalid, SettingKind, Unmet, truncate};
use kvasm_host::DeployError;
use kvasm_runtime::LoadError;
use kvasm_service::{Refusal, ServiceError, Unauthenticated, admit_failed_request_line};
use std::error::Error;
use std::time::Duration;
use uuid::Uuid;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $status:ident $slug:literal $title:literal,)*) => {
        /// The kinds of problems.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind { $($(#[doc = $doc])* $name,)* }

        impl Kind {
            #[cfg(test)]
            const ALL: &[Kind] = &[$(Kind::$name,)*];

            fn status(self) -> StatusCode {
                match self { $(Kind::$name => StatusCode::$status,)* }
            }

            fn slug(self) -> &'static str {
                match self { $(Kind::$name => $slug,)* }
            }

            fn title(self) -> &'static str {
                match self { $(Kind::$name => $title,)* }
            }
        }
    };
}

kinds! {
    RouteNotFound = NOT_FOUND "route-not-found" "Route not found",
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed" "The route does not allow this method",
    Misdirected = MISDIRECTED_REQUEST "misdirected-request" "The address has another name",
    ForeignOrigin = FORBIDDEN "foreign-origin" "A page of another site has sent the request",
    UriTooLong = URI_TOO_LONG "uri-too-long" "The path and query are too long",
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE "headers-too-large" "The headers are too large",
    InvalidArgument = BAD_REQUEST "invalid-argument" "Invalid argument",
    MalformedJson = BAD_REQUEST "malformed-json" "The body is not valid JSON for this route",
    MalformedLine = BAD_REQUEST "malformed-line" "Invalid line in the import",
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" "The route does not accept this content type",
    UnsupportedEncoding = UNSUPPORTED_MEDIA_TYPE "unsupported-content-encoding" "The body has an unsupported encoding",
    BodyTooLarge = PAYLOAD_TOO_LARGE "body-too-large" "The body is too large",
    BodyTimeout = REQUEST_TIMEOUT "body-timeout" "The body did not arrive in time",
    BodyBroken = BAD_REQUEST "body-broken" "The request body was truncated",
    TokenRequired = UNAUTHORIZED "token-required" "A token is required",
    TokenInvalid = UNAUTHORIZED "token-invalid" "Invalid token",
    Forbidden = FORBIDDEN "forbidden" "The token does not allow this",
    ScopeExceeded = FORBIDDEN "scope-exceeded" "A token cannot grant more than its creator has",
    LifetimeExceeded = FORBIDDEN "lifetime-exceeded" "A token cannot outlive its creator's",
    AppNotFound = NOT_FOUND "app-not-found" "App not found",
    AppExists = CONFLICT "app-exists" "The app already exists",
    EntryNotFound = NOT_FOUND "entry-not-found" "Entry not found",
    PreconditionFailed = PRECONDITION_FAILED "precondition-failed" "Precondition failed",
    NoInteger = CONFLICT "no-integer" "The value cannot be incremented",
    TriggerNotFound = NOT_FOUND "trigger-not-found" "Trigger not found",
    TriggerHasDeliveries = CONFLICT "trigger-has-deliveries" "The trigger has outstanding deliveries",
    DeadLetterNotFound = NOT_FOUND "dead-letter-not-found" "Dead letter not found",
    ConfigNotFound = NOT_FOUND "config-not-found" "Configuration value not found",
    SecretNotFound = NOT_FOUND "secret-not-found" "Secret not found",
    SecretsUnavailable = SERVICE_UNAVAILABLE "secrets-unavailable" "This host cannot seal or open secrets",
    TokenNotFound = NOT_FOUND "token-not-found" "Token not found",
    LastAdminToken = CONFLICT "last-admin-token" "The last administrator token cannot be revoked",
    PluginNotFound = NOT_FOUND "plugin-not-found" "Plugin version not found",
    PluginActive = CONFLICT "plugin-active" "The plugin version is active",
    NoActivePlugin = NOT_FOUND "no-active-plugin" "The app has no active plugin",
    NeedsUnmet = CONFLICT "needs-unmet" "The app does not meet needs of the plugin version",
    GrantNotFound = NOT_FOUND "grant-not-found" "Grant not found",
    NothingToRollBackTo = CONFLICT "nothing-to-roll-back-to" "No version to roll back to",
    ModuleRefused = UNPROCESSABLE_ENTITY "module-refused" "The module was refused",
    FunctionNotFound = NOT_FOUND "function-not-found" "The plugin has no such function",
    NoHttpHandler = NOT_FOUND "no-http-handler" "The plugin has no HTTP handler",
    InputRefused = UNPROCESSABLE_ENTITY "input-refused" "The function refused its input",
    PluginFailed = INTERNAL_SERVER_ERROR "plugin-failed" "The plugin's function failed",
    PluginTrapped = INTERNAL_SERVER_ERROR "plugin-trapped" "The plugin trapped",
    PluginAnswer = BAD_GATEWAY "plugin-answer" "The plugin returned an invalid HTTP response",
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY "idempotency-key-reused" "The idempotency key was used for another request",
    IdempotencyKeyInUse = CONFLICT "idempotency-key-in-use" "A call with this idempotency key is running",
    IdempotentAnswerTooLarge = GONE "idempotent-answer-too-large" "The answer was too large to keep",
    TransactionConflict = CONFLICT "transaction-conflict" "Transaction conflict",
    PluginTimeout = GATEWAY_TIMEOUT "plugin-timeout" "The call timed out",
    RateLimited = TOO_MANY_REQUESTS "rate-limited" "Too many calls",
    QuotaExceeded = INSUFFICIENT_STORAGE "quota-exceeded" "The app's quota is exceeded",
    StoreFull = INSUFFICIENT_STORAGE "store-full" "The host's store is full",
    StoreUnavailable = SERVICE_UNAVAILABLE "store-unavailable" "The store is unavailable",
    NotReady = SERVICE_UNAVAILABLE "not-ready" "The host is not ready",
    Busy = SERVICE_UNAVAILABLE "busy" "The host is busy",
    Internal = INTERNAL_SERVER_ERROR "internal" "Internal error",
}

/// Maximum size of a problem's detail.
const DETAIL_BYTES_MAX: usize = 8 * 1024;

/// An error response.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    retry_after: Option<Duration>,
    /// What the call used, if the caller may see it.
    cost: Option<Box<Cost>>,
    /// Fields of certain kinds only.
    failed: Option<Box<serde_json::Value>>,
    failing: Option<Box<serde_json::Value>>,
    unmet: Vec<UnmetView>,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem {
            kind,
            detail: truncate(&detail.into(), DETAIL_BYTES_MAX).to_owned(),
            retry_after: None,
            cost: None,
            failed: None,
            failing: None,
            unmet: Vec::new(),
        }
    }

    /// Adds how many entries an import wrote before it failed.
    pub(super) fn with_imported(mut self, imported: u64) -> Problem {
        self.detail = format!("{imported} entries were imported, then: {}", self.detail);
        self
    }

    /// Adds the entries of a batch whose check failed.
    pub(super) fn with_failed_checks(mut self, entries: serde_json::Value) -> Problem {
        self.failed = Some(Box::new(entries));
        self
    }

    /// Adds the failing components of a server that is not ready.
    pub(super) fn with_failing_components(mut self, parts: serde_json::Value) -> Problem {
        self.failing = Some(Box::new(parts));
        self
    }

    /// Adds the needs of a plugin version that its app does not meet.
    fn with_unmet(mut self, unmet: &[Unmet]) -> Problem {
        self.unmet = unmet.iter().map(UnmetView::from).collect();
        self
    }

    /// Adds what the call used.
    pub(super) fn with_cost(mut self, cost: Option<Cost>) -> Problem {
        self.cost = cost.map(Box::new);
        self
    }

    /// Whether the problem is the host's, and not the caller's.
    pub(super) fn is_server_error(&self) -> bool {
        self.kind.status().is_server_error()
    }

    /// Whether the call was rate limited.
    pub(super) fn is_rate_limited(&self) -> bool {
        self.kind == Kind::RateLimited
    }

    pub(super) fn is_app_not_found(&self) -> bool {
        self.kind == Kind::AppNotFound
    }

    pub(super) fn retry_after(mut self, after: Duration) -> Problem {
        self.retry_after = Some(after);
        self
    }

    /// The problem of an internal error. Its cause is logged, and not disclosed.
    pub(super) fn internal(error: &(dyn Error + 'static)) -> Problem {
        log_cause(error);
        let detail = "the cause is in the host's log";
        Problem::new(Kind::Internal, detail)
    }

    /// Renders the response for a request id.
    pub(super) fn render(self, request_id: Uuid) -> Response {
        let body = ProblemView {
            kind: format!("{PROBLEMS}{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: self.detail,
            request_id: request_id.to_string(),
            failed: self.failed.map(|entries| *entries),
            failing: self.failing.map(|parts| *parts),
            unmet: self.unmet,
        };
        // Serialising strings and numbers cannot fail.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, json);
        if let Some(after) = self.retry_after {
            // Whole seconds, and at least 1, since 0 would mean immediately.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(used) = &self.cost {
            cost::add(&mut headers, used);
        }
        if self.kind == Kind::UnsupportedEncoding {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.kind.status() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        (self.kind.status(), headers, body).into_response()
    }
}

impl IntoResponse for Problem {
    /// Puts the problem into the response's extensions. The outermost layer, which knows the
    /// request id, renders it.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Logs the cause of an internal error, at a limited rate: while the store fails, every request
/// has one.
fn log_cause(error: &(dyn Error + 'static)) {
    let cause = error.source().unwrap_or(error);
    if let Some(suppressed) = admit_failed_request_line() {
        tracing::error!(error = cause, suppressed, "{error}");
    }
}

impl From<NoRoom> for Problem {
    fn from(error: NoRoom) -> Problem {
        Problem::new(Kind::Busy, error.to_string()).retry_after(Duration::from_secs(1))
    }
}

impl From<Invalid> for Problem {
    fn from(error: Invalid) -> Problem {
        let kind = match &error {
            Invalid::TooLarge { subject, .. } if subject.is_body() => Kind::BodyTooLarge,
            Invalid::Json(_) => Kind::MalformedJson,
            _ => Kind::InvalidArgument,
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Problem {
        let kind = match error {
            ServiceError::Invalid(invalid) => return invalid.into(),
            ServiceError::Denied(_) | ServiceError::NotPermitted(_) => Kind::Forbidden,
            ServiceError::Conflict { .. } | ServiceError::LimitsChanged => Kind::PreconditionFailed,
            ServiceError::NotInteger(_) | ServiceError::Overflow(_) => Kind::NoInteger,
            ServiceError::LeaseLost | ServiceError::AlreadyAnswered => {
                return Problem::internal(&error);
            }
            ServiceError::KeyReused => Kind::IdempotencyKeyReused,
            ServiceError::KeyInUse => {
                return Problem::new(Kind::IdempotencyKeyInUse, error.to_string())
                    .retry_after(Duration::from_secs(1));
            }
            ServiceError::OutputNotKept { .. } => Kind::IdempotentAnswerTooLarge,
            ServiceError::TriggerNotFound => Kind::TriggerNotFound,
            ServiceError::TriggerHasDeliveries { .. } => Kind::TriggerHasDeliveries,
            ServiceError::DeadLetterNotFound => Kind::DeadLetterNotFound,
            ServiceError::Quota { .. } => Kind::QuotaExceeded,
            ServiceError::AppNotFound => Kind::AppNotFound,
            ServiceError::AppExists(_) => Kind::AppExists,
            ServiceError::PluginNotFound(_) => Kind::PluginNotFound,
            ServiceError::NoActivePlugin => Kind::NoActivePlugin,
            ServiceError::PluginActive(_) => Kind::PluginActive,
            ServiceError::NeedsUnmet(ref unmet) => {
                return Problem::new(Kind::NeedsUnmet, error.to_string()).with_unmet(unmet);
            }
            ServiceError::GrantNotFound => Kind::GrantNotFound,
            ServiceError::NothingToRollBackTo => Kind::NothingToRollBackTo,
            ServiceError::TokenNotFound => Kind::TokenNotFound,
            ServiceError::ScopeExceeded(_) => Kind::ScopeExceeded,
            ServiceError::LifetimeExceeded(_) => Kind::LifetimeExceeded,
            ServiceError::LastAdmin => Kind::LastAdminToken,
            ServiceError::SettingNotFound(SettingKind::Config) => Kind::ConfigNotFound,
            ServiceError::SettingNotFound(SettingKind::Secret) => Kind::SecretNotFound,
            ServiceError::SigningKey { .. } => Kind::InvalidArgument,
            ServiceError::Secrets(ref error) => {
                log_cause(error);
                Kind::SecretsUnavailable
            }
            ServiceError::Full(_) => {
                log_cause(&error);
                Kind::StoreFull
            }
            ServiceError::Unavailable(_) => {
                log_cause(&error);
                return Problem::new(Kind::StoreUnavailable, error.to_string())
                    .retry_after(Duration::from_secs(1));
            }
            ServiceError::Internal(_) => return Problem::internal(&error),
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<Unauthenticated> for Problem {
    fn from(error: Unauthenticated) -> Problem {
        match error {
            Unauthenticated::Invalid => Problem::new(Kind::TokenInvalid, error.to_string()),
            Unauthenticated::Service(error) => error.into(),
        }
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Problem {
        match error {
            LoadError::Invalid(invalid) => invalid.into(),
            LoadError::Busy => {
                Problem::new(Kind::Busy, error.to_string()).retry_after(Duration::from_secs(5))
            }
            LoadError::Store(ref cause) => match &**cause {
                ServiceError::Unavailable(_) => {
                    Problem::new(Kind::StoreUnavailable, error.to_string())
                        .retry_after(Duration::from_secs(1))
                }
                _ => Problem::internal(&error),
            },
            LoadError::Host(_) => Problem::internal(&error),
            LoadError::NotWasm(_)
            | LoadError::UnknownImport { .. }
            | LoadError::ForBrowsers(_)
            | LoadError::ImportMismatch(_)
            | LoadError::NoMemory
            | LoadError::Manifest(_)
            | LoadError::MissingFunction(_)
            | LoadError::WrongType { .. }
            | LoadError::LongName { .. }
            | LoadError::ManyNames { .. }
            | LoadError::TooMuch { .. }
            | LoadError::InstanceTooLarge
            | LoadError::CompilerMemory(_)
            | LoadError::CodeTooLarge(_)
            | LoadError::CompilerFailed
            | LoadError::TooSlow(_) => Problem::new(Kind::ModuleRefused, error.to_string()),
        }
    }
}

impl From<DeployError> for Problem {
    fn from(error: DeployError) -> Problem {
        match error {
            DeployError::Load(error) => error.into(),
            DeployError::Service(error) => error.into(),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let kind = match refusal {
            Refusal::Rate { .. } | Refusal::Queue { .. } | Refusal::QueueTimeout(_) => {
                Kind::RateLimited
            }
            Refusal::Disconnected => Kind::Busy,
        };
        Problem::new(kind, refusal.to_string()).retry_after(refusal.retry_after())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_problem_has_a_distinct_type() {
        let slugs: HashSet<_> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }

    #[test]
    fn key_in_use_is_a_conflict_to_retry() {
        let problem = Problem::from(ServiceError::KeyInUse).render(Uuid::nil());
        assert_eq!(problem.status(), StatusCode::CONFLICT);
        assert_eq!(problem.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn each_problem_type_is_documented_with_its_status() {
        let docs = include_str!("../../../docs/http.md");
        for kind in Kind::ALL {
            let row = format!("| `{}` | {} |", kind.slug(), kind.status().as_u16());
            assert!(docs.contains(&row), "docs/http.md lacks {row}");
        }
    }
}
