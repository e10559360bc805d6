//! The library's front door: a store, a runtime and the services between them.
#![deny(missing_docs)]

mod call;
mod deliver;
mod transaction;

use kvasm_core::store::{Store, StoreError};
use kvasm_core::{App, AppLimits, AppName, Digest, Limits, Pieces, Principal};
use kvasm_metrics::Metrics;
use kvasm_runtime::{
    CacheLimits, CallFailure, CompiledPlugin, Compiler, EngineOptions, Invocation, LoadError,
    Request, Response, Runtime, RuntimeError, Target,
};
use kvasm_service::{
    Access, Admin, Admission, CallContext, Caller, Deadline, Health, KeyLocks, Kv, KvService, Logs,
    Seen, ServiceError, Services, StoredDeadLetters, Wakes, WriteRates,
};
use kvasm_store_memory::MemoryStore;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;
use wasmtime::Linker;

pub use call::{DeployError, Entered, InvokeError};
pub use deliver::DeliverError;

type Extend = Box<dyn FnOnce(&mut Linker<Invocation>) -> wasmtime::Result<()>>;

/// Calls of an app that may wait for others of it to end.
const QUEUE_DEFAULT: usize = 64;

/// Sets up a [`Host`].
pub struct HostBuilder {
    store: Option<Arc<dyn Store>>,
    services: Option<Services>,
    limits: Limits,
    engine: EngineOptions,
    new_apps: AppLimits,
    queue: usize,
    metrics: Metrics,
    extend: Vec<Extend>,
}

impl Default for HostBuilder {
    fn default() -> HostBuilder {
        HostBuilder {
            store: None,
            services: None,
            limits: Limits::default(),
            engine: EngineOptions::default(),
            new_apps: AppLimits::default(),
            queue: QUEUE_DEFAULT,
            metrics: Metrics::default(),
            extend: Vec::new(),
        }
    }
}

impl HostBuilder {
    /// Where apps and entries live. By default in memory, gone with the host.
    #[must_use]
    pub fn store(mut self, store: impl Store) -> HostBuilder {
        self.store = Some(Arc::new(store));
        self
    }

    /// As [`store`](HostBuilder::store), for one that is shared.
    #[must_use]
    pub fn shared_store(mut self, store: Arc<dyn Store>) -> HostBuilder {
        self.store = Some(store);
        self
    }

    /// What the host functions call, in place of services over the store.
    #[must_use]
    pub fn services(mut self, services: Services) -> HostBuilder {
        self.services = Some(services);
        self
    }

    /// What an invocation, a value and a page may use.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> HostBuilder {
        self.limits = limits;
        self
    }

    /// How many instances exist at once. Default 256. Room for them is reserved when
    /// the host is built, as address space.
    #[must_use]
    pub fn instances(mut self, instances: u32) -> HostBuilder {
        self.engine.instances = Some(instances);
        self
    }

    /// The memory of all instances together, in bytes. Default 4 GiB. A call that needs
    /// more than is left fails as the host's fault; one app gets at most as much as is
    /// then left free.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> HostBuilder {
        self.engine.memory = bytes;
        self
    }

    /// Reserves no room for instances. Each call asks the system for its own, which
    /// is slower. For hosts that run few plugins or none.
    #[must_use]
    pub fn unpooled(mut self) -> HostBuilder {
        self.engine.instances = None;
        self
    }

    /// A folder that keeps compiled modules between processes. It is made, for
    /// its owner alone, if it is not there. If it cannot be used, that is a warning
    /// in the log. By default nothing is kept.
    #[must_use]
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> HostBuilder {
        self.engine.cache_dir = Some(dir.into());
        self
    }

    /// How much the folder may hold. Default 1 GiB and 10,000 files; of more, those
    /// that were not used for longest are removed.
    #[must_use]
    pub fn cache_limits(mut self, limits: CacheLimits) -> HostBuilder {
        self.engine.cache = limits;
        self
    }

    /// How many compiled modules are kept in memory. Default 1,000.
    #[must_use]
    pub fn modules(mut self, modules: usize) -> HostBuilder {
        self.engine.modules = modules;
        self
    }

    /// How many bytes the compiled modules in memory may have, about, and how many
    /// one of them. Default 512 MiB.
    #[must_use]
    pub fn modules_bytes(mut self, bytes: usize) -> HostBuilder {
        self.engine.modules_bytes = bytes;
        self
    }

    /// Where modules are compiled. By default in this process, where a compilation
    /// cannot be stopped: name a program ([`Compiler::Process`]) if the modules come
    /// from people whom you do not trust.
    #[must_use]
    pub fn compiler(mut self, compiler: Compiler) -> HostBuilder {
        self.engine.compiler = compiler;
        self
    }

    /// How many modules are compiled at once, and as many again that take long. By
    /// default as many as there are cores but one, and at least one. At most one of an
    /// app is compiled at once.
    #[must_use]
    pub fn compilers(mut self, compilers: usize) -> HostBuilder {
        self.engine.compilers = Some(compilers);
        self
    }

    /// The CPU time that a module may take to compile; in this process, the wall
    /// time. Default 30 s.
    #[must_use]
    pub fn compile_time(mut self, compile_time: Duration) -> HostBuilder {
        self.engine.compile_time = compile_time;
        self
    }

    /// The memory that the process of a compiler may take, in bytes. Default 1 GiB.
    #[must_use]
    pub fn compile_memory(mut self, bytes: u64) -> HostBuilder {
        self.engine.compile_memory = bytes;
        self
    }

    /// The limits that new apps get. By default they have none.
    #[must_use]
    pub fn new_apps(mut self, limits: AppLimits) -> HostBuilder {
        self.new_apps = limits;
        self
    }

    /// How many calls of an app may wait for others of it to end. Default 64.
    #[must_use]
    pub fn queue(mut self, calls: usize) -> HostBuilder {
        self.queue = calls;
        self
    }

    /// Where the host counts. Share it with the store, so that both count in one place.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> HostBuilder {
        self.metrics = metrics;
        self
    }

    /// Adds own host functions beside `kvasm_v1`, in a module name of their own.
    #[must_use]
    pub fn extend(
        mut self,
        extend: impl FnOnce(&mut Linker<Invocation>) -> wasmtime::Result<()> + 'static,
    ) -> HostBuilder {
        self.extend.push(Box::new(extend));
        self
    }

    /// Builds the host: starts the wasm engine and its clock.
    ///
    /// # Errors
    /// [`RuntimeError`] when the engine cannot start, or a host function is linked
    /// twice.
    pub fn build(self) -> Result<Host, RuntimeError> {
        let limits = Arc::new(self.limits);
        let metrics = self.metrics;
        let store = self
            .store
            .unwrap_or_else(|| Arc::new(MemoryStore::default()));
        let wakes = Arc::new(Wakes::default());
        let locks = KeyLocks::new(metrics.clone());
        let services = self.services.unwrap_or_else(|| {
            let events = Arc::clone(&wakes) as Arc<dyn kvasm_service::Events>;
            let kv = KvService::new(Arc::clone(&store), events.clone(), metrics.clone(), &limits)
                .with_key_locks(Arc::clone(&locks), &limits);
            Services {
                kv: Arc::new(kv),
                dead_letters: Arc::new(StoredDeadLetters(Arc::clone(&store))),
                events,
            }
        });
        let extend = |linker: &mut Linker<Invocation>| {
            self.extend
                .into_iter()
                .try_for_each(|extend| extend(linker))
        };
        let runtime = Runtime::new(Arc::clone(&limits), self.engine, metrics.clone(), extend)?;
        let access = Arc::new(Access::new(Arc::clone(&store), metrics.clone()));
        Ok(Host(Arc::new(Parts {
            admin: Admin::new(Arc::clone(&store), Arc::clone(&access), self.new_apps),
            access,
            admission: Admission::new(self.queue, metrics.clone()),
            writes: WriteRates::default(),
            logs: Arc::default(),
            health: Arc::new(Health::new(Arc::clone(&store), metrics.clone())),
            runtime: Arc::new(runtime),
            store,
            services,
            locks,
            wakes,
            limits,
            metrics,
        })))
    }
}

/// A plugin host: apps, their plugins and their entries. Cheap to clone.
#[derive(Clone)]
pub struct Host(Arc<Parts>);

struct Parts {
    store: Arc<dyn Store>,
    services: Services,
    locks: Arc<KeyLocks>,
    wakes: Arc<Wakes>,
    access: Arc<Access>,
    admin: Admin,
    admission: Admission,
    writes: WriteRates,
    logs: Arc<Logs>,
    health: Arc<Health>,
    runtime: Arc<Runtime>,
    limits: Arc<Limits>,
    metrics: Metrics,
}

impl Host {
    /// A builder with the default limits and a store in memory.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// The key-value service: what the host functions of plugins call.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.0.services.kv
    }

    /// Who has made deliveries on this host since a dispatcher last looked.
    pub fn wakes(&self) -> &Wakes {
        &self.0.wakes
    }

    /// Apps and tokens, as the store has them when a request asks.
    pub fn access(&self) -> &Access {
        &self.0.access
    }

    /// What administrators do: apps, plugin versions, tokens, the audit log.
    pub fn admin(&self) -> &Admin {
        &self.0.admin
    }

    /// The logs of apps on this host.
    pub fn logs(&self) -> &Arc<Logs> {
        &self.0.logs
    }

    /// Whether this host can work: its store, and its background tasks.
    pub fn health(&self) -> &Arc<Health> {
        &self.0.health
    }

    /// How many compiled modules this host has in memory, and their bytes.
    pub fn modules(&self) -> (usize, usize) {
        self.0.runtime.modules()
    }

    /// What this host counts.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What an invocation, a value and a page may use.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Creates an app with the limits of new apps, which takes no calls without a
    /// token. In the audit log the actor is `embedder`; with another one use
    /// [`Admin::create_app`].
    ///
    /// # Errors
    /// [`ServiceError::AppExists`] if the name is taken, or the store's failure.
    pub async fn create_app(&self, name: AppName) -> Result<App, ServiceError> {
        let embedder = self.operator("embedder");
        self.admin().create_app(&embedder, name, false).await
    }

    /// The app of that name, if there is one.
    ///
    /// # Errors
    /// The store's failure.
    pub async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError> {
        let app = self.0.access.app(&mut Seen::default(), name).await?;
        Ok(app.map(Arc::unwrap_or_clone))
    }

    /// Compiles a module for an app, away from the threads that serve, and checks
    /// that it can run here. The same module is compiled once for all apps.
    ///
    /// # Errors
    /// [`LoadError`], which says what is wrong with the module.
    pub async fn load(&self, app: &App, wasm: impl Into<Vec<u8>>) -> Result<Plugin, LoadError> {
        let compiled = self.0.runtime.load(app.id, wasm.into().into()).await?;
        Ok(Plugin {
            app: Arc::new(app.clone()),
            app_name: app.name.as_str().into(),
            compiled,
        })
    }

    /// Calls a function of a plugin, in a fresh instance, for the plugin's app. A
    /// transactional function is run again when others have changed what it has
    /// read, until it times out.
    ///
    /// Call it on a tokio runtime with its timer enabled. The app's limits of
    /// calls are not looked at; [`invoke`](Host::invoke) does so.
    ///
    /// # Errors
    /// [`CallFailure`], with whose fault it is and what the guest logged.
    pub async fn call(&self, plugin: &Plugin, call: Call) -> Result<Response, CallFailure> {
        let context = self.context(&plugin.app, &call);
        self.run(plugin, call, context).await
    }

    /// What goes with a call from here to its end.
    fn context(&self, app: &App, call: &Call) -> CallContext {
        CallContext {
            caller: Caller::new(app, call.principal.clone()),
            request_id: call.request_id.unwrap_or_else(Uuid::now_v7),
            deadline: Deadline::after(self.0.limits.wall_time),
        }
    }

    async fn run(
        &self,
        plugin: &Plugin,
        call: Call,
        context: CallContext,
    ) -> Result<Response, CallFailure> {
        let Call { target, input, .. } = call;
        if plugin.compiled.is_transaction(&target) {
            let run = transaction::Run::new(plugin, context, target, input);
            return self.run_transaction(run).await;
        }
        let request = Request {
            context,
            app_name: Arc::clone(&plugin.app_name),
            target,
            input,
            services: self.0.services.clone(),
            delivery: None,
            transaction: false,
            gives_way: None,
            place: None,
        };
        self.0.runtime.call(&plugin.compiled, request).await
    }
}

/// A plugin of one app, ready to be called. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    app: Arc<App>,
    app_name: Arc<str>,
    compiled: Arc<CompiledPlugin>,
}

impl Plugin {
    /// The app that it belongs to.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// The names of its functions, in order.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.compiled.functions()
    }

    /// The SHA-256 of its module.
    pub fn digest(&self) -> Digest {
        self.compiled.digest()
    }
}

/// A call of a function.
#[derive(Debug, Clone)]
pub struct Call {
    target: Target,
    input: Pieces,
    principal: Option<Principal>,
    request_id: Option<Uuid>,
}

impl Call {
    /// A public call without input.
    pub fn function(name: impl Into<Arc<str>>) -> Call {
        Call::of(Target::Function(name.into()))
    }

    /// A public call of the HTTP handler, whose input and output are framed as
    /// `kvasm_abi::http` says.
    pub fn http() -> Call {
        Call::of(Target::Http)
    }

    fn of(target: Target) -> Call {
        Call {
            target,
            input: Pieces::default(),
            principal: None,
            request_id: None,
        }
    }

    /// The request's id, if it has one already. By default a new one.
    #[must_use]
    pub fn request_id(mut self, id: Uuid) -> Call {
        self.request_id = Some(id);
        self
    }

    /// The input: bytes that mean whatever the function takes them for.
    #[must_use]
    pub fn input(mut self, input: impl Into<Pieces>) -> Call {
        self.input = input.into();
        self
    }

    /// Who calls. Each key-value call then needs a scope of this principal.
    #[must_use]
    pub fn principal(mut self, principal: Principal) -> Call {
        self.principal = Some(principal);
        self
    }
}
