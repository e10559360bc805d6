//! What goes wrong with a plugin, sorted by blame.

use crate::abi::GuestLog;
use kvasm_core::Invalid;
use kvasm_core::store::StoreError;
use kvasm_service::{ServiceError, Timeout};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use uuid::Uuid;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Whose fault a failed call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Who made the call.
    Caller,
    /// The plugin.
    Guest,
    /// The host, or what it stands on.
    Host,
}

/// The runtime could not be built: the operator's or the embedder's to fix.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The engine or its clock did not start.
    #[error("the wasm engine could not be started")]
    Engine(#[source] BoxError),
    /// An own host function could not be added.
    #[error("a host function could not be linked")]
    Link(#[source] BoxError),
}

/// A module that cannot be a plugin here. Clones share their cause: several callers
/// can wait for one load.
#[derive(Debug, Clone, Error)]
pub enum LoadError {
    /// It is over the limit.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It is not a valid wasm module, or needs what this host does not offer.
    #[error("this is not a wasm module that this host can run: {0}")]
    NotWasm(String),
    /// It imports what nobody offers.
    #[error(
        "the module imports {module:?} {name:?}, which this host does not have; \
         it has the functions of kvasm_v1 and of WASI preview 1"
    )]
    UnknownImport {
        /// The import's module.
        module: String,
        /// The import's name.
        name: String,
    },
    /// An import is there, but as something else.
    #[error("the module's imports do not fit: {0}")]
    ImportMismatch(String),
    /// It exports no memory.
    #[error("the module does not export a memory named \"memory\"")]
    NoMemory,
    /// Its declarations cannot be read.
    #[error("the custom section \"kvasm.plugin.v1\" is malformed: {0}")]
    Manifest(String),
    /// It declares a function that it does not export as one.
    #[error(
        "the module declares the function {0:?} but exports no function () -> i32 of that name"
    )]
    MissingFunction(String),
    /// A function has too long a name.
    #[error("the name of the function {start:?} is {len} bytes; the limit is {limit} bytes")]
    LongName {
        /// How the name begins.
        start: String,
        /// The name's bytes.
        len: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// Its functions have too many names, or too long ones.
    #[error(
        "the names of the module's functions are {len} bytes together; the limit is {limit} \
         bytes; export fewer functions () -> i32, or declare those that are to be called"
    )]
    ManyNames {
        /// The bytes of all names.
        len: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// It declares more than an instance may have.
    #[error("the module declares {what}; the limit is {limit} ({key})")]
    TooMuch {
        /// What it declares, with the number.
        what: String,
        /// The most that is allowed.
        limit: u64,
        /// The limit's key in the configuration.
        key: &'static str,
    },
    /// What the host keeps for each instance of it, apart from memories and tables,
    /// is too large.
    #[error("the module has too many globals, or too many functions in tables and exports")]
    InstanceTooLarge,
    /// Compiling it took more time than a module may take.
    #[error("compile time limit exceeded ({} s)", .0.as_secs_f32())]
    TooSlow(Duration),
    /// Compiling it took more memory than a module may take.
    #[error("compile memory limit exceeded ({0} bytes)")]
    CompilerMemory(u64),
    /// The compiled module is larger than a module may be.
    #[error("the compiled module is over {0} bytes")]
    CodeTooLarge(u64),
    /// The compiler crashed on it.
    #[error("the compiler failed on this module")]
    CompilerFailed,
    /// Too many other modules wait to be compiled.
    #[error("the host is busy compiling other modules; try again later")]
    Busy,
    /// The store did not give the module.
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

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            LoadError::Invalid(_)
            | LoadError::NotWasm(_)
            | LoadError::UnknownImport { .. }
            | LoadError::ImportMismatch(_)
            | LoadError::NoMemory
            | LoadError::Manifest(_)
            | LoadError::MissingFunction(_)
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

/// Why a call did not succeed.
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
    /// The plugin answers no HTTP requests.
    #[error("the plugin declares no HTTP handler")]
    NoHttpHandler,
    /// The plugin has nothing that a delivery could call by this name.
    #[error("the active plugin version has no handler {0:?}; deploy one that has it, and replay")]
    NoHandler(String),
    /// The writes of a transaction were refused.
    #[error("the transaction was not committed: {0}")]
    Commit(#[source] ServiceError),
    /// A transaction lost to others, or waited for them, until its deadline.
    #[error(
        "the transaction was run {runs} times, and each time others changed or held what it \
         had read; {timeout}; try again later"
    )]
    Conflict {
        /// How often it was run.
        runs: u32,
        /// Where the time went.
        timeout: Timeout,
    },
    /// The input is over the limit.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The function ended with a code other than 0. The message is its output.
    #[error("the function failed with code {code}: {message}")]
    Failed {
        /// The code.
        code: i32,
        /// The output as text, as far as it is text, without control characters.
        message: String,
    },
    /// The guest trapped.
    #[error("the plugin trapped: {reason}\n{backtrace}")]
    Trap {
        /// Why.
        reason: String,
        /// The functions it was in, innermost first; with their names where the
        /// module has them.
        backtrace: String,
    },
    /// The instance could not be made: its start function trapped, or it needs
    /// more than it may have.
    #[error("the plugin could not be started: {reason}\n{backtrace}")]
    Start {
        /// Why.
        reason: String,
        /// The functions it was in, if any.
        backtrace: String,
    },
    /// The call did not end within its wall time.
    #[error("{timeout}{}", place(.waiting_in, .starting))]
    Deadline {
        /// Where the time went.
        timeout: Timeout,
        /// The host function that it was waiting for, if any.
        waiting_in: Option<&'static str>,
        /// Whether the module's start function was still running.
        starting: bool,
    },
    /// The call computed for longer than it may.
    #[error("the call computed for more than {} ms, which is the limit{}", limit.as_millis(), place(&None, .starting))]
    CpuTime {
        /// The limit.
        limit: Duration,
        /// Whether the module's start function was still running.
        starting: bool,
    },
    /// The guests of this host have all the memory that they may have together, or
    /// those of this app their share of it.
    #[error("the host has no memory left for this call; try again later")]
    HostMemory,
    /// The host's fault.
    #[error("the host failed; the operator finds the cause in its log under this request's id")]
    Host(#[source] BoxError),
}

fn names(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

fn place(function: &Option<&str>, starting: &bool) -> String {
    match (function, starting) {
        (Some(function), _) => format!("; it was waiting for {function}"),
        (None, true) => "; it was still in the module's start function".to_owned(),
        (None, false) => String::new(),
    }
}

impl CallError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            CallError::UnknownFunction { .. }
            | CallError::NoHttpHandler
            | CallError::Conflict { .. }
            | CallError::Invalid(_) => Blame::Caller,
            CallError::Failed { .. }
            | CallError::Trap { .. }
            | CallError::Start { .. }
            | CallError::NoHandler(_)
            | CallError::CpuTime { .. } => Blame::Guest,
            CallError::Commit(error) => blame_of_commit(error),
            // What the guest did not compute, it was kept waiting for.
            CallError::Deadline { timeout, .. } => match timeout.longest().is_of_the_guest() {
                true => Blame::Guest,
                false => Blame::Host,
            },
            CallError::HostMemory | CallError::Host(_) => Blame::Host,
        }
    }
}

/// Whose fault it is that the writes of a run were refused.
fn blame_of_commit(error: &ServiceError) -> Blame {
    match error {
        // What it wrote cannot be written, or does not fit the app's quota.
        ServiceError::Invalid(_)
        | ServiceError::NotInteger
        | ServiceError::Overflow
        | ServiceError::Quota { .. } => Blame::Guest,
        // Its caller may not write; others have changed what it had read; its app was
        // deleted while it ran.
        ServiceError::Denied(_) | ServiceError::Conflict { .. } | ServiceError::AppNotFound => {
            Blame::Caller
        }
        ServiceError::Unavailable(_)
        | ServiceError::Full(_)
        | ServiceError::Internal(_)
        | ServiceError::LeaseLost => Blame::Host,
        // No commit of a run ends so.
        ServiceError::LimitsChanged
        | ServiceError::TriggerNotFound
        | ServiceError::TriggerHasDeliveries { .. }
        | ServiceError::DeadLetterNotFound
        | ServiceError::AppExists(_)
        | ServiceError::PluginNotFound(_)
        | ServiceError::NoActivePlugin
        | ServiceError::PluginActive(_)
        | ServiceError::NothingToRollBackTo
        | ServiceError::TokenNotFound
        | ServiceError::LastAdmin
        | ServiceError::LifetimeExceeded(_)
        | ServiceError::ScopeExceeded(_) => Blame::Host,
    }
}

impl CallError {
    /// Whether the same call would fail in the same way again: a trap, too much
    /// memory or time, no such function, or a plugin that says so itself.
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
            CallError::Deadline { timeout, .. } => timeout.longest().is_of_the_guest(),
            CallError::Commit(error) => matches!(error, ServiceError::Invalid(_)),
            CallError::Conflict { .. } | CallError::HostMemory | CallError::Host(_) => false,
        }
    }

    /// Whether the plugin says itself that the same call would fail again: as it is
    /// broken for this input, or as it refuses it.
    pub fn is_permanent(&self) -> bool {
        const PERMANENT: [i32; 2] = [kvasm_abi::EXIT_PERMANENT, kvasm_abi::EXIT_REFUSED];
        matches!(self, CallError::Failed { code, .. } if PERMANENT.contains(code))
    }

    /// Whether a transaction that had read two moments at once could have failed
    /// so. What it has used up or was refused is not asked again.
    pub fn may_come_of_stale_reads(&self) -> bool {
        matches!(self, CallError::Trap { .. } | CallError::Failed { .. })
    }

    /// Whether a transaction that gives way to others could have ended so.
    pub fn may_come_of_giving_way(&self) -> bool {
        self.may_come_of_stale_reads() || matches!(self, CallError::Conflict { .. })
    }

    /// Where in the plugin it failed, if that is known.
    pub fn trace(&self) -> Option<&str> {
        match self {
            CallError::Trap { backtrace, .. } | CallError::Start { backtrace, .. } => {
                Some(backtrace.as_str()).filter(|trace| !trace.is_empty())
            }
            _ => None,
        }
    }

    /// The error without the places of its trace.
    pub fn summary(&self) -> String {
        let text = self.to_string();
        match self.trace() {
            Some(_) => text.lines().next().unwrap_or_default().to_owned(),
            None => text,
        }
    }

    /// One word, for a metric's label.
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
            CallError::Deadline { timeout, .. } => match timeout.longest().is_of_the_guest() {
                true => "deadline",
                false => "busy",
            },
            CallError::CpuTime { .. } => "cpu_time",
            CallError::HostMemory => "busy",
            CallError::Host(_) => "host",
        }
    }
}

/// A failed call: why, and what the guest logged before.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct CallFailure {
    /// Why.
    #[source]
    pub error: CallError,
    /// The request's id, which the host's log carries too.
    pub request_id: Uuid,
    /// What the guest logged.
    pub log: GuestLog,
    /// What discarded runs logged before this one.
    pub discarded: Vec<GuestLog>,
}

impl CallFailure {
    /// Of a call whose guest has not run.
    pub fn before_the_run(error: CallError, request_id: Uuid) -> CallFailure {
        CallFailure {
            error,
            request_id,
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
