//! Failures as exit codes and messages. What a failure means is told by its
//! type, never by its text.

use super::output::Output;
use kvasm::model::{Invalid, UnknownScope};
use kvasm::service::ServiceError;
use kvasm::store::StoreError;
use kvasm::{Blame, CallError, CallFailure, GuestLog, LoadError, RuntimeError};
use std::error::Error as StdError;
use std::io::{self, Write};
use std::process::ExitCode;
use thiserror::Error;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// What was asked for is done.
    Done,
    /// What was asked for is not there.
    Absent,
    /// The user's arguments or data are refused.
    User,
    /// The plugin failed.
    Plugin,
    /// The host, its store or its machine failed.
    Host,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Absent => 1,
            Exit::User => 2,
            Exit::Plugin => 3,
            Exit::Host => 4,
        }
    }

    /// The word for it in JSON.
    fn blame(self) -> &'static str {
        match self {
            Exit::Done | Exit::Absent => "nobody",
            Exit::User => "user",
            Exit::Plugin => "plugin",
            Exit::Host => "host",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// What the user gave is refused. The message says what to do instead.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) String);

/// The machine below the program failed.
#[derive(Debug, Error)]
#[error("{what}")]
pub(super) struct Machine {
    what: &'static str,
    source: io::Error,
}

impl Machine {
    /// Wraps an error of the system.
    pub(super) fn of(what: &'static str) -> impl FnOnce(io::Error) -> Machine {
        move |source| Machine { what, source }
    }
}

/// Stdout does not take what is written.
#[derive(Debug, Error)]
#[error("the output cannot be written")]
pub(super) struct OutputError(#[from] io::Error);

/// Part of a stream was done before it failed.
#[derive(Debug, Error)]
#[error("{context}")]
pub(super) struct Interrupted {
    /// Where it stopped, and how far it had come.
    pub(super) context: String,
    /// Why; it decides on the exit code.
    pub(super) source: anyhow::Error,
}

/// What an error tells the user.
#[derive(serde::Serialize)]
struct Report<'a> {
    blame: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<&'a [kvasm::LogLine]>,
}

/// Prints an error of the command line itself, or its help.
pub(super) fn arguments(error: &clap::Error) -> Exit {
    let asked_for_json = std::env::args_os().any(|argument| argument == "--json");
    if !error.use_stderr() || !asked_for_json {
        // Nobody is left to tell when this cannot be printed either.
        let _ = error.print();
        return if error.use_stderr() { Exit::User } else { Exit::Done };
    }
    let text = error.render().to_string();
    let message = text.strip_prefix("error: ").unwrap_or(&text);
    print(Exit::User, message.trim_end().to_owned(), None, &mut Output::new(true));
    Exit::User
}

/// Prints an error and says how the program ends.
pub(super) fn report(error: &anyhow::Error, output: &mut Output) -> Exit {
    if closed_pipe(error) {
        // Whoever read the output has had enough, as `head` has.
        return Exit::Done;
    }
    let exit = blame(error.as_ref());
    let failure = error.downcast_ref::<CallFailure>();
    print(exit, message(error.as_ref()), failure, output);
    exit
}

fn closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<OutputError>()
        .is_some_and(|OutputError(cause)| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn print(exit: Exit, message: String, failure: Option<&CallFailure>, output: &mut Output) {
    let request_id = failure.map(|failure| failure.request_id.to_string());
    if output.is_json() {
        let report = Report {
            blame: exit.blame(),
            message,
            request_id,
            log: failure.map(|failure| failure.log.lines()),
        };
        let printed = output.json(&serde_json::json!({ "error": report }));
        let _ = printed.and_then(|()| output.flush());
        return;
    }
    // What there was to say before the failure comes first.
    let _ = output.flush();
    if let Some(failure) = failure {
        guest_log(&failure.log);
    }
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", super::output::clean_lines(&message));
    if let Some(id) = request_id {
        let _ = writeln!(stderr, "request {id}");
    }
}

/// Prints what a guest logged to stderr.
pub(super) fn guest_log(log: &GuestLog) {
    let mut stderr = io::stderr().lock();
    for line in log.lines() {
        let _ = writeln!(stderr, "{line}");
    }
    if log.dropped() > 0 {
        let _ = writeln!(stderr, "... and {} more lines, which were dropped", log.dropped());
    }
}

/// Whose fault an error is: the first in the chain of causes that knows.
fn blame(error: &(dyn StdError + 'static)) -> Exit {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(exit) = known(error) {
            return exit;
        }
        cause = error.source();
    }
    Exit::Host
}

fn known(error: &(dyn StdError + 'static)) -> Option<Exit> {
    if error.is::<Refused>() || error.is::<Invalid>() || error.is::<UnknownScope>() {
        return Some(Exit::User);
    }
    if let Some(Interrupted { source, .. }) = error.downcast_ref() {
        return Some(blame(source.as_ref()));
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(store(error));
    }
    if let Some(error) = error.downcast_ref::<ServiceError>() {
        return Some(service(error));
    }
    if let Some(error) = error.downcast_ref::<LoadError>() {
        return Some(by(error.blame()));
    }
    if let Some(failure) = error.downcast_ref::<CallFailure>() {
        return Some(by(failure.error.blame()));
    }
    error.downcast_ref::<RuntimeError>().map(|error| match error {
        // The folder is the user's choice, and theirs to mend.
        RuntimeError::Cache { .. } => Exit::User,
        RuntimeError::Engine(_) | RuntimeError::Link(_) => Exit::Host,
    })
}

fn by(blame: Blame) -> Exit {
    match blame {
        Blame::Caller => Exit::User,
        Blame::Guest => Exit::Plugin,
        Blame::Host => Exit::Host,
    }
}

fn store(error: &StoreError) -> Exit {
    match error {
        StoreError::AppExists | StoreError::AppNotFound | StoreError::Conflict { .. } => Exit::User,
        StoreError::Unavailable(_) | StoreError::Failed(_) => Exit::Host,
    }
}

fn service(error: &ServiceError) -> Exit {
    match error {
        ServiceError::Invalid(_)
        | ServiceError::Denied(_)
        | ServiceError::Conflict
        | ServiceError::AppNotFound => Exit::User,
        ServiceError::Unavailable(_) | ServiceError::Internal(_) => Exit::Host,
    }
}

/// The messages of an error and its causes, each once. Who runs this program is
/// the host's operator, so they see the cause that a guest or caller would not.
fn message(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if !sends_to_the_log(error) {
            let part = error.to_string();
            if parts.last() != Some(&part) {
                parts.push(part);
            }
        }
        cause = error.source();
    }
    parts.join(": ")
}

/// Whether a message says no more than that the operator finds the cause elsewhere.
fn sends_to_the_log(error: &(dyn StdError + 'static)) -> bool {
    let service = error.downcast_ref::<ServiceError>();
    let call = error.downcast_ref::<CallError>();
    let failure = error.downcast_ref::<CallFailure>();
    service.is_some_and(|e| matches!(e, ServiceError::Internal(_)))
        || call.or(failure.map(|f| &f.error)).is_some_and(|e| matches!(e, CallError::Host(_)))
}
