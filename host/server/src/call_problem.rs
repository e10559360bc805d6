//! The problems of failed calls. What a plugin says about its failure is for those who may read the
//! app's log; others get the request id, under which the log has it.

use super::problem::{Kind, Problem};
use kvasm_abi::EXIT_REFUSED;
use kvasm_core::{App, Capability, Principal};
use kvasm_host::InvokeError;
use kvasm_runtime::{CallError, CallFailure, LoadError};
use kvasm_service::Stage;
use std::time::Duration;

/// What the public sees of a failure that the app's log explains.
const IN_THE_LOG: &str = "the reason is in the app's log, under this request id";

/// Who receives the problem of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Anyone who may call the app, such as an end user.
    Public,
    /// A token that may read the app's log.
    LogReader,
}

impl Audience {
    pub(super) fn of(app: &App, principal: Option<&Principal>) -> Audience {
        match principal {
            Some(principal) if principal.holds(Capability::LogRead(app.id)) => Audience::LogReader,
            _ => Audience::Public,
        }
    }

    /// Returns `detail` for those who may read the app's log, and where it is for others.
    fn detail(self, detail: impl FnOnce() -> String) -> String {
        match self {
            Audience::LogReader => detail(),
            Audience::Public => IN_THE_LOG.to_owned(),
        }
    }
}

impl Problem {
    /// The problem of a failed function. The message of a refusal is for every caller: it says what
    /// is wrong with the input.
    pub(super) fn of_call(error: InvokeError, audience: Audience) -> Problem {
        match error {
            InvokeError::Service(error) => error.into(),
            InvokeError::Refused(refusal) => refusal.into(),
            // The module was valid when it was uploaded.
            InvokeError::Load(error) => match error {
                LoadError::Busy | LoadError::Store(_) => error.into(),
                error => Problem::internal(&error),
            },
            InvokeError::Timeout(timeout) => of_error(timeout.into(), None, audience),
            InvokeError::Call(failure) => of_error(failure.error, failure.log.panic(), audience),
        }
    }

    /// The problem of a failed HTTP handler. It has no refusals: it sends its clients responses.
    pub(super) fn of_handler(error: InvokeError, audience: Audience) -> Problem {
        match error {
            InvokeError::Call(CallFailure {
                error: CallError::Failed { code, message },
                ..
            }) => failed(code, &message, audience),
            error => Problem::of_call(error, audience),
        }
    }

    /// The problem of an HTTP handler whose output is not a response.
    pub(super) fn of_invalid_response(why: String, audience: Audience) -> Problem {
        let detail = match audience {
            Audience::LogReader => why,
            Audience::Public => "the plugin did not return a valid response".to_owned(),
        };
        Problem::new(Kind::PluginAnswer, detail)
    }
}

/// The message and place of a panic, the trap that it ended in, and the backtrace: those that are
/// known.
fn trap_detail(panic: Option<&str>, reason: &str, backtrace: &str) -> String {
    let parts = [panic.unwrap_or_default(), reason, backtrace];
    let known: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    known.join("\n")
}

/// The problem of an error, which a panic may explain.
fn of_error(error: CallError, panic: Option<&str>, audience: Audience) -> Problem {
    let soon = Duration::from_secs(1);
    match error {
        CallError::Commit(refusal) | CallError::Settings(refusal) => match audience {
            Audience::LogReader => refusal.into(),
            Audience::Public => refusal.without_names().into(),
        },
        CallError::UnknownFunction { ref name, .. } => {
            let detail = match audience {
                Audience::LogReader => error.to_string(),
                Audience::Public => format!("the plugin has no function {name:?}"),
            };
            Problem::new(Kind::FunctionNotFound, detail)
        }
        CallError::NoHttpHandler => Problem::new(Kind::NoHttpHandler, error.to_string()),
        CallError::NoHandler(_) => Problem::new(Kind::FunctionNotFound, error.to_string()),
        CallError::Conflict { .. } => {
            Problem::new(Kind::TransactionConflict, error.to_string()).retry_after(soon)
        }
        CallError::Invalid(invalid) => invalid.into(),
        CallError::Failed { code, message } if code == EXIT_REFUSED => {
            let detail = match message.as_str() {
                "" => "the function gave no reason",
                message => message,
            };
            Problem::new(Kind::InputRefused, detail)
        }
        CallError::Failed { code, message } => failed(code, &message, audience),
        CallError::Trap { reason, backtrace } | CallError::Start { reason, backtrace } => {
            let detail = audience.detail(|| trap_detail(panic, &reason, &backtrace));
            Problem::new(Kind::PluginTrapped, detail)
        }
        CallError::Deadline { ref timeout, .. } => {
            let detail = match audience {
                Audience::LogReader => error.to_string(),
                Audience::Public => timeout.to_string(),
            };
            match timeout.longest() {
                Stage::Instance | Stage::Cpu | Stage::Loading => {
                    Problem::new(Kind::Busy, detail).retry_after(soon)
                }
                _ => Problem::new(Kind::PluginTimeout, detail),
            }
        }
        CallError::CpuTime { .. } => Problem::new(Kind::PluginTimeout, error.to_string()),
        CallError::HostMemory => Problem::new(Kind::Busy, error.to_string()).retry_after(soon),
        CallError::Host(_) => Problem::internal(&error),
    }
}

/// The problem of a function or handler that returned an error.
fn failed(code: i32, message: &str, audience: Audience) -> Problem {
    let detail = audience.detail(|| match message {
        "" => format!("exit code {code}, without a message"),
        message => message.to_owned(),
    });
    Problem::new(Kind::PluginFailed, detail)
}
