//! The result of a command: its exit code and, for a failure, its message.

use super::global::Global;
use super::{call, output};
use axum::http::StatusCode;
use kvasm::api::{CostView, EntryRef};
use kvasm::model::{AppName, Invalid};
use kvasm::server::PROBLEMS;
use kvasm::service::{SecretsError, ServiceError};
use kvasm::store::StoreError;
use kvasm::{Blame, CallFailure, LoadError, RuntimeError};
use std::error::Error;
use std::io;
use std::process::ExitCode;
use uuid::Uuid;

/// The result of a command that did not fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CommandOutcome {
    Done,
    /// The requested item does not exist.
    NotFound,
}

impl CommandOutcome {
    pub(super) fn code(self) -> u8 {
        match self {
            CommandOutcome::Done => 0,
            CommandOutcome::NotFound => 1,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FailureSource {
    User,
    Plugin,
    Host,
    /// The reader of the output closed the pipe, which is not an error.
    ClosedPipe,
}

/// A command that failed.
pub(super) struct Failure {
    fault: FailureSource,
    message: String,
    request_id: Option<String>,
    /// The guest's log, for `--json`; without it, the log was printed as it arrived.
    log: Option<Box<serde_json::Value>>,
    /// The status and problem type of an error response of the host, if it was one.
    problem: Option<(StatusCode, String)>,
    /// The command that shows the log of the failed call.
    log_command: Option<Box<str>>,
    /// What a failed call used, if that was asked for.
    cost: Option<Box<CostView>>,
}

/// The fields of a problem document that this program reads.
#[derive(Default, serde::Deserialize)]
struct ProblemFields {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    request_id: Option<String>,
    /// For a batch: the entries whose check failed.
    #[serde(default)]
    failed: Vec<EntryRef>,
}

/// The entries whose check failed, shortened for a message.
fn list_entries(failed: &[EntryRef]) -> String {
    const NAMED_MAX: usize = 5;
    let named = failed.iter().take(NAMED_MAX);
    let named = named.map(|entry| format!("{:?} of {:?}", entry.key, entry.collection));
    let mut named = named.collect::<Vec<_>>().join(", ");
    if failed.len() > NAMED_MAX {
        let more = failed.len() - NAMED_MAX;
        named.push_str(&format!(" and {more} more"));
    }
    named
}

impl Failure {
    /// The user's fault.
    pub(super) fn user(message: impl Into<String>) -> Failure {
        Failure::new(FailureSource::User, message)
    }

    /// The host's fault, or that of a service it depends on.
    pub(super) fn host(message: impl Into<String>) -> Failure {
        Failure::new(FailureSource::Host, message)
    }

    /// The plugin's fault.
    pub(super) fn plugin(message: impl Into<String>) -> Failure {
        Failure::new(FailureSource::Plugin, message)
    }

    fn new(fault: FailureSource, message: impl Into<String>) -> Failure {
        Failure {
            fault,
            message: message.into(),
            request_id: None,
            log: None,
            log_command: None,
            problem: None,
            cost: None,
        }
    }

    /// The app does not exist.
    pub(super) fn no_app(name: &AppName) -> Failure {
        Failure::user(format!(
            "there is no app {name}; create it with `kvasm app create {name}`"
        ))
    }

    /// An error response of the host.
    pub(super) fn from_problem(status: StatusCode, body: &[u8]) -> Failure {
        let problem: ProblemFields = serde_json::from_slice(body).unwrap_or_default();
        let kind = problem.kind.strip_prefix(PROBLEMS).unwrap_or_default();
        let fault = match kind {
            "plugin-failed" | "plugin-trapped" | "plugin-timeout" | "plugin-answer"
            | "module-refused" => FailureSource::Plugin,
            _ if status.is_server_error() && kind != "quota-exceeded" => FailureSource::Host,
            _ => FailureSource::User,
        };
        let message = match (kind, problem.detail) {
            ("", _) => format!("the server answered {status}; is it a Kvasm server?"),
            ("plugin-trapped", detail) => format!("{}: {detail}", problem.title),
            ("body-timeout", detail) => format!(
                "the server stopped waiting for the rest of the input (see its settings \
                 server.body_timeout and server.min_rate): {detail}"
            ),
            (_, detail) if !problem.failed.is_empty() => {
                format!("{detail}; failed checks: {}", list_entries(&problem.failed))
            }
            (_, detail) => detail,
        };
        Failure {
            problem: Some((status, kind.to_owned())),
            request_id: problem.request_id.filter(|_| fault != FailureSource::User),
            ..Failure::new(fault, message)
        }
    }

    /// The status of the host's response.
    pub(super) fn status(&self) -> Option<StatusCode> {
        self.problem.as_ref().map(|(status, _)| *status)
    }

    /// Whether the host responded with this problem type.
    pub(super) fn is_kind(&self, kind: &str) -> bool {
        self.problem
            .as_ref()
            .is_some_and(|(_, found)| found == kind)
    }

    /// Whether the reader of the output closed the pipe, which is not an error.
    pub(super) fn is_closed_pipe(&self) -> bool {
        self.fault == FailureSource::ClosedPipe
    }

    /// Whether the same request may succeed later.
    pub(super) fn may_pass(&self) -> bool {
        let is_limited = self.status() == Some(StatusCode::TOO_MANY_REQUESTS);
        self.fault == FailureSource::Host || is_limited
    }

    /// Returns the message.
    pub(super) fn text(&self) -> &str {
        &self.message
    }

    /// Prefixes the message with the place of the failure.
    pub(super) fn at(mut self, place: &str) -> Failure {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Blames the plugin if the host responded with one of these problem types, which blame the
    /// caller where they are not about a plugin.
    pub(super) fn of_plugin_if(mut self, kinds: &[&str]) -> Failure {
        if kinds.iter().any(|kind| self.is_kind(kind)) {
            self.fault = FailureSource::Plugin;
        }
        self
    }

    /// Adds what to do.
    pub(super) fn with_advice(mut self, advice: &str) -> Failure {
        self.message = format!("{}. {advice}", self.message);
        self
    }

    /// Adds the command that shows the app's log of the request, if the plugin failed.
    pub(super) fn with_log_of(mut self, global: &Global, app: &AppName) -> Failure {
        // As an id, since the text comes from the server and people paste the command.
        let id = self.request_id.as_deref().map(Uuid::try_parse);
        if let (FailureSource::Plugin, Some(Ok(id))) = (self.fault, id) {
            let command = global.suggest(&format!("logs {app} --request {id}"));
            self.log_command = Some(command.into());
        }
        self
    }

    /// Adds what the call used.
    pub(super) fn with_cost(mut self, cost: Option<CostView>) -> Failure {
        self.cost = cost.map(Box::new);
        self
    }

    /// Prints the message, for a command that continues.
    pub(super) fn note(&self) {
        output::note_item(&format!("error: {}", self.message));
    }

    /// Prints the message and returns the exit code.
    pub(super) fn report(self, json: bool) -> ExitCode {
        let (blame, code) = match self.fault {
            FailureSource::ClosedPipe => return ExitCode::SUCCESS,
            FailureSource::User => ("user", 2),
            FailureSource::Plugin => ("plugin", 3),
            FailureSource::Host => ("host", 4),
        };
        if json {
            let mut error = serde_json::json!({
                "error": { "blame": blame, "message": self.message, "request_id": self.request_id, "log": self.log }
            });
            if let (Some(cost), Some(members)) = (self.cost, error.as_object_mut()) {
                members.insert("cost".to_owned(), serde_json::json!(cost));
            }
            output::note_json(&error);
        } else {
            output::note_item(&format!("error: {}", self.message));
            match (self.log_command, self.request_id) {
                (Some(command), _) => output::note(&format!("log: {command}")),
                (None, Some(id)) => output::note(&format!("request {id}")),
                (None, None) => {}
            }
            if let Some(cost) = self.cost {
                call::note_cost(&cost);
            }
        }
        ExitCode::from(code)
    }
}

/// An error and its causes, on one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(FailureSource::ClosedPipe, ""),
            _ => Failure::host(error.to_string()),
        }
    }
}

impl From<Invalid> for Failure {
    fn from(error: Invalid) -> Failure {
        Failure::user(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match &error {
            StoreError::AppExists
            | StoreError::AppNotFound
            | StoreError::Conflict { .. }
            | StoreError::NotInteger { .. }
            | StoreError::Overflow { .. }
            | StoreError::AnswerTooLarge { .. }
            | StoreError::TooManyTriggers { .. }
            | StoreError::LimitsChanged
            | StoreError::LastAdmin
            | StoreError::OtherSecretsKey { .. }
            | StoreError::Quota { .. }
            | StoreError::PluginNotFound(_)
            | StoreError::PluginActive(_)
            | StoreError::NeedsUnmet(_)
            | StoreError::NothingToRollBackTo => Failure::user(error.to_string()),
            StoreError::Unavailable(_)
            | StoreError::Full(_)
            | StoreError::Failed(_)
            | StoreError::Deliveries { .. }
            | StoreError::AlreadyAnswered
            | StoreError::LeaseLost => Failure::host(with_causes(&error)),
        }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Failure {
        match &error {
            ServiceError::Unavailable(cause)
            | ServiceError::Full(cause)
            | ServiceError::Internal(cause) => Failure::host(with_causes(cause)),
            ServiceError::Secrets(cause) => Failure::host(with_causes(cause)),
            _ => Failure::user(error.to_string()),
        }
    }
}

impl From<SecretsError> for Failure {
    fn from(error: SecretsError) -> Failure {
        Failure::host(with_causes(&error))
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Failure {
        Failure::host(with_causes(&error))
    }
}

impl From<Blame> for FailureSource {
    fn from(blame: Blame) -> FailureSource {
        match blame {
            Blame::Caller => FailureSource::User,
            Blame::Guest => FailureSource::Plugin,
            Blame::Host => FailureSource::Host,
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        Failure::new(error.blame().into(), with_causes(&error))
    }
}

impl From<CallFailure> for Failure {
    fn from(failure: CallFailure) -> Failure {
        Failure {
            fault: failure.error.blame().into(),
            message: failure.error.to_string(),
            request_id: Some(failure.request_id.to_string()),
            log: Some(Box::new(serde_json::json!(failure.log.lines()))),
            log_command: None,
            problem: None,
            cost: None,
        }
    }
}
