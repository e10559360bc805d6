//! One invocation: a fresh instance, one call, and its cleanup.

use super::call_span::{call_span, end_call_span};
use super::engine::Runtime;
use super::error::{CallError, CallFailure};
use super::limiter::MemoryLimiter;
use super::module::{CompiledPlugin, Function, Signature};
use super::request::{InvocationRequest, InvocationTarget, Response};
use super::{trap, wasi};
use crate::abi::{CpuPermit, GuestState, GuestView, RunTransactions, printable, printable_start};
use kvasm_abi::EXIT_FAILED;
use kvasm_core::{Invalid, Limits, Pieces, Subject};
use kvasm_service::{CallContext, FairPermit, Stage};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::Notify;
use tracing::Instrument;
use wasmtime::{Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::WasiP1Ctx;

/// Maximum length of the message of a failed function, as of a log line, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// How long a run that gives way continues, to find out which keys it needs.
const GIVE_WAY_GRACE: Duration = Duration::from_millis(10);
/// Maximum number of functions listed in the error about an unknown one.
const KNOWN_MAX: usize = 32;
/// Maximum length of each of their names, in bytes.
const KNOWN_BYTES_MAX: usize = 128;

impl CompiledPlugin {
    /// Like [`InvocationTarget::require`], for a plugin that is in memory.
    pub fn require(&self, target: &InvocationTarget) -> Result<(), CallError> {
        match target {
            // The run itself checks that a handler exists.
            InvocationTarget::Handler(_) => Ok(()),
            InvocationTarget::Http | InvocationTarget::Function(_) => find(self, target).map(drop),
        }
    }

    /// Whether a call of a target is a transaction. Calls by deliveries always are.
    pub fn is_transaction(&self, target: &InvocationTarget) -> bool {
        match target {
            InvocationTarget::Handler(_) => true,
            InvocationTarget::Http => {
                let handler = self.http.as_ref();
                handler.is_some_and(|(_, function)| function.transaction)
            }
            InvocationTarget::Function(name) => {
                let function = self.functions.get(&**name);
                function.is_some_and(|function| function.transaction)
            }
        }
    }
}

/// The data of an invocation's wasmtime store. A custom host function gets it from
/// [`wasmtime::Caller::data_mut`], and the app, the caller and the services from
/// [`guest_state`](Invocation::guest_state).
pub struct Invocation {
    guest: GuestState,
    limiter: MemoryLimiter,
    wasi: Option<Box<WasiP1Ctx>>,
    starting: bool,
}

impl Invocation {
    /// Returns the host's state of this invocation.
    pub fn guest_state(&self) -> &GuestState {
        &self.guest
    }

    /// Returns the WASI context for functions that do not sleep.
    pub(super) fn wasi(&mut self) -> &mut WasiP1Ctx {
        self.guest.meter.mark_awake();
        self.wasi_context()
    }

    /// Returns the WASI context for the function that sleeps.
    pub(super) fn wasi_to_sleep(&mut self) -> &mut WasiP1Ctx {
        self.guest.meter.mark_asleep();
        self.wasi_context()
    }

    fn wasi_context(&mut self) -> &mut WasiP1Ctx {
        self.wasi
            .get_or_insert_with(|| Box::new(wasi::context(&self.guest.log)))
    }

    pub(super) fn starting(&self) -> bool {
        self.starting
    }

    /// Returns the error of a call that has timed out.
    pub(super) fn timeout(&self) -> CallError {
        self.guest.meter.count_sleep();
        CallError::Deadline {
            timeout: self.guest.context.deadline.timeout(Stage::Other),
            waiting_in: self.guest.waiting_in,
            starting: self.starting,
        }
    }

    /// Whether the host had too little memory for the guest.
    pub(super) fn host_memory_exhausted(&self) -> bool {
        self.limiter.exhausted()
    }

    pub(super) fn cpu_time(&self) -> Duration {
        self.guest.limits.cpu_time
    }

    /// Returns the memory limit, if the guest has exceeded it.
    pub(super) fn memory_refused(&self) -> Option<usize> {
        self.limiter
            .refused()
            .then_some(self.guest.limits.memory_bytes)
    }
}

impl GuestView for Invocation {
    fn guest(&mut self) -> &mut GuestState {
        &mut self.guest
    }
}

/// Why the host terminates a guest.
#[derive(Debug, Error)]
pub(super) enum StopReason {
    #[error("the deadline has passed")]
    Deadline,
    #[error("CPU limit exceeded")]
    CpuTime,
    #[error("the host's memory for plugins is exhausted")]
    HostMemory,
}

/// Completes a short time after a run has given way.
async fn give_way_grace_elapsed(gives_way: &Notify) {
    gives_way.notified().await;
    tokio::time::sleep(GIVE_WAY_GRACE).await;
}

/// Called by the guest's code at a tick of the epoch clock.
fn on_tick(context: StoreContextMut<'_, Invocation>) -> wasmtime::Result<UpdateDeadline> {
    let invocation = context.data();
    let meter = &invocation.guest.meter;
    if meter.deadline().has_passed() {
        return Err(StopReason::Deadline.into());
    }
    meter.mark_awake();
    let computed = meter.tick();
    if computed >= invocation.guest.limits.cpu_time {
        return Err(StopReason::CpuTime.into());
    }
    if invocation.guest.turns.keeps_at_tick(computed) {
        return Ok(UpdateDeadline::Continue(1));
    }
    let turn = Arc::clone(&invocation.guest.turns).acquire(Arc::clone(meter));
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(turn)))
}

impl Runtime {
    /// Calls a function of a plugin in a fresh instance. It ends by its deadline, whatever the
    /// guest does; dropping the future ends it immediately.
    ///
    /// A write that was in progress at the deadline may still be committed.
    ///
    /// # Errors
    /// [`CallFailure`], with the party to blame and the guest's log.
    pub async fn call(
        &self,
        plugin: &CompiledPlugin,
        request: InvocationRequest,
    ) -> Result<Response, CallFailure> {
        let request_id = request.context.request_id;
        let start = Instant::now();
        let app = Arc::clone(&request.app_name);
        let (name, function) = match find(plugin, &request.target) {
            Ok(found) => found,
            Err(error) => return Err(CallFailure::before_the_run(error, request_id)),
        };
        let trace_id = request.context.trace_id_to_log();
        let trace_id = trace_id.map(tracing::field::display);
        let span =
            tracing::info_span!("call", %request_id, trace_id, app = &*app, function = &*name);
        let recorded = call_span(&name, &request);
        let result = self
            .call_function(plugin, name, function, request)
            .instrument(span)
            .await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(failure) => failure.error.outcome(),
        };
        if let Some((recorder, span)) = recorded {
            end_call_span(&recorder, span, &result, outcome);
        }
        self.metrics.invocation(&app, outcome, start.elapsed());
        result
    }

    async fn call_function(
        &self,
        plugin: &CompiledPlugin,
        name: Arc<str>,
        function: &Function,
        request: InvocationRequest,
    ) -> Result<Response, CallFailure> {
        let request_id = request.context.request_id;
        let refused = |error| CallFailure::before_the_run(error, request_id);
        check_input(&self.limits, &request.input).map_err(|e| refused(e.into()))?;
        let _place = match &request.slot {
            Some(place) => Arc::clone(place),
            None => self.acquire_slot(&request.context).await.map_err(refused)?,
        };
        let _instance = self.metrics.instance();

        let (gives_way, deadline) = (request.gives_way.clone(), request.context.deadline.clone());
        let mut store = self.store(name, plugin.handles_timers(), request);
        let run = run(&mut store, plugin, function);
        let result = match gives_way {
            None => run.await,
            Some(gives_way) => tokio::select! {
                biased;
                result = run => result,
                () = give_way_grace_elapsed(&gives_way) => Err(CallError::Conflict {
                    runs: 1,
                    timeout: deadline.timeout(Stage::Other),
                }),
            },
        };
        let mut invocation = store.into_data();
        // Flushes the guest's standard output, which may hold a partial line.
        invocation.wasi = None;
        let log = invocation.guest.log.lock().take();
        let cost = invocation.guest.cost(invocation.limiter.used());
        for (name, count) in invocation.guest.calls.counts() {
            self.metrics.host_calls(name, count.into());
        }
        match result {
            Ok(()) => Ok(Response {
                output: invocation.guest.output,
                request_id,
                cost,
                log,
                discarded: Vec::new(),
                replayed: false,
            }),
            Err(error) => Err(CallFailure {
                error,
                request_id,
                cost,
                log,
                discarded: Vec::new(),
            }),
        }
    }

    /// Waits for an instance slot, for one or more runs.
    ///
    /// # Errors
    /// [`CallError::Deadline`] if none is free in time.
    pub async fn acquire_slot(&self, context: &CallContext) -> Result<Arc<FairPermit>, CallError> {
        let _waiting = self.metrics.waiting_for_instance();
        let place = self.slots.acquire(context.caller.app(), 1, 0);
        let place = context.deadline.within(Stage::Instance, place).await?;
        let gone = || CallError::Host("the instance queue was closed".into());
        place.map(Arc::new).ok_or_else(gone)
    }

    fn store(
        &self,
        function: Arc<str>,
        handles_timers: bool,
        request: InvocationRequest,
    ) -> Store<Invocation> {
        let InvocationRequest {
            context,
            app_name,
            target: _,
            input,
            services,
            settings,
            delivery,
            transaction,
            gives_way: _,
            slot: _,
        } = request;
        let limits = Arc::clone(&self.limits);
        let limiter = MemoryLimiter::new(
            Arc::clone(&self.memory),
            context.caller.app(),
            limits.memory_bytes,
            limits.table_elements,
        );
        let rank = self.rank.fetch_add(1, Ordering::Relaxed);
        let turns = CpuPermit::new(context.caller.app(), rank, Arc::clone(&self.computing));
        let mut guest =
            GuestState::new(context, turns, app_name, function, services, limits, input);
        guest.settings = settings;
        guest.delivery = delivery;
        guest.transactions = RunTransactions::of_run(transaction);
        guest.handles_timers = handles_timers;
        let mut store = Store::new(
            &self.engine,
            Invocation {
                guest,
                limiter,
                wasi: None,
                starting: true,
            },
        );
        store.limiter(|invocation| &mut invocation.limiter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(on_tick);
        store
    }
}

/// Returns the target's function and its name.
fn find<'p>(
    plugin: &'p CompiledPlugin,
    target: &InvocationTarget,
) -> Result<(Arc<str>, &'p Function), CallError> {
    match target {
        InvocationTarget::Http => match &plugin.http {
            Some((name, function)) => Ok((name.as_str().into(), function)),
            None => Err(CallError::NoHttpHandler),
        },
        InvocationTarget::Handler(name) => {
            let handler = plugin.handlers.get(&**name);
            match handler.or_else(|| plugin.functions.get(&**name)) {
                Some(function) => Ok((Arc::clone(name), function)),
                None => Err(CallError::NoHandler(printable(name))),
            }
        }
        InvocationTarget::Function(name) => match plugin.functions.get(&**name) {
            Some(function) => Ok((Arc::clone(name), function)),
            None => Err(unknown_function(name, plugin.functions())),
        },
    }
}

pub(super) fn unknown_function<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> CallError {
    CallError::UnknownFunction {
        name: printable(name),
        known: known
            .take(KNOWN_MAX)
            .map(|name| printable_start(name.as_bytes(), KNOWN_BYTES_MAX))
            .collect(),
    }
}

fn check_input(limits: &Limits, input: &Pieces) -> Result<(), Invalid> {
    if input.len() > limits.input_bytes {
        return Err(Invalid::TooLarge {
            subject: Subject::Input,
            len: input.len() as u64,
            limit: limits.input_bytes as u64,
        });
    }
    Ok(())
}

/// Runs the call under its deadline. The epoch clock stops a guest that computes; the timer
/// stops one that waits in a host function, where no epoch check runs.
async fn run(
    store: &mut Store<Invocation>,
    plugin: &CompiledPlugin,
    function: &Function,
) -> Result<(), CallError> {
    let meter = Arc::clone(&store.data().guest.meter);
    let turns = Arc::clone(&store.data().guest.turns);
    let cpu_time = store.data().cpu_time();
    let ended = {
        let mut call = pin!(async {
            // Otherwise many such calls would each run for a tick without a permit.
            if function.computes_long.load(Ordering::Relaxed) {
                Arc::clone(&turns).acquire(Arc::clone(&meter)).await;
            }
            enter(store, plugin, function).await
        });
        let metered = poll_fn(|context| {
            meter.begin();
            let poll = call.as_mut().poll(context);
            meter.end();
            turns.release();
            // A collection of the heap yields, but contains no epoch check, and code without a loop
            // may cause many in a row.
            if poll.is_pending() && meter.spent() >= cpu_time {
                return Poll::Ready(Err(StopReason::CpuTime.into()));
            }
            poll
        });
        meter.deadline().bound(metered).await
    };
    function
        .computes_long
        .store(meter.computes_long(), Ordering::Relaxed);
    let invocation = store.data();
    let code = match ended {
        None => return Err(invocation.timeout()),
        Some(Ok(code)) => code,
        Some(Err(error)) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => *code,
            None => return Err(trap::classify(&error, invocation, &plugin.lines)),
        },
    };
    match code {
        0 if invocation.guest.transactions.has_open() => Err(CallError::Failed {
            code: EXIT_FAILED,
            message: "the function returned without ending a transaction that it began; what it \
                      wrote in it is discarded"
                .to_owned(),
        }),
        0 => Ok(()),
        code => Err(CallError::Failed {
            code,
            message: printable_start(&invocation.guest.output, MESSAGE_BYTES_MAX),
        }),
    }
}

/// Instantiates the module and calls the function. Returns its code.
async fn enter(
    store: &mut Store<Invocation>,
    plugin: &CompiledPlugin,
    function: &Function,
) -> wasmtime::Result<i32> {
    let instance = plugin.pre.instantiate_async(&mut *store).await?;
    let missing = || wasmtime::format_err!("an export of the module is missing");
    let memory = instance
        .get_module_export(&mut *store, &plugin.memory)
        .and_then(wasmtime::Extern::into_memory);
    store.data_mut().guest.memory = memory;
    if let Some(initialize) = &plugin.initialize {
        let initialize = instance
            .get_module_export(&mut *store, initialize)
            .and_then(wasmtime::Extern::into_func)
            .ok_or_else(missing)?;
        let initialize = initialize.typed::<(), ()>(&mut *store)?;
        initialize.call_async(&mut *store, ()).await?;
    }
    store.data_mut().starting = false;

    let export = instance
        .get_module_export(&mut *store, &function.export)
        .and_then(wasmtime::Extern::into_func)
        .ok_or_else(missing)?;
    match function.signature {
        Signature::Status => {
            let export = export.typed::<(), i32>(&mut *store)?;
            export.call_async(&mut *store, ()).await
        }
        Signature::Start => {
            let export = export.typed::<(), ()>(&mut *store)?;
            export.call_async(&mut *store, ()).await?;
            Ok(0)
        }
    }
}
