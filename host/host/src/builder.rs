//! Builds a host.

use super::{Host, Parts};
use kvasm_core::store::Store;
use kvasm_core::{AppLimits, Limits};
use kvasm_metrics::Metrics;
use kvasm_runtime::{CacheLimits, Compiler, EngineOptions, Invocation, Runtime, RuntimeError};
use kvasm_service::{
    Admin, Admission, AppTokenCache, CallKeeper, CallRecords, ChangeFeeds, DispatchNotifier,
    Health, HealthLimits, HostHistory, KeyLocks, Keyring, KvService, LogKeeper, Logs, Outbound,
    Services, SettingsCache, Spans, StoredDeadLetters, WatchLimits, WriteRates,
};
use kvasm_store_memory::MemoryStore;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::Linker;

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
    health: HealthLimits,
    watch: WatchLimits,
    metrics: Metrics,
    spans: Spans,
    secrets: Arc<Keyring>,
    outbound: Option<Arc<dyn Outbound>>,
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
            health: HealthLimits::default(),
            watch: WatchLimits::default(),
            metrics: Metrics::default(),
            spans: Spans::default(),
            secrets: Arc::default(),
            outbound: None,
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

    /// Sets when the host counts as not ready although no task reports a failure.
    #[must_use]
    pub fn health(mut self, limits: HealthLimits) -> HostBuilder {
        self.health = limits;
        self
    }

    /// Sets the limits of watchers of changes, and how much is kept for those that resume.
    #[must_use]
    pub fn watch(mut self, limits: WatchLimits) -> HostBuilder {
        self.watch = limits;
        self
    }

    /// Sets the host's metrics. Share them with the store, so that both count in one place.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> HostBuilder {
        self.metrics = metrics;
        self
    }

    /// Sets where spans of calls and deliveries are recorded. By default nowhere.
    #[must_use]
    pub fn spans(mut self, spans: Spans) -> HostBuilder {
        self.spans = spans;
        self
    }

    /// Sets the keys with which apps' secrets are sealed. By default there are none, and setting a
    /// secret fails.
    #[must_use]
    pub fn secrets(mut self, keyring: Keyring) -> HostBuilder {
        self.secrets = Arc::new(keyring);
        self
    }

    /// Sets the client with which plugins send HTTP requests. By default there is none, and they
    /// cannot.
    #[must_use]
    pub fn outbound(mut self, client: impl Outbound + 'static) -> HostBuilder {
        self.outbound = Some(Arc::new(client));
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
        let mut services = self.services.unwrap_or_else(|| {
            let events = Arc::clone(&notifier) as Arc<dyn kvasm_service::CommitListener>;
            let kv = KvService::new(Arc::clone(&store), events, metrics.clone(), &limits)
                .with_key_locks(Arc::clone(&locks), &limits);
            Services {
                kv: Arc::new(kv),
                dead_letters: Arc::new(StoredDeadLetters(Arc::clone(&store))),
                ..Services::default()
            }
        });
        if let Some(outbound) = self.outbound {
            services.outbound = outbound;
        }
        let extend = |linker: &mut Linker<Invocation>| {
            self.extend
                .into_iter()
                .try_for_each(|extend| extend(linker))
        };
        let runtime = Runtime::new(Arc::clone(&limits), self.engine, metrics.clone(), extend)?;
        let logs = Arc::new(Logs::default());
        let log_keeper = LogKeeper::new(Arc::clone(&logs), Arc::clone(&store), metrics.clone());
        let calls = Arc::new(CallRecords::new(Arc::clone(&logs)));
        let call_keeper = CallKeeper::new(Arc::clone(&calls), Arc::clone(&store), metrics.clone());
        let change_feeds = ChangeFeeds::new(Arc::clone(&store), metrics.clone(), self.watch);
        let access = Arc::new(AppTokenCache::new(Arc::clone(&store), metrics.clone()));
        Ok(Host(Arc::new(Parts {
            admin: Admin::new(Arc::clone(&store), Arc::clone(&access), self.new_apps)
                .with_keyring(Arc::clone(&self.secrets)),
            settings: SettingsCache::new(Arc::clone(&store), Arc::clone(&access), self.secrets),
            access,
            admission: Admission::new(self.queue, metrics.clone()),
            writes: WriteRates::default(),
            history: HostHistory::new(logs.host(), Arc::clone(&store), metrics.clone()),
            logs,
            log_keeper,
            calls,
            call_keeper,
            change_feeds,
            health: Arc::new(Health::new(
                Arc::clone(&store),
                metrics.clone(),
                self.health,
            )),
            runtime: Arc::new(runtime),
            store,
            services,
            locks,
            key_turns: Arc::default(),
            notifier,
            limits,
            metrics,
            spans: self.spans,
        })))
    }
}
