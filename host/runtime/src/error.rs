//! Errors of plugins and calls, classified by blame.

use super::unknown_import;
use crate::abi::GuestLog;
use kvasm_core::store::StoreError;
use kvasm_core::{Cost, Invalid};
use kvasm_service::{ServiceError, Timeout};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use uuid::Uuid;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The party to blame for a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The caller.
    Caller,
    /// The plugin.
    Guest,
    /// The host, or a system it depends on.
    Host,
}

/// The runtime could not be built, which the operator or the embedder has to fix.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The engine or its clock did not start.
    #[error("the wasm engine could not be started")]
    Engine(#[source] BoxError),
    /// A custom host function could not be added.
    #[error("a host function could not be linked")]
    Link(#[source] BoxError),
}

/// A module is not a valid plugin, or could not be loaded. Clones share their cause: several
/// callers can wait for one load.
#[derive(Debug, Clone, Error)]
pub enum LoadError {
    /// It exceeds the size limit.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It is not a valid wasm module, or uses unsupported features.
    #[error("not a wasm module that this host can run: {0}")]
    NotWasm(String),
    /// It has an unknown import.
    #[error("{}", unknown_import::describe(.module, .name))]
    UnknownImport {
        /// The import's module.
        module: String,
        /// The import's name.
        name: String,
    },
    /// A dependency of it was built for browsers.
    #[error(
        "the module imports {0:?}: a dependency was built for browsers, with wasm-bindgen. Turn off the \
         feature that does so: `wasmbind` of chrono, which is a default feature, `js` of uuid, `js` or \
         `wasm_js` of getrandom, `wasm-bindgen` of instant; `cargo tree --target \
         wasm32-unknown-unknown -i wasm-bindgen` shows who enables it"
    )]
    ForBrowsers(String),
    /// An import exists with another type.
    #[error("the module's imports do not match the host's functions: {0}")]
    ImportMismatch(String),
    /// It does not export a memory.
    #[error("the module does not export a memory named \"memory\"")]
    NoMemory,
    /// Its declarations are malformed.
    #[error("the custom section \"kvasm.plugin.v1\" is malformed: {0}")]
    Manifest(String),
    /// It declares a function that it does not export.
    #[error("the module declares {0:?} but does not export a function () -> i32 of that name")]
    MissingFunction(String),
    /// It exports what it declares with another type.
    #[error(
        "the module declares {name:?} and exports it as {found}; the host calls functions () -> i32, \
         which read their input with input_read and write their output with output_write"
    )]
    WrongType {
        /// The name of the export.
        name: String,
        /// Its type, such as "(i32 i32) -> i64", or what it is instead of a function.
        found: String,
    },
    /// A function has too long a name.
    #[error("the name of the function {start:?} is {len} bytes; the limit is {limit} bytes")]
    LongName {
        /// The start of the name.
        start: String,
        /// The name's length in bytes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The names of its functions are too long in total.
    #[error(
        "the names of the module's functions are {len} bytes in total; the limit is {limit} \
         bytes; export fewer functions () -> i32, or declare the callable ones"
    )]
    ManyNames {
        /// The length of all names in bytes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// It exceeds a limit of instances.
    #[error("the module declares {what}; the limit is {limit} ({key})")]
    TooMuch {
        /// What it declares, with the number.
        what: String,
        /// The limit.
        limit: u64,
        /// The limit's key in the configuration.
        key: &'static str,
    },
    /// Its per-instance state other than memories and tables is too large.
    #[error("the module has too many globals, or too many functions in tables and exports")]
    InstanceTooLarge,
    /// Compiling it exceeded the time limit.
    #[error("compile time limit exceeded ({} s)", .0.as_secs_f32())]
    TooSlow(Duration),
    /// Compiling it exceeded the memory limit.
    #[error("compile memory limit exceeded ({0} bytes)")]
    CompilerMemory(u64),
    /// The compiled module exceeds the size limit.
    #[error("compiled module size limit exceeded ({0} bytes)")]
    CodeTooLarge(u64),
    /// The compiler crashed on it.
    #[error("the compiler failed on this module")]
    CompilerFailed,
    /// Too many other modules are waiting to be compiled.
    #[error("the host is busy compiling other modules; try again later")]
    Busy,
    /// The module could not be read from the store.
    #[error("the module could not be read from the store")]
    Store(#[source] Arc<ServiceError>),
    /// The compiler could not be started, or the stored module is damaged.
    #[error("the host could not compile the module")]
    Host(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

impl LoadError {
    /// A failure of the host to compile.
    pub fn host(cause: impl Into<BoxError>) -> LoadError {
        LoadError::Host(Arc::from(cause.into()))
    }

    /// Returns the party to blame.
    pub fn blame(&self) -> Blame {
        match self {
            LoadError::Invalid(_)
            | LoadError::NotWasm(_)
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
            | LoadError::TooSlow(_)
            | LoadError::CompilerMemory(_)
            | LoadError::CodeTooLarge(_)
            | LoadError::CompilerFailed => Blame::Guest,
            LoadError::Busy | LoadError::Store(_) | LoadError::Host(_) => Blame::Host,
        }
    }
}

/// A failed call.
#[derive(Debug, Error)]
pub enum CallError {
    /// The plugin has no such function.
    #[error("the plugin has no function {name:?}; it has {}", names(.known))]
    UnknownFunction {
        /// The name that was called.
        name: String,
        /// The functions it has.
        known: Vec<String>,
    },
    /// The plugin has no HTTP handler.
    #[error("the plugin does not declare an HTTP handler")]
    NoHttpHandler,
    /// The plugin has no handler or function of this name.
    #[error("the active plugin version has no handler {0:?}; deploy one that has it, and replay")]
    NoHandler(String),
    /// The writes of a transaction were rejected, or the store did not answer: after
    /// [`ServiceError::Unavailable`] they may have taken effect.
    #[error("the transaction {maybe} committed: {0}", maybe = may_be(.0))]
    Commit(#[source] ServiceError),
    /// The app's settings could not be read before the run.
    #[error("the app's settings cannot be read: {0}")]
    Settings(#[source] ServiceError),
    /// A transaction was in conflict with others, or waited for them, until its deadline.
    #[error(
        "transaction conflict: each of {runs} runs lost to concurrent changes or locks; \
         {timeout}; try again later"
    )]
    Conflict {
        /// The number of runs.
        runs: u32,
        /// The time spent in each stage.
        timeout: Timeout,
    },
    /// The input exceeds the limit.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The function returned a code other than 0. The message is its output.
    #[error("the function failed with code {code}: {message}")]
    Failed {
        /// The code.
        code: i32,
        /// The output as text, with invalid UTF-8 replaced and control characters escaped.
        message: String,
    },
    /// The guest trapped.
    #[error("the plugin trapped: {reason}\n{backtrace}")]
    Trap {
        /// The reason.
        reason: String,
        /// The backtrace, innermost frame first; with function names if the module has them.
        backtrace: String,
    },
    /// The instance could not be created: its start function trapped, or it exceeds a limit.
    #[error("the plugin could not be started: {reason}\n{backtrace}")]
    Start {
        /// The reason.
        reason: String,
        /// The backtrace, if any.
        backtrace: String,
    },
    /// The call exceeded its wall time.
    #[error("{timeout}{}", location_suffix(.waiting_in, .starting))]
    Deadline {
        /// The time spent in each stage.
        timeout: Timeout,
        /// The host function that it was waiting for, if any.
        waiting_in: Option<&'static str>,
        /// Whether the module's start function was still running.
        starting: bool,
    },
    /// The call exceeded its CPU time limit.
    #[error("CPU limit exceeded ({} ms){}", limit.as_millis(), location_suffix(&None, .starting))]
    CpuTime {
        /// The limit.
        limit: Duration,
        /// Whether the module's start function was still running.
        starting: bool,
    },
    /// The guests of this host, or of this app, have reached their memory limit.
    #[error("the host's memory for plugins is exhausted; try again later")]
    HostMemory,
    /// An internal error of the host.
    #[error("internal error: the operator can find the cause in the host's log by request id")]
    Host(#[source] BoxError),
}

fn names(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

/// Returns what is known of a failed commit.
fn may_be(error: &ServiceError) -> &'static str {
    match error {
        ServiceError::Unavailable(_) => "may not have been",
        _ => "was not",
    }
}

fn location_suffix(function: &Option<&str>, starting: &bool) -> String {
    match (function, starting) {
        (Some(function), _) => format!("; waiting for {function}"),
        (None, true) => "; in the module's start function".to_owned(),
        (None, false) => String::new(),
    }
}

impl CallError {
    /// Returns the party to blame.
    pub fn blame(&self) -> Blame {
        match self {
            CallError::UnknownFunction { .. }
            | CallError::NoHttpHandler
            | CallError::Conflict { .. }
            | CallError::Invalid(_) => Blame::Caller,
            // It refuses its input, as a host does with other values.
            CallError::Failed {
                code: kvasm_abi::EXIT_REFUSED,
                ..
            } => Blame::Caller,
            CallError::Failed { .. }
            | CallError::Trap { .. }
            | CallError::Start { .. }
            | CallError::NoHandler(_)
            | CallError::CpuTime { .. } => Blame::Guest,
            CallError::Commit(error) => blame_of_commit(error),
            // Time that the guest did not choose to spend is the host's fault.
            CallError::Deadline { timeout, .. } => match timeout.longest().is_guest_time() {
                true => Blame::Guest,
                false => Blame::Host,
            },
            CallError::Settings(_) | CallError::HostMemory | CallError::Host(_) => Blame::Host,
        }
    }
}

/// Returns the party to blame for a failed commit.
fn blame_of_commit(error: &ServiceError) -> Blame {
    match error {
        // A write is invalid.
        ServiceError::Invalid(_) | ServiceError::NotInteger(_) | ServiceError::Overflow(_) => {
            Blame::Guest
        }
        // The caller lacks the scope; the app's quota; a conflict; the app was deleted during the run.
        ServiceError::Denied(_)
        | ServiceError::Quota { .. }
        | ServiceError::Conflict { .. }
        | ServiceError::AppNotFound
        | ServiceError::KeyReused
        | ServiceError::KeyInUse => Blame::Caller,
        ServiceError::OutputNotKept { .. } => Blame::Guest,
        ServiceError::Unavailable(_)
        | ServiceError::Full(_)
        | ServiceError::Internal(_)
        | ServiceError::LeaseLost
        | ServiceError::AlreadyAnswered => Blame::Host,
        // Commits return no others.
        ServiceError::LimitsChanged
        | ServiceError::TriggerNotFound
        | ServiceError::TriggerHasDeliveries { .. }
        | ServiceError::DeadLetterNotFound
        | ServiceError::AppExists(_)
        | ServiceError::PluginNotFound(_)
        | ServiceError::NoActivePlugin
        | ServiceError::PluginActive(_)
        | ServiceError::NothingToRollBackTo
        | ServiceError::NeedsUnmet(_)
        | ServiceError::GrantNotFound
        | ServiceError::NotPermitted(_)
        | ServiceError::TokenNotFound
        | ServiceError::LastAdmin
        | ServiceError::SettingNotFound(_)
        | ServiceError::SigningKey { .. }
        | ServiceError::Secrets(_)
        | ServiceError::LifetimeExceeded(_)
        | ServiceError::ScopeExceeded(_) => Blame::Host,
    }
}

impl CallError {
    /// Whether a retry of the call would fail the same way: a trap, an exceeded limit, an
    /// unknown function, or an error that the plugin reports as permanent.
    pub fn is_deterministic(&self) -> bool {
        match self {
            CallError::Trap { .. }
            | CallError::Start { .. }
            | CallError::CpuTime { .. }
            | CallError::NoHandler(_)
            | CallError::UnknownFunction { .. }
            | CallError::NoHttpHandler
            | CallError::Invalid(_) => true,
            CallError::Failed { .. } => self.is_permanent(),
            CallError::Deadline { timeout, .. } => timeout.longest().is_guest_time(),
            CallError::Commit(error) => matches!(error, ServiceError::Invalid(_)),
            CallError::Settings(_)
            | CallError::Conflict { .. }
            | CallError::HostMemory
            | CallError::Host(_) => false,
        }
    }

    /// Whether the plugin reported that a retry would fail: the error is permanent, or the input
    /// was refused.
    pub fn is_permanent(&self) -> bool {
        const PERMANENT: [i32; 2] = [kvasm_abi::EXIT_PERMANENT, kvasm_abi::EXIT_REFUSED];
        matches!(self, CallError::Failed { code, .. } if PERMANENT.contains(code))
    }

    /// Returns the wait in milliseconds after which a handler asks to be run again, if it does.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            CallError::Failed { code, message } if *code == kvasm_abi::EXIT_LATER => {
                kvasm_abi::retry_ms(message.as_bytes())
            }
            _ => None,
        }
    }

    /// Whether an inconsistent read in a transaction could have caused this. Exceeded limits and
    /// refusals are excluded: they are not retried.
    pub fn may_be_due_to_stale_reads(&self) -> bool {
        matches!(self, CallError::Trap { .. } | CallError::Failed { .. })
    }

    /// Whether giving way in a transaction could have caused this.
    pub fn may_be_due_to_giving_way(&self) -> bool {
        self.may_be_due_to_stale_reads() || matches!(self, CallError::Conflict { .. })
    }

    /// Returns the backtrace, if known.
    pub fn trace(&self) -> Option<&str> {
        match self {
            CallError::Trap { backtrace, .. } | CallError::Start { backtrace, .. } => {
                Some(backtrace.as_str()).filter(|trace| !trace.is_empty())
            }
            _ => None,
        }
    }

    /// Returns the error without its backtrace.
    pub fn summary(&self) -> String {
        let text = self.to_string();
        match self.trace() {
            Some(_) => text.lines().next().unwrap_or_default().to_owned(),
            None => text,
        }
    }

    /// Returns a metric label.
    pub fn outcome(&self) -> &'static str {
        match self {
            CallError::UnknownFunction { .. }
            | CallError::NoHttpHandler
            | CallError::NoHandler(_)
            | CallError::Invalid(_) => "rejected",
            CallError::Conflict { .. } => "conflict",
            CallError::Commit(_) => "commit",
            CallError::Failed { .. } => "failed",
            CallError::Trap { .. } | CallError::Start { .. } => "trap",
            CallError::Deadline { timeout, .. } => match timeout.longest().is_guest_time() {
                true => "deadline",
                false => "busy",
            },
            CallError::CpuTime { .. } => "cpu_time",
            CallError::HostMemory => "busy",
            CallError::Settings(_) | CallError::Host(_) => "host",
        }
    }
}

/// A failed call: the error and the guest's log.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct CallFailure {
    /// The error.
    #[source]
    pub error: CallError,
    /// The request id, which is also in the host's log.
    pub request_id: Uuid,
    /// What it used, discarded runs included.
    pub cost: Cost,
    /// The guest's log.
    pub log: GuestLog,
    /// The logs of discarded runs before this one.
    pub discarded: Vec<GuestLog>,
}

impl CallFailure {
    /// Creates the failure of a call whose guest did not run.
    pub fn before_the_run(error: CallError, request_id: Uuid) -> CallFailure {
        CallFailure {
            error,
            request_id,
            cost: Cost::default(),
            log: GuestLog::new(0, 0),
            discarded: Vec::new(),
        }
    }
}

impl From<Timeout> for CallError {
    fn from(timeout: Timeout) -> CallError {
        CallError::Deadline {
            timeout,
            waiting_in: None,
            starting: false,
        }
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> CallError {
        CallError::Host(error.into())
    }
}
