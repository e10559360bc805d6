//! Errors as RFC 9457 problem details. Each case has a `type` of its own that
//! does not change.

use super::budget::NoRoom;
use crate::PROBLEMS;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use kvasm_abi::EXIT_REFUSED;
use kvasm_api::ProblemView;
use kvasm_core::{Invalid, short};
use kvasm_host::{DeployError, InvokeError};
use kvasm_runtime::{CallError, LoadError};
use kvasm_service::{Refusal, ServiceError, Stage, Unauthenticated, line_about_request};
use std::error::Error;
use std::time::Duration;
use uuid::Uuid;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $status:ident $slug:literal $title:literal,)*) => {
        /// The cases.
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
    RouteNotFound = NOT_FOUND "route-not-found" "There is no such route",
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed" "The route does not take this method",
    UriTooLong = URI_TOO_LONG "uri-too-long" "The path and query are too long",
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE "headers-too-large" "The headers are too large",
    InvalidArgument = BAD_REQUEST "invalid-argument" "An argument is refused",
    MalformedJson = BAD_REQUEST "malformed-json" "The body is not the JSON that this route takes",
    MalformedLine = BAD_REQUEST "malformed-line" "A line of the import is refused",
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" "The body has another content type than this route takes",
    UnsupportedEncoding = UNSUPPORTED_MEDIA_TYPE "unsupported-content-encoding" "The body is compressed, or encoded in another way",
    BodyTooLarge = PAYLOAD_TOO_LARGE "body-too-large" "The body is over the limit",
    BodyTimeout = REQUEST_TIMEOUT "body-timeout" "The body did not arrive in time",
    BodyBroken = BAD_REQUEST "body-broken" "The request body was truncated",
    TokenRequired = UNAUTHORIZED "token-required" "This needs a token",
    TokenInvalid = UNAUTHORIZED "token-invalid" "The token is not valid",
    Forbidden = FORBIDDEN "forbidden" "The token does not allow this",
    ScopeExceeded = FORBIDDEN "scope-exceeded" "A token cannot grant what its maker does not have",
    LifetimeExceeded = FORBIDDEN "lifetime-exceeded" "A token cannot outlast that of its maker",
    AppNotFound = NOT_FOUND "app-not-found" "There is no such app",
    AppExists = CONFLICT "app-exists" "The app's name is taken",
    EntryNotFound = NOT_FOUND "entry-not-found" "There is no such entry",
    PreconditionFailed = PRECONDITION_FAILED "precondition-failed" "A precondition does not hold",
    NoInteger = CONFLICT "no-integer" "The entry cannot be added to",
    TriggerNotFound = NOT_FOUND "trigger-not-found" "There is no such trigger",
    TriggerHasDeliveries = CONFLICT "trigger-has-deliveries" "The trigger has outstanding deliveries",
    DeadLetterNotFound = NOT_FOUND "dead-letter-not-found" "There is no such dead letter",
    TokenNotFound = NOT_FOUND "token-not-found" "There is no such token",
    LastAdminToken = CONFLICT "last-admin-token" "The token is the last that administers the instance",
    PluginNotFound = NOT_FOUND "plugin-not-found" "There is no such plugin version",
    PluginActive = CONFLICT "plugin-active" "The plugin version is active",
    NoActivePlugin = NOT_FOUND "no-active-plugin" "The app has no active plugin",
    NothingToRollBackTo = CONFLICT "nothing-to-roll-back-to" "There is no version to roll back to",
    ModuleRefused = UNPROCESSABLE_ENTITY "module-refused" "The module cannot run here",
    FunctionNotFound = NOT_FOUND "function-not-found" "The plugin has no such function",
    NoHttpHandler = NOT_FOUND "no-http-handler" "The plugin answers no HTTP requests",
    InputRefused = UNPROCESSABLE_ENTITY "input-refused" "The function refuses its input",
    PluginFailed = INTERNAL_SERVER_ERROR "plugin-failed" "The plugin's function failed",
    PluginTrapped = INTERNAL_SERVER_ERROR "plugin-trapped" "The plugin trapped",
    PluginAnswer = BAD_GATEWAY "plugin-answer" "The plugin's answer is no HTTP response",
    TransactionConflict = CONFLICT "transaction-conflict" "Others changed what the transaction read",
    PluginTimeout = GATEWAY_TIMEOUT "plugin-timeout" "The call used up its time",
    RateLimited = TOO_MANY_REQUESTS "rate-limited" "Too many calls",
    QuotaExceeded = INSUFFICIENT_STORAGE "quota-exceeded" "The app's quota is used up",
    StoreFull = INSUFFICIENT_STORAGE "store-full" "The host's store is full",
    StoreUnavailable = SERVICE_UNAVAILABLE "store-unavailable" "The store cannot be reached",
    NotReady = SERVICE_UNAVAILABLE "not-ready" "The host is not ready",
    Busy = SERVICE_UNAVAILABLE "busy" "The host is busy",
    Internal = INTERNAL_SERVER_ERROR "internal" "The host failed",
}

/// The most bytes of a problem's detail.
const DETAIL_BYTES_MAX: usize = 8 * 1024;

/// An answer that is an error.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    retry_after: Option<Duration>,
    /// Members that only some cases have.
    failed: Option<Box<serde_json::Value>>,
    failing: Option<Box<serde_json::Value>>,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem {
            kind,
            detail: short(&detail.into(), DETAIL_BYTES_MAX).to_owned(),
            retry_after: None,
            failed: None,
            failing: None,
        }
    }

    /// The same, of an import that has written some entries before.
    pub(super) fn after(mut self, imported: u64) -> Problem {
        self.detail = format!("{imported} entries were imported, then: {}", self.detail);
        self
    }

    /// The same, of a batch, with the entries that were not as expected.
    pub(super) fn failed(mut self, entries: serde_json::Value) -> Problem {
        self.failed = Some(Box::new(entries));
        self
    }

    /// The same, of a server that is not ready, with what fails.
    pub(super) fn failing(mut self, parts: serde_json::Value) -> Problem {
        self.failing = Some(Box::new(parts));
        self
    }

    /// Whether the host could not answer, rather than the sender not ask.
    pub(super) fn is_of_the_host(&self) -> bool {
        self.kind.status().is_server_error()
    }

    /// Whether it was one call too many.
    pub(super) fn is_rate(&self) -> bool {
        self.kind == Kind::RateLimited
    }

    pub(super) fn is_app_gone(&self) -> bool {
        self.kind == Kind::AppNotFound
    }

    pub(super) fn retry_after(mut self, after: Duration) -> Problem {
        self.retry_after = Some(after);
        self
    }

    /// How the HTTP handler of a plugin failed. What it says of that is for its author:
    /// the plugin's words to its client are its responses.
    pub(super) fn of_handler(error: InvokeError) -> Problem {
        match &error {
            InvokeError::Call(failure) => match &failure.error {
                CallError::Failed { .. } => {
                    let detail = "its author finds why in the app's log under this request's id";
                    Problem::new(Kind::PluginFailed, detail)
                }
                _ => error.into(),
            },
            _ => error.into(),
        }
    }

    /// An error of the host: its cause goes to the log, and not into the answer.
    pub(super) fn internal(error: &(dyn Error + 'static)) -> Problem {
        log_cause(error);
        let detail = "the operator finds the cause in the host's log";
        Problem::new(Kind::Internal, detail)
    }

    /// The response, once the request's id is known.
    pub(super) fn render(self, request_id: Uuid) -> Response {
        let body = ProblemView {
            kind: format!("{PROBLEMS}{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: self.detail,
            request_id: request_id.to_string(),
            failed: self.failed.map(|entries| *entries),
            failing: self.failing.map(|parts| *parts),
        };
        // Text and numbers are written without fail.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, json);
        if let Some(after) = self.retry_after {
            // Whole seconds, and never 0, which would mean at once.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
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
    /// Leaves the problem in the response's extensions; the outermost layer, which
    /// knows the request's id, renders it.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Logs the cause of an error of the host, unless there were too many of late: each
/// request to a store that fails has one.
fn log_cause(error: &(dyn Error + 'static)) {
    let cause = error.source().unwrap_or(error);
    if let Some(suppressed) = line_about_request() {
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
            _ => Kind::InvalidArgument,
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Problem {
        let kind = match error {
            ServiceError::Invalid(invalid) => return invalid.into(),
            ServiceError::Denied(_) => Kind::Forbidden,
            ServiceError::Conflict { .. } | ServiceError::LimitsChanged => Kind::PreconditionFailed,
            ServiceError::NotInteger | ServiceError::Overflow => Kind::NoInteger,
            ServiceError::LeaseLost => return Problem::internal(&error),
            ServiceError::TriggerNotFound => Kind::TriggerNotFound,
            ServiceError::TriggerHasDeliveries { .. } => Kind::TriggerHasDeliveries,
            ServiceError::DeadLetterNotFound => Kind::DeadLetterNotFound,
            ServiceError::Quota { .. } => Kind::QuotaExceeded,
            ServiceError::AppNotFound => Kind::AppNotFound,
            ServiceError::AppExists(_) => Kind::AppExists,
            ServiceError::PluginNotFound(_) => Kind::PluginNotFound,
            ServiceError::NoActivePlugin => Kind::NoActivePlugin,
            ServiceError::PluginActive(_) => Kind::PluginActive,
            ServiceError::NothingToRollBackTo => Kind::NothingToRollBackTo,
            ServiceError::TokenNotFound => Kind::TokenNotFound,
            ServiceError::ScopeExceeded(_) => Kind::ScopeExceeded,
            ServiceError::LifetimeExceeded(_) => Kind::LifetimeExceeded,
            ServiceError::LastAdmin => Kind::LastAdminToken,
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
            | LoadError::ImportMismatch(_)
            | LoadError::NoMemory
            | LoadError::Manifest(_)
            | LoadError::MissingFunction(_)
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
            Refusal::Rate { .. } | Refusal::Queue { .. } | Refusal::Waited(_) => Kind::RateLimited,
            Refusal::Left => Kind::Busy,
        };
        Problem::new(kind, refusal.to_string()).retry_after(refusal.retry_after())
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Problem {
        let error = match error {
            CallError::Commit(refusal) => return refusal.into(),
            other => other,
        };
        let kind = match &error {
            CallError::UnknownFunction { .. } => Kind::FunctionNotFound,
            CallError::NoHttpHandler => Kind::NoHttpHandler,
            CallError::NoHandler(_) => Kind::FunctionNotFound,
            CallError::Conflict { .. } => {
                return Problem::new(Kind::TransactionConflict, error.to_string())
                    .retry_after(Duration::from_secs(1));
            }
            CallError::Invalid(invalid) => return invalid.clone().into(),
            // The plugin's own words to its caller.
            CallError::Failed { code, message } if *code == EXIT_REFUSED => {
                let detail = match message.as_str() {
                    "" => "the function does not say why",
                    message => message,
                };
                return Problem::new(Kind::InputRefused, detail);
            }
            CallError::Failed { code, message } => {
                let detail = match message.as_str() {
                    "" => format!("it ended with code {code}, without a message"),
                    message => message.to_owned(),
                };
                return Problem::new(Kind::PluginFailed, detail);
            }
            // Where in the plugin is for its author, who finds it in the app's log.
            CallError::Trap { .. } | CallError::Start { .. } => {
                let detail = "its author finds where in the app's log under this request's id";
                return Problem::new(Kind::PluginTrapped, detail);
            }
            CallError::Deadline { timeout, .. } => match timeout.longest() {
                Stage::Instance | Stage::Cpu | Stage::Loading => {
                    return Problem::new(Kind::Busy, error.to_string())
                        .retry_after(Duration::from_secs(1));
                }
                _ => Kind::PluginTimeout,
            },
            CallError::CpuTime { .. } => Kind::PluginTimeout,
            CallError::HostMemory => {
                return Problem::new(Kind::Busy, error.to_string())
                    .retry_after(Duration::from_secs(1));
            }
            CallError::Host(_) | CallError::Commit(_) => return Problem::internal(&error),
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<InvokeError> for Problem {
    fn from(error: InvokeError) -> Problem {
        match error {
            InvokeError::Service(error) => error.into(),
            InvokeError::Refused(refusal) => refusal.into(),
            // The module was good when it was uploaded.
            InvokeError::Load(error) => match error {
                LoadError::Busy | LoadError::Store(_) => error.into(),
                error => Problem::internal(&error),
            },
            InvokeError::Timeout(timeout) => CallError::from(timeout).into(),
            InvokeError::Call(failure) => failure.error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;
    use std::collections::HashSet;

    #[test]
    fn each_case_has_a_type_of_its_own() {
        let slugs: HashSet<_> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }

    #[test]
    fn each_type_is_in_the_docs_with_its_status() {
        let docs = include_str!("../../../docs/http.md");
        for kind in Kind::ALL {
            let row = format!("| `{}` | {} |", kind.slug(), kind.status().as_u16());
            assert!(docs.contains(&row), "docs/http.md lacks {row}");
        }
    }
}
