//! One invocation: a fresh instance, one call, and the end of both.

use super::engine::Runtime;
use super::error::{CallError, CallFailure};
use super::limiter::MemoryLimiter;
use super::module::{CompiledPlugin, Function, Signature};
use super::{trap, wasi};
use crate::abi::{DeliveryContext, GuestLog, GuestState, GuestView, printable};
use crate::model::{Invalid, Limits, Subject};
use crate::service::{Caller, Services};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;
use tracing::Instrument;
use uuid::Uuid;
use wasmtime::{Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::WasiP1Ctx;

/// What is called, and for whom.
pub struct Request {
    /// On whose behalf, and thereby whose rows.
    pub caller: Caller,
    /// The app's name, for the guest and the log.
    pub app_name: Arc<str>,
    /// The function.
    pub target: Target,
    /// Its input.
    pub input: Vec<u8>,
    /// The request's id.
    pub request_id: Uuid,
    /// What the host functions call.
    pub services: Services,
    /// The delivery that is carried out, if it is one.
    pub delivery: Option<Arc<DeliveryContext>>,
    /// Whether the run is a transaction.
    pub transaction: bool,
}

impl CompiledPlugin {
    /// Whether a call of a target is a transaction: what deliveries call always is.
    pub fn is_transaction(&self, target: &Target) -> bool {
        match target {
            Target::Handler(_) => true,
            Target::Http => false,
            Target::Function(name) => {
                let function = self.functions.get(&**name);
                function.is_some_and(|function| function.transaction)
            }
        }
    }
}

/// What of a plugin is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The function of this name.
    Function(Arc<str>),
    /// The HTTP handler. Input and output are framed as `kvasm_abi::http` says.
    Http,
    /// The handler of this name, or the function of this name, for a delivery. The
    /// input is framed as `kvasm_abi::http` says.
    Handler(Arc<str>),
}

impl Target {
    /// The name of the export that is called, if there is one.
    pub(crate) fn name<'t>(&'t self, plugin: &'t CompiledPlugin) -> &'t str {
        match self {
            Target::Function(name) | Target::Handler(name) => name,
            Target::Http => plugin.http.as_ref().map_or("", |(name, _)| name),
        }
    }
}

/// A call that succeeded.
#[derive(Debug)]
pub struct Response {
    /// What the function wrote.
    pub output: Vec<u8>,
    /// The request's id, which the host's log carries too.
    pub request_id: Uuid,
    /// What the guest logged.
    pub log: GuestLog,
    /// What runs logged before this one that were thrown away.
    pub discarded: Vec<GuestLog>,
}

/// The data of an invocation's wasmtime store. An own host function gets it
/// from [`wasmtime::Caller::data_mut`] and finds the app, the caller and the
/// services with [`guest_state`](Invocation::guest_state).
pub struct Invocation {
    guest: GuestState,
    limiter: MemoryLimiter,
    wasi: Option<Box<WasiP1Ctx>>,
    meter: Arc<Meter>,
    deadline: Instant,
    starting: bool,
}

impl Invocation {
    /// What the host knows of this invocation.
    pub fn guest_state(&self) -> &GuestState {
        &self.guest
    }

    pub(super) fn wasi(&mut self) -> &mut WasiP1Ctx {
        self.wasi
            .get_or_insert_with(|| Box::new(wasi::context(&self.guest.log)))
    }

    pub(super) fn starting(&self) -> bool {
        self.starting
    }

    pub(super) fn wall_time(&self) -> Duration {
        self.guest.limits.wall_time
    }

    pub(super) fn cpu_time(&self) -> Duration {
        self.guest.limits.cpu_time
    }

    /// The memory limit, if the guest was refused memory.
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

/// Why the clock ends a guest that computes.
#[derive(Debug, Error)]
pub(super) enum Stop {
    #[error("the deadline has passed")]
    Deadline,
    #[error("the CPU time is used up")]
    CpuTime,
}

/// The time that an invocation has spent on a thread, and its place among those
/// that compute for long.
struct Meter {
    base: Instant,
    spent_ns: AtomicU64,
    polled_at_ns: AtomicU64,
    /// Held while a guest computes that has done so for a tick. Given back when it
    /// waits, for whatever it is.
    place: Mutex<Option<OwnedSemaphorePermit>>,
    places: Arc<Semaphore>,
}

impl Meter {
    fn new(places: Arc<Semaphore>) -> Meter {
        Meter {
            base: Instant::now(),
            spent_ns: AtomicU64::new(0),
            polled_at_ns: AtomicU64::new(0),
            place: Mutex::new(None),
            places,
        }
    }

    /// Lets other tasks of this thread run, then waits for a place.
    async fn take_turn(self: Arc<Meter>) {
        tokio::task::yield_now().await;
        let place = Arc::clone(&self.places).acquire_owned().await;
        *self.place.lock() = place.ok();
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn begin(&self) {
        self.polled_at_ns.store(self.now_ns(), Ordering::Relaxed);
    }

    fn end(&self) {
        let spent = self.spent().as_nanos();
        let spent = u64::try_from(spent).unwrap_or(u64::MAX);
        self.spent_ns.store(spent, Ordering::Relaxed);
        *self.place.lock() = None;
    }

    /// What was spent before this poll, and in it.
    fn spent(&self) -> Duration {
        let polled_at = self.polled_at_ns.load(Ordering::Relaxed);
        let this_poll = self.now_ns().saturating_sub(polled_at);
        Duration::from_nanos(
            self.spent_ns
                .load(Ordering::Relaxed)
                .saturating_add(this_poll),
        )
    }
}

/// Called by the guest's own code after a tick of the clock.
fn on_tick(context: StoreContextMut<'_, Invocation>) -> wasmtime::Result<UpdateDeadline> {
    let invocation = context.data();
    if Instant::now() >= invocation.deadline {
        return Err(Stop::Deadline.into());
    }
    if invocation.meter.spent() >= invocation.guest.limits.cpu_time {
        return Err(Stop::CpuTime.into());
    }
    let turn = Arc::clone(&invocation.meter).take_turn();
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(turn)))
}

impl Runtime {
    /// Calls a function of a plugin in a fresh instance. It ends by its deadline
    /// whatever the guest does; dropping the future ends it at once.
    ///
    /// A write that was under way when the deadline passed may still be carried
    /// out by the store.
    ///
    /// # Errors
    /// [`CallFailure`], with whose fault it is and what the guest logged.
    pub async fn call(
        &self,
        plugin: &CompiledPlugin,
        request: Request,
    ) -> Result<Response, CallFailure> {
        let request_id = request.request_id;
        let start = Instant::now();
        let app = Arc::clone(&request.app_name);
        let (name, function) = match find(plugin, &request.target) {
            Ok(found) => found,
            Err(error) => {
                let log = GuestLog::new(0, 0);
                return Err(CallFailure {
                    error,
                    request_id,
                    log,
                    discarded: Vec::new(),
                });
            }
        };
        let span = tracing::info_span!("call", %request_id, app = &*app, function = &*name);
        let result = self
            .call_function(plugin, name, function, request)
            .instrument(span)
            .await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(failure) => failure.error.outcome(),
        };
        self.metrics.invocation(&app, outcome, start.elapsed());
        result
    }

    async fn call_function(
        &self,
        plugin: &CompiledPlugin,
        name: Arc<str>,
        function: &Function,
        request: Request,
    ) -> Result<Response, CallFailure> {
        let request_id = request.request_id;
        let refused = |error| CallFailure {
            error,
            request_id,
            log: GuestLog::new(0, 0),
            discarded: Vec::new(),
        };
        let deadline = Instant::now() + self.limits.wall_time;
        check_input(&self.limits, &request.input).map_err(|e| refused(e.into()))?;
        let waiting = self.metrics.waiting_for_instance();
        let slots = timeout_at(deadline.into(), self.pool.take(plugin.slots));
        let Ok(Some(_slots)) = slots.await else {
            return Err(refused(CallError::Busy(self.limits.wall_time)));
        };
        drop(waiting);
        let _instance = self.metrics.instance();

        let mut store = self.store(name, request, deadline);
        let result = run(&mut store, plugin, function, deadline).await;
        let mut invocation = store.into_data();
        // Ends the guest's standard output, which may hold half a line.
        invocation.wasi = None;
        let log = invocation.guest.log.lock().clone();
        for (name, count) in invocation.guest.calls.counts() {
            self.metrics.host_calls(name, count.into());
        }
        match result {
            Ok(()) => Ok(Response {
                output: invocation.guest.output,
                request_id,
                log,
                discarded: Vec::new(),
            }),
            Err(error) => Err(CallFailure {
                error,
                request_id,
                log,
                discarded: Vec::new(),
            }),
        }
    }

    fn store(&self, function: Arc<str>, request: Request, deadline: Instant) -> Store<Invocation> {
        let Request {
            caller,
            app_name,
            target: _,
            input,
            request_id,
            services,
            delivery,
            transaction,
        } = request;
        let limits = Arc::clone(&self.limits);
        let limiter = MemoryLimiter::new(limits.memory_bytes, limits.table_elements);
        let mut guest = GuestState::new(
            caller, app_name, function, services, limits, input, request_id,
        );
        guest.delivery = delivery;
        guest.transaction = transaction;
        let mut store = Store::new(
            &self.engine,
            Invocation {
                guest,
                limiter,
                wasi: None,
                meter: Arc::new(Meter::new(Arc::clone(&self.computing))),
                deadline,
                starting: true,
            },
        );
        store.limiter(|invocation| &mut invocation.limiter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(on_tick);
        store
    }
}

/// The function that is meant, and its name.
fn find<'p>(
    plugin: &'p CompiledPlugin,
    target: &Target,
) -> Result<(Arc<str>, &'p Function), CallError> {
    match target {
        Target::Http => match &plugin.http {
            Some((name, function)) => Ok((name.as_str().into(), function)),
            None => Err(CallError::NoHttpHandler),
        },
        Target::Handler(name) => {
            let handler = plugin.handlers.get(&**name);
            match handler.or_else(|| plugin.functions.get(&**name)) {
                Some(function) => Ok((Arc::clone(name), function)),
                None => Err(CallError::NoHandler(printable(name))),
            }
        }
        Target::Function(name) => match plugin.functions.get(&**name) {
            Some(function) => Ok((Arc::clone(name), function)),
            None => Err(CallError::UnknownFunction {
                name: printable(name),
                known: plugin.functions().map(printable).collect(),
            }),
        },
    }
}

fn check_input(limits: &Limits, input: &[u8]) -> Result<(), Invalid> {
    if input.len() > limits.input_bytes {
        return Err(Invalid::TooLarge {
            subject: Subject::Input,
            len: input.len() as u64,
            limit: limits.input_bytes as u64,
        });
    }
    Ok(())
}

/// Runs the call under its deadline. The clock stops a guest that computes; the
/// timer stops one that waits in a host function, which the clock cannot.
async fn run(
    store: &mut Store<Invocation>,
    plugin: &CompiledPlugin,
    function: &Function,
    deadline: Instant,
) -> Result<(), CallError> {
    let meter = Arc::clone(&store.data().meter);
    let ended = {
        let mut call = pin!(enter(store, plugin, function));
        let metered = poll_fn(|context| {
            meter.begin();
            let poll = call.as_mut().poll(context);
            meter.end();
            poll
        });
        timeout_at(deadline.into(), metered).await
    };
    let invocation = store.data();
    let code = match ended {
        Err(_elapsed) => {
            return Err(CallError::Deadline {
                limit: invocation.wall_time(),
                waiting_in: invocation.guest.waiting_in,
                starting: invocation.starting,
            });
        }
        Ok(Ok(code)) => code,
        Ok(Err(error)) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => *code,
            None => return Err(trap::classify(&error, invocation)),
        },
    };
    match code {
        0 => Ok(()),
        code => Err(CallError::Failed {
            code,
            message: printable(&String::from_utf8_lossy(&invocation.guest.output)),
        }),
    }
}

/// Instantiates the module and calls the function; returns its code.
async fn enter(
    store: &mut Store<Invocation>,
    plugin: &CompiledPlugin,
    function: &Function,
) -> wasmtime::Result<i32> {
    let instance = plugin.pre.instantiate_async(&mut *store).await?;
    let missing = || wasmtime::format_err!("an export of the module is gone");
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
