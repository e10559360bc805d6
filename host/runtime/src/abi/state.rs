//! The state of an invocation, for the host functions.

use super::fault::Fault;
use super::transactions::RunTransactions;
use super::{CpuMeter, CpuPermit, GuestLog};
use kvasm_abi::{IMPORTS, Status};
use kvasm_core::{Cost, Limits, Pieces, truncate};
use kvasm_service::{
    CallContext, Caller, OpenSpan, ServiceError, Services, SettingsSnapshot, admit_app_line,
};
use parking_lot::Mutex;
use std::sync::Arc;
use uuid::Uuid;
use wasmtime::Memory;

/// Maximum size of the error message of a host function, in bytes.
const ERROR_BYTES_MAX: usize = 4 * 1024;

/// Number of calls of each import of the ABI.
pub(crate) struct HostCalls([u32; IMPORTS.len()]);

impl HostCalls {
    /// Returns the index of a name in the ABI's imports; an unknown name does not compile.
    pub(super) const fn index_of(name: &str) -> usize {
        let mut at = 0;
        #[allow(clippy::indexing_slicing)] // Evaluated by the compiler.
        while !equal(IMPORTS[at].name.as_bytes(), name.as_bytes()) {
            at += 1;
        }
        at
    }

    /// Whether a function only copies bytes between the host and the guest.
    pub(super) const fn is_copy(name: &str) -> bool {
        let name = name.as_bytes();
        equal(name, b"input_read") || equal(name, b"output_write") || equal(name, b"result_read")
    }

    pub(super) fn count(&mut self, index: usize) {
        if let Some(count) = self.0.get_mut(index) {
            *count = count.saturating_add(1);
        }
    }

    /// Returns the number of all calls.
    fn sum(&self) -> u64 {
        self.0.iter().copied().map(u64::from).sum()
    }

    /// Returns the imports that were called, with their counts.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let all = IMPORTS.iter().zip(self.0);
        all.filter(|(_, count)| *count > 0)
            .map(|(import, count)| (import.name, count))
    }
}

#[allow(clippy::indexing_slicing)] // Evaluated by the compiler.
const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// The delivery that a handler is running for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryContext {
    /// The trigger.
    pub trigger: String,
    /// The event.
    pub event_id: Uuid,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Length of the chain of handlers that led to the event.
    pub depth: u32,
}

/// The state of one guest instance. All of it is set by the host; guest data only ends up in
/// `output`, `slot`, `error` and the log, each within a limit.
pub struct GuestState {
    /// The caller, which determines the app, and the deadline.
    pub(crate) context: CallContext,
    pub(crate) app_name: Arc<str>,
    pub(crate) function: Arc<str>,
    /// Its CPU time, excluding the store's work.
    pub(crate) meter: Arc<CpuMeter>,
    /// Its CPU permit.
    pub(crate) turns: Arc<CpuPermit>,
    pub(crate) services: Services,
    pub(crate) settings: SettingsSnapshot,
    pub(crate) limits: Arc<Limits>,
    pub(crate) input: Pieces,
    pub(crate) output: Vec<u8>,
    /// Shared with the guest's standard output and error, if it has them.
    pub(crate) log: Arc<Mutex<GuestLog>>,
    /// The delivery being handled, if any.
    pub(crate) delivery: Option<Arc<DeliveryContext>>,
    /// Whether its plugin handles timers.
    pub(crate) handles_timers: bool,
    /// The transactions into which writes are buffered.
    pub(crate) transactions: RunTransactions,
    /// The memory, once instantiation is complete.
    pub(crate) memory: Option<Memory>,
    /// The last result that did not fit the guest's buffer.
    pub(super) slot: Pieces,
    /// The message of the last status.
    pub(super) error: String,
    /// Calls of host functions.
    pub(crate) calls: HostCalls,
    /// What was read and written so far; the rest of the cost is only known at the end.
    pub(super) used: Cost,
    /// The host function in progress.
    pub(crate) waiting_in: Option<&'static str>,
}

impl GuestState {
    pub(crate) fn new(
        context: CallContext,
        turns: CpuPermit,
        app_name: Arc<str>,
        function: Arc<str>,
        services: Services,
        limits: Arc<Limits>,
        input: Pieces,
    ) -> GuestState {
        let meter = Arc::new(CpuMeter::new(context.deadline.clone()));
        let log = GuestLog::new(limits.log_lines, limits.log_line_bytes);
        GuestState {
            context,
            app_name,
            function,
            meter,
            turns: Arc::new(turns),
            services,
            settings: SettingsSnapshot::default(),
            limits,
            input,
            output: Vec::new(),
            log: Arc::new(Mutex::new(log)),
            delivery: None,
            handles_timers: false,
            transactions: RunTransactions::default(),
            memory: None,
            slot: Pieces::default(),
            error: String::new(),
            calls: HostCalls([0; IMPORTS.len()]),
            used: Cost::default(),
            waiting_in: None,
        }
    }

    /// Returns the cost of the run, once it has ended.
    pub(crate) fn cost(&self, memory_bytes: u64) -> Cost {
        Cost {
            runs: 1,
            cpu: self.meter.spent(),
            memory_bytes,
            host_calls: self.calls.sum(),
            ..self.used
        }
    }

    /// Returns the app that the invocation belongs to.
    pub fn app(&self) -> &str {
        &self.app_name
    }

    /// Returns the caller on whose behalf it runs.
    pub fn caller(&self) -> &Caller {
        &self.context.caller
    }

    /// Returns the function that was called.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// Returns the request id, which is also in the host's log.
    pub fn request_id(&self) -> Uuid {
        self.context.request_id
    }

    /// Returns the services behind the key-value functions.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Logs the source of an error, which may contain SQL and paths; the guest only gets the
    /// outer message.
    fn log_cause(&self, error: &ServiceError) {
        let Some(cause) = std::error::Error::source(error) else {
            return;
        };
        if let Some(suppressed) = admit_app_line(self.caller().app()) {
            tracing::error!(
                error = cause as &dyn std::error::Error,
                suppressed,
                "{error}"
            );
        }
    }

    /// Starts the span of a host function, if the call is sampled and has not had too many.
    pub(super) fn start_span(&self, name: &'static str) -> Option<OpenSpan> {
        self.caller().recorder()?.start_host_function(name)
    }

    /// Converts the outcome of a host function to its return value.
    pub(super) fn finish(&mut self, result: Result<i64, Fault>) -> wasmtime::Result<i64> {
        match result {
            Ok(value) => Ok(value),
            Err(Fault::Host(status, error)) => {
                self.log_cause(&error);
                self.error = error.to_string();
                Ok(status.code())
            }
            Err(Fault::Status(status, message)) => {
                self.error = truncate(&message, ERROR_BYTES_MAX).to_owned();
                Ok(status.code())
            }
            Err(Fault::Trap(error)) => Err(error),
        }
    }
}

/// Ends the span of a host function. A status such as `NOT_FOUND` is an answer, not an error of the
/// host.
pub(super) fn end_span(mut span: OpenSpan, result: &Result<i64, Fault>) {
    let status = match result {
        Ok(_) => return span.end(),
        Err(Fault::Trap(_)) => return span.fail("trap"),
        Err(Fault::Host(status, _) | Fault::Status(status, _)) => *status,
    };
    span.set("kvasm.status", status.name());
    match status {
        Status::Unavailable | Status::Internal | Status::Remote => span.fail(status.name()),
        _ => span.end(),
    }
}

/// Data of a wasmtime store that holds a [`GuestState`].
pub trait GuestView: Send + 'static {
    /// The state.
    fn guest(&mut self) -> &mut GuestState;
}
