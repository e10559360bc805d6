//! How a command ends: its exit code, and for a failure its message.

use kvasm::model::Invalid;
use kvasm::service::ServiceError;
use kvasm::store::StoreError;
use kvasm::{Blame, CallFailure, LoadError, RuntimeError};
use std::error::Error;
use std::io;
use std::process::ExitCode;

/// A command that did what it was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// What was asked for is not there.
    Absent,
}

impl Outcome {
    pub(super) fn code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Absent => 1,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    User,
    Plugin,
    Host,
    /// Whoever read the output has gone; nothing is wrong.
    ClosedPipe,
}

/// A command that failed.
pub(super) struct Failure {
    fault: Fault,
    message: String,
    request_id: Option<String>,
    /// What the guest logged, for `--json`; people have read it already.
    log: Option<serde_json::Value>,
}

impl Failure {
    /// The user's fault.
    pub(super) fn user(message: impl Into<String>) -> Failure {
        Failure::new(Fault::User, message)
    }

    /// The host's fault, or that of what it stands on.
    pub(super) fn host(message: impl Into<String>) -> Failure {
        Failure::new(Fault::Host, message)
    }

    fn new(fault: Fault, message: impl Into<String>) -> Failure {
        Failure {
            fault,
            message: message.into(),
            request_id: None,
            log: None,
        }
    }

    /// With words in front that say where it happened.
    pub(super) fn at(mut self, place: &str) -> Failure {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Prints the message and gives the exit code.
    pub(super) fn report(self, json: bool) -> ExitCode {
        let (blame, code) = match self.fault {
            Fault::ClosedPipe => return ExitCode::SUCCESS,
            Fault::User => ("user", 2),
            Fault::Plugin => ("plugin", 3),
            Fault::Host => ("host", 4),
        };
        if json {
            let error = serde_json::json!({
                "error": { "blame": blame, "message": self.message, "request_id": self.request_id, "log": self.log }
            });
            eprintln!("{error}");
        } else {
            eprintln!("error: {}", self.message);
            if let Some(id) = self.request_id {
                eprintln!("request {id}");
            }
        }
        ExitCode::from(code)
    }
}

/// An error and what caused it, on one line.
fn chain(error: &dyn Error) -> String {
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
            io::ErrorKind::BrokenPipe => Failure::new(Fault::ClosedPipe, ""),
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
            StoreError::AppExists | StoreError::AppNotFound | StoreError::Conflict { .. } => {
                Failure::user(error.to_string())
            }
            StoreError::Unavailable(_) | StoreError::Failed(_) => Failure::host(chain(&error)),
        }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Failure {
        match &error {
            ServiceError::Invalid(_)
            | ServiceError::Denied(_)
            | ServiceError::Conflict
            | ServiceError::AppNotFound => Failure::user(error.to_string()),
            ServiceError::Unavailable(cause) | ServiceError::Internal(cause) => {
                Failure::host(chain(cause))
            }
        }
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Failure {
        Failure::host(chain(&error))
    }
}

impl From<Blame> for Fault {
    fn from(blame: Blame) -> Fault {
        match blame {
            Blame::Caller => Fault::User,
            Blame::Guest => Fault::Plugin,
            Blame::Host => Fault::Host,
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        Failure::new(error.blame().into(), chain(&error))
    }
}

impl From<CallFailure> for Failure {
    fn from(failure: CallFailure) -> Failure {
        Failure {
            fault: failure.error.blame().into(),
            message: failure.error.to_string(),
            request_id: Some(failure.request_id.to_string()),
            log: Some(serde_json::json!(failure.log.lines())),
        }
    }
}
