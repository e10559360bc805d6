//! The library's front door: a store, a runtime and the services between them.

use crate::abi::LogLine;
use crate::model::{App, AppId, AppName, CursorKey, Limits, Principal, Timestamp};
use crate::runtime::{
    CallFailure, CompiledPlugin, EngineOptions, Invocation, LoadError, Request, Response, Runtime,
    RuntimeError,
};
use crate::service::{Caller, Kv, KvService, Services};
use crate::store::{MemoryStore, Store, StoreError};
use std::path::PathBuf;
use std::sync::Arc;
use wasmtime::Linker;

type Extend = Box<dyn FnOnce(&mut Linker<Invocation>) -> wasmtime::Result<()>>;

/// Sets up a [`Host`].
#[derive(Default)]
pub struct HostBuilder {
    store: Option<Arc<dyn Store>>,
    services: Option<Services>,
    limits: Limits,
    engine: EngineOptions,
    extend: Vec<Extend>,
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

    /// How many instances exist at once. Default 256.
    #[must_use]
    pub fn instances(mut self, instances: u32) -> HostBuilder {
        self.engine.instances = instances;
        self
    }

    /// A folder that keeps compiled modules between processes. It is made, for
    /// its owner alone, if it is not there. By default nothing is kept.
    #[must_use]
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> HostBuilder {
        self.engine.cache_dir = Some(dir.into());
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
    /// [`RuntimeError`] when the engine cannot start, a host function is linked
    /// twice, or the cache folder cannot be used.
    pub fn build(self) -> Result<Host, RuntimeError> {
        let limits = Arc::new(self.limits);
        let store = self
            .store
            .unwrap_or_else(|| Arc::new(MemoryStore::default()));
        let services = self.services.unwrap_or_else(|| {
            let others = Services::default();
            let kv = KvService::new(Arc::clone(&store), Arc::clone(&others.events), &limits);
            Services {
                kv: Arc::new(kv),
                ..others
            }
        });
        let extend = |linker: &mut Linker<Invocation>| {
            self.extend
                .into_iter()
                .try_for_each(|extend| extend(linker))
        };
        let runtime = Runtime::new(limits, self.engine, extend)?;
        Ok(Host {
            store,
            services,
            runtime: Arc::new(runtime),
        })
    }
}

/// A plugin host: apps, their plugins and their entries. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    store: Arc<dyn Store>,
    services: Services,
    runtime: Arc<Runtime>,
}

impl Host {
    /// A builder with the default limits and a store in memory.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The key-value service: what the host functions of plugins call.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.services.kv
    }

    /// Creates an app.
    ///
    /// # Errors
    /// [`StoreError::AppExists`] if the name is taken, or the store's failure.
    pub async fn create_app(&self, name: AppName) -> Result<App, StoreError> {
        let mut cursor_key = [0; CursorKey::BYTES];
        getrandom::fill(&mut cursor_key).map_err(|e| StoreError::Failed(e.into()))?;
        let app = App {
            id: AppId::generate(),
            name,
            created_at: Timestamp::now(),
            cursor_key: CursorKey::new(cursor_key),
        };
        self.store.create_app(&app).await?;
        Ok(app)
    }

    /// The app of that name, if there is one.
    ///
    /// # Errors
    /// The store's failure.
    pub async fn app(&self, name: &AppName) -> Result<Option<App>, StoreError> {
        self.store.app(name).await
    }

    /// Compiles a module for an app, on a thread of its own, and checks that it
    /// can run here. The same module is compiled once for all apps.
    ///
    /// # Errors
    /// [`LoadError`], which says what is wrong with the module.
    pub async fn load(&self, app: &App, wasm: impl Into<Vec<u8>>) -> Result<Plugin, LoadError> {
        let (runtime, wasm) = (Arc::clone(&self.runtime), wasm.into());
        let compiled = tokio::task::spawn_blocking(move || runtime.load(&wasm))
            .await
            .map_err(|e| LoadError::Host(e.into()))??;
        Ok(Plugin {
            app: Arc::new(app.clone()),
            app_name: app.name.as_str().into(),
            compiled,
        })
    }

    /// Calls a function of a plugin, in a fresh instance, for the plugin's app.
    ///
    /// Call it on a tokio runtime with its timer enabled.
    ///
    /// # Errors
    /// [`CallFailure`], with whose fault it is and what the guest logged.
    pub async fn call(&self, plugin: &Plugin, call: Call) -> Result<Response, CallFailure> {
        let request = Request {
            caller: Caller::new(&plugin.app, call.principal),
            app_name: Arc::clone(&plugin.app_name),
            function: call.function,
            input: call.input,
            services: self.services.clone(),
        };
        self.runtime.call(&plugin.compiled, request).await
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
    pub fn digest(&self) -> [u8; 32] {
        self.compiled.digest()
    }
}

/// A call of a function.
#[derive(Debug, Clone)]
pub struct Call {
    function: Arc<str>,
    input: Vec<u8>,
    principal: Option<Principal>,
}

impl Call {
    /// A public call without input.
    pub fn function(name: impl Into<Arc<str>>) -> Call {
        Call {
            function: name.into(),
            input: Vec::new(),
            principal: None,
        }
    }

    /// The input: bytes that mean whatever the function takes them for.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Call {
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

/// A line of a guest's log as people read it.
impl std::fmt::Display for LogLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<5} {}", self.level, self.message)
    }
}
