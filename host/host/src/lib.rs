//! The library's entry point: combines a store, a runtime and the services between them.
#![deny(missing_docs)]

mod admitted;
mod call;
mod deliver;
mod idempotency;
mod request_hash;
mod transaction;

use idempotency::{AnswerClaim, KeyTurns, KeyedCall, is_preceded};
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{App, AppLimits, AppName, Digest, Limits, TraceContext};
use kvasm_metrics::Metrics;
use kvasm_runtime::{
    CacheLimits, CallError, CallFailure, CompiledPlugin, Compiler, EngineOptions, Invocation,
    InvocationRequest, LoadError, Response, Runtime, RuntimeError,
};
use kvasm_service::{
    Admin, Admission, AppTokenCache, CallContext, Caller, Deadline, DispatchNotifier, Health,
    KeyLocks, Kv, KvService, Logs, SeenGeneration, ServiceError, Services, StoredDeadLetters,
    WriteRates,
};
use kvasm_store_memory::MemoryStore;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;
use wasmtime::Linker;

pub use admitted::AdmittedCall;
pub use call::{Call, DeployError, InvokeError};
pub use deliver::DeliverError;

type Extend = Box<dyn FnOnce(&mut Linker<Invocation>) -> wasmtime::Result<()>>;

/// Default number of calls per app that may queue for a slot.
const QUEUE_DEFAULT: usize = 64;

/// Configures and builds a [`Host`].
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
    /// Sets the store of apps and entries. By default an in-memory store.
    #[must_use]
    pub fn store(mut self, store: impl Store) -> HostBuilder {
        self.store = Some(Arc::new(store));
        self
    }

    /// Like [`store`](HostBuilder::store), for a store that is shared.
    #[must_use]
    pub fn shared_store(mut self, store: Arc<dyn Store>) -> HostBuilder {
        self.store = Some(store);
        self
    }

    /// Replaces the services that the host functions call. By default services over the store.
    #[must_use]
    pub fn services(mut self, services: Services) -> HostBuilder {
        self.services = Some(services);
        self
    }

    /// Sets the limits of invocations, values and pages.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> HostBuilder {
        self.limits = limits;
        self
    }

    /// Sets the maximum number of concurrent instances. Default 256. Their address space is
    /// reserved when the host is built.
    #[must_use]
    pub fn instances(mut self, instances: u32) -> HostBuilder {
        self.engine.instances = Some(instances);
        self
    }

    /// Sets the memory of all instances together, in bytes. Default 4 GiB. A call that needs
    /// more than is available fails as the host's fault; one app gets at most as much as remains
    /// free.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> HostBuilder {
        self.engine.memory = bytes;
        self
    }

    /// Disables the instance pool. Each call allocates its instance from the system, which is
    /// slower. For hosts that run few plugins or none.
    #[must_use]
    pub fn unpooled(mut self) -> HostBuilder {
        self.engine.instances = None;
        self
    }

    /// Sets a folder that caches compiled modules across processes. It is created, accessible
    /// only to its owner, if it does not exist. If it cannot be used, a warning is logged. By
    /// default there is no cache folder.
    #[must_use]
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> HostBuilder {
        self.engine.cache_dir = Some(dir.into());
        self
    }

    /// Limits the cache folder. Default 1 GiB and 10,000 files; the least recently used files
    /// are evicted.
    #[must_use]
    pub fn cache_limits(mut self, limits: CacheLimits) -> HostBuilder {
        self.engine.cache = limits;
        self
    }

    /// Sets how many compiled modules are kept in memory. Default 1,000.
    #[must_use]
    pub fn modules(mut self, modules: usize) -> HostBuilder {
        self.engine.modules = modules;
        self
    }

    /// Sets the approximate size of all compiled modules in memory, in bytes. It is also the
    /// limit for one module. Default 512 MiB.
    #[must_use]
    pub fn modules_bytes(mut self, bytes: usize) -> HostBuilder {
        self.engine.modules_bytes = bytes;
        self
    }

    /// Sets where modules are compiled. By default in this process, where a compilation cannot
    /// be aborted: use [`Compiler::Process`] for modules from people whom you do not trust.
    #[must_use]
    pub fn compiler(mut self, compiler: Compiler) -> HostBuilder {
        self.engine.compiler = compiler;
        self
    }

    /// Sets how many modules are compiled concurrently; as many again may run that take long. By
    /// default the number of cores minus one, at least one. Modules of one app are compiled one
    /// at a time.
    #[must_use]
    pub fn compilers(mut self, compilers: usize) -> HostBuilder {
        self.engine.compilers = Some(compilers);
        self
    }

    /// Sets the CPU time limit for compiling a module; in this process, wall time. Default 30 s.
    #[must_use]
    pub fn compile_time(mut self, compile_time: Duration) -> HostBuilder {
        self.engine.compile_time = compile_time;
        self
    }

    /// Sets the memory limit of a compiler process, in bytes. Default 1 GiB.
    #[must_use]
    pub fn compile_memory(mut self, bytes: u64) -> HostBuilder {
        self.engine.compile_memory = bytes;
        self
    }

    /// Sets the limits of new apps. By default they have none.
    #[must_use]
    pub fn new_apps(mut self, limits: AppLimits) -> HostBuilder {
        self.new_apps = limits;
        self
    }

    /// Sets how many calls of an app may queue while others run. Default 64.
    #[must_use]
    pub fn queue(mut self, calls: usize) -> HostBuilder {
        self.queue = calls;
        self
    }

    /// Sets the host's metrics. Share them with the store, so that both count in one place.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> HostBuilder {
        self.metrics = metrics;
        self
    }

    /// Adds custom host functions next to `kvasm_v1`, under their own module name.
    #[must_use]
    pub fn extend(
        mut self,
        extend: impl FnOnce(&mut Linker<Invocation>) -> wasmtime::Result<()> + 'static,
    ) -> HostBuilder {
        self.extend.push(Box::new(extend));
        self
    }

    /// Builds the host: starts the wasm engine and its epoch clock.
    ///
    /// # Errors
    /// [`RuntimeError`] if the engine cannot start, or a host function is defined twice.
    pub fn build(self) -> Result<Host, RuntimeError> {
        let limits = Arc::new(self.limits);
        let metrics = self.metrics;
        let store = self
            .store
            .unwrap_or_else(|| Arc::new(MemoryStore::default()));
        let notifier = Arc::new(DispatchNotifier::default());
        let locks = KeyLocks::new(metrics.clone());
        let services = self.services.unwrap_or_else(|| {
            let events = Arc::clone(&notifier) as Arc<dyn kvasm_service::CommitListener>;
            let kv = KvService::new(Arc::clone(&store), events, metrics.clone(), &limits)
                .with_key_locks(Arc::clone(&locks), &limits);
            Services {
                kv: Arc::new(kv),
                dead_letters: Arc::new(StoredDeadLetters(Arc::clone(&store))),
            }
        });
        let extend = |linker: &mut Linker<Invocation>| {
            self.extend
                .into_iter()
                .try_for_each(|extend| extend(linker))
        };
        let runtime = Runtime::new(Arc::clone(&limits), self.engine, metrics.clone(), extend)?;
        let access = Arc::new(AppTokenCache::new(Arc::clone(&store), metrics.clone()));
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
            key_turns: Arc::default(),
            notifier,
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
    key_turns: Arc<KeyTurns>,
    notifier: Arc<DispatchNotifier>,
    access: Arc<AppTokenCache>,
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
    /// Returns a builder with the default limits and an in-memory store.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// Returns the key-value service that plugins' host functions call.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.0.services.kv
    }

    /// Returns the notifications of apps with new deliveries on this host.
    pub fn notifier(&self) -> &DispatchNotifier {
        &self.0.notifier
    }

    /// Returns the lookup of apps and tokens, always as current as the store.
    pub fn access(&self) -> &AppTokenCache {
        &self.0.access
    }

    /// Returns the administrative operations: apps, plugin versions, tokens, the audit log.
    pub fn admin(&self) -> &Admin {
        &self.0.admin
    }

    /// Returns the logs of apps on this host.
    pub fn logs(&self) -> &Arc<Logs> {
        &self.0.logs
    }

    /// Returns the health of this host: its store and its background tasks.
    pub fn health(&self) -> &Arc<Health> {
        &self.0.health
    }

    /// Returns the number of compiled modules in memory, and their size in bytes.
    pub fn modules(&self) -> (usize, usize) {
        self.0.runtime.modules()
    }

    /// Returns the host's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Returns the limits of invocations, values and pages.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Creates an app with the limits of new apps, which rejects calls without a token. The
    /// actor in the audit log is `embedder`; use [`Admin::create_app`] for another one.
    ///
    /// # Errors
    /// [`ServiceError::AppExists`] if the name is taken, or a store error.
    pub async fn create_app(&self, name: AppName) -> Result<App, ServiceError> {
        let embedder = self.operator("embedder");
        self.admin().create_app(&embedder, name, false).await
    }

    /// Returns the app of that name, if it exists.
    ///
    /// # Errors
    /// A store error.
    pub async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError> {
        let app = self
            .0
            .access
            .app(&mut SeenGeneration::default(), name)
            .await?;
        Ok(app.map(Arc::unwrap_or_clone))
    }

    /// Compiles a module for an app, off the serving threads, and checks that it can run here. A
    /// module is compiled once for all apps.
    ///
    /// # Errors
    /// [`LoadError`], with the reason.
    pub async fn load(&self, app: &App, wasm: impl Into<Vec<u8>>) -> Result<Plugin, LoadError> {
        let compiled = self.0.runtime.load(app.id, wasm.into().into()).await?;
        Ok(Plugin {
            app: Arc::new(app.clone()),
            app_name: app.name.as_str().into(),
            compiled,
        })
    }

    /// Calls a function of a plugin, in a fresh instance, for the plugin's app. A transactional
    /// function is rerun on conflicts until it times out.
    ///
    /// Needs a tokio runtime with its timer enabled. The app's call limits do not apply;
    /// [`invoke`](Host::invoke) enforces them.
    ///
    /// # Errors
    /// [`CallFailure`], with the party to blame and the guest's log.
    pub async fn call(&self, plugin: &Plugin, call: Call) -> Result<Response, CallFailure> {
        let context = self.context(&plugin.app, &call);
        let state = self.claim_answer(&plugin.app, &call, &context).await;
        let failed =
            |error| CallFailure::before_the_run(CallError::from(error), context.request_id);
        match state.map_err(failed)? {
            None => self.run(plugin, call, context, None).await,
            Some(KeyedCall::Unanswered(claim)) => {
                self.run(plugin, call, context, Some(&claim)).await
            }
            Some(KeyedCall::Answered(response)) => Ok(response),
        }
    }

    /// Creates the context of a call, whose deadline starts now.
    fn context(&self, app: &App, call: &Call) -> CallContext {
        let request_id = call.request_id.unwrap_or_else(Uuid::now_v7);
        let trace = call.trace.clone();
        let trace = trace.unwrap_or_else(|| TraceContext::root(request_id));
        CallContext {
            caller: Caller::new(app, call.principal.clone()).with_trace(trace),
            request_id,
            deadline: Deadline::after(self.0.limits.wall_time),
        }
    }

    async fn run(
        &self,
        plugin: &Plugin,
        call: Call,
        context: CallContext,
        claim: Option<&AnswerClaim>,
    ) -> Result<Response, CallFailure> {
        let Call { target, input, .. } = call;
        if plugin.compiled.is_transaction(&target) {
            let run = transaction::Run::new(plugin, context, target, input).answering(claim);
            return match (self.run_transaction(run).await, claim) {
                (Err(failure), Some(claim)) if is_preceded(&failure) => {
                    self.preceding_answer(claim, failure).await
                }
                (result, _) => result,
            };
        }
        let kept = claim.map(|claim| (claim, target.clone(), context.clone()));
        let request = InvocationRequest {
            context,
            app_name: Arc::clone(&plugin.app_name),
            target,
            input,
            services: self.0.services.clone(),
            delivery: None,
            transaction: false,
            gives_way: None,
            slot: None,
        };
        let response = self.0.runtime.call(&plugin.compiled, request).await?;
        match kept {
            None => Ok(response),
            Some((claim, target, context)) => {
                self.keep_after_run(claim, &target, &context, response)
                    .await
            }
        }
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
    /// Returns the app that it belongs to.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Returns the names of its functions, in order.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.compiled.functions()
    }

    /// Returns the SHA-256 of its module.
    pub fn digest(&self) -> Digest {
        self.compiled.digest()
    }
}
