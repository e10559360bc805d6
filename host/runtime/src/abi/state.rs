//! What the host functions know of an invocation.

use super::fault::Fault;
use super::{GuestLog, Meter, Turns};
use kvasm_abi::IMPORTS;
use kvasm_core::{Limits, Pieces, short};
use kvasm_service::{CallContext, Caller, ServiceError, Services, line_about};
use parking_lot::Mutex;
use std::sync::Arc;
use uuid::Uuid;
use wasmtime::Memory;

/// The most bytes of the message of a host function that did not succeed.
const ERROR_BYTES_MAX: usize = 4 * 1024;

/// How often an invocation called each import of the ABI.
pub(crate) struct HostCalls([u32; IMPORTS.len()]);

impl HostCalls {
    /// The place of a name in the ABI's imports; one that is not there does not
    /// compile.
    pub(super) const fn index_of(name: &str) -> usize {
        let mut at = 0;
        #[allow(clippy::indexing_slicing)] // Evaluated by the compiler.
        while !equal(IMPORTS[at].name.as_bytes(), name.as_bytes()) {
            at += 1;
        }
        at
    }

    pub(super) fn count(&mut self, index: usize) {
        if let Some(count) = self.0.get_mut(index) {
            *count = count.saturating_add(1);
        }
    }

    /// The imports that were called, and how often.
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

/// What a handler may know of the delivery that it carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryContext {
    /// The trigger.
    pub trigger: String,
    /// The event.
    pub event_id: Uuid,
    /// How often it was tried, this attempt included.
    pub attempt: u32,
    /// How many handlers stand between the event and a call.
    pub depth: u32,
}

/// The state of one guest instance. All of it is set by the host; a guest's
/// bytes end up in `output`, `slot`, `error` and the log, each under a limit.
pub struct GuestState {
    /// Whose rows the key-value functions touch, and for whom; and until when.
    pub(crate) context: CallContext,
    pub(crate) app_name: Arc<str>,
    pub(crate) function: Arc<str>,
    /// What it computes, which the store's work is not.
    pub(crate) meter: Arc<Meter>,
    /// Its turns on the CPU.
    pub(crate) turns: Arc<Turns>,
    pub(crate) services: Services,
    pub(crate) limits: Arc<Limits>,
    pub(crate) input: Pieces,
    pub(crate) output: Vec<u8>,
    /// Shared with the guest's standard output and error, if it has them.
    pub(crate) log: Arc<Mutex<GuestLog>>,
    /// The delivery that is carried out, if it is one.
    pub(crate) delivery: Option<Arc<DeliveryContext>>,
    /// Whether the writes of this run are one commit.
    pub(crate) transaction: bool,
    /// The memory, once instantiation has ended.
    pub(crate) memory: Option<Memory>,
    /// The last result that did not fit the guest's buffer.
    pub(super) slot: Pieces,
    /// The message of the last status.
    pub(super) error: String,
    /// What it has called.
    pub(crate) calls: HostCalls,
    /// The host function that is being waited for.
    pub(crate) waiting_in: Option<&'static str>,
}

impl GuestState {
    pub(crate) fn new(
        context: CallContext,
        turns: Turns,
        app_name: Arc<str>,
        function: Arc<str>,
        services: Services,
        limits: Arc<Limits>,
        input: Pieces,
    ) -> GuestState {
        let meter = Arc::new(Meter::new(context.deadline.clone()));
        let log = GuestLog::new(limits.log_lines, limits.log_line_bytes);
        GuestState {
            context,
            app_name,
            function,
            meter,
            turns: Arc::new(turns),
            services,
            limits,
            input,
            output: Vec::new(),
            log: Arc::new(Mutex::new(log)),
            delivery: None,
            transaction: false,
            memory: None,
            slot: Pieces::default(),
            error: String::new(),
            calls: HostCalls([0; IMPORTS.len()]),
            waiting_in: None,
        }
    }

    /// The app that the invocation belongs to.
    pub fn app(&self) -> &str {
        &self.app_name
    }

    /// On whose behalf it runs.
    pub fn caller(&self) -> &Caller {
        &self.context.caller
    }

    /// The function that was called.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The request's id, which the host's log carries too.
    pub fn request_id(&self) -> Uuid {
        self.context.request_id
    }

    /// The services that the key-value functions call.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The source of an error, which can hold SQL and paths, goes to the host's log;
    /// the guest gets the outer text alone.
    fn log_cause(&self, error: &ServiceError) {
        let Some(cause) = std::error::Error::source(error) else {
            return;
        };
        if let Some(suppressed) = line_about(self.caller().app()) {
            tracing::error!(
                error = cause as &dyn std::error::Error,
                suppressed,
                "{error}"
            );
        }
    }

    /// Turns a function's end into what goes back to the guest.
    pub(super) fn finish(&mut self, result: Result<i64, Fault>) -> wasmtime::Result<i64> {
        match result {
            Ok(value) => Ok(value),
            Err(Fault::Host(status, error)) => {
                self.log_cause(&error);
                self.error = error.to_string();
                Ok(status.code())
            }
            Err(Fault::Status(status, message)) => {
                self.error = short(&message, ERROR_BYTES_MAX).to_owned();
                Ok(status.code())
            }
            Err(Fault::Trap(error)) => Err(error),
        }
    }
}

/// Data of a wasmtime store that holds a [`GuestState`].
pub trait GuestView: Send + 'static {
    /// The state.
    fn guest(&mut self) -> &mut GuestState;
}
