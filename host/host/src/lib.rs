//! The library's entry point: combines a store, a runtime and the services between them.
#![deny(missing_docs)]

mod admitted;
mod app_log;
mod builder;
mod call;
mod call_recording;
mod deliver;
mod idempotency;
mod request_hash;
mod transaction;
mod webhook;

use idempotency::{AnswerClaim, KeyTurns, KeyedCall, is_preceded};
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{App, AppId, AppName, Digest, Limits, Needs, TraceContext};
use kvasm_metrics::Metrics;
use kvasm_runtime::{
    CallError, CallFailure, CompiledPlugin, Inspection, InvocationRequest, LoadError, Response,
    Runtime,
};
use kvasm_service::{
    Admin, Admission, AppTokenCache, CallContext, CallKeeper, CallRecords, Caller, ChangeFeeds,
    Deadline, DispatchNotifier, Health, HostHistory, KeyLocks, Kv, LogKeeper, LogRetention, Logs,
    SeenGeneration, ServiceError, Services, SettingsCache, SettingsSnapshot, Spans, Stage,
    WriteRates,
};
use std::sync::Arc;
use uuid::Uuid;

pub use admitted::AdmittedCall;
pub use builder::HostBuilder;
pub use call::{Call, DeployError, InvokeError};
pub use deliver::{DeliverError, DeliverFailure};

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
    settings: SettingsCache,
    admin: Admin,
    admission: Admission,
    writes: WriteRates,
    logs: Arc<Logs>,
    log_keeper: LogKeeper,
    calls: Arc<CallRecords>,
    call_keeper: CallKeeper,
    history: HostHistory,
    change_feeds: Arc<ChangeFeeds>,
    health: Arc<Health>,
    runtime: Arc<Runtime>,
    limits: Arc<Limits>,
    metrics: Metrics,
    spans: Spans,
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

    /// Returns the recent lines of apps' logs that were written on this host.
    pub fn logs(&self) -> &Arc<Logs> {
        &self.0.logs
    }

    /// Returns the logs of apps in the store. They are written there while a dispatcher runs; at the
    /// end, [`LogKeeper::flush`](kvasm_service::SegmentKeeper::flush) writes the last lines.
    pub fn log_keeper(&self) -> &LogKeeper {
        &self.0.log_keeper
    }

    /// Returns the records of calls on this host that are not in the store yet.
    pub fn calls(&self) -> &Arc<CallRecords> {
        &self.0.calls
    }

    /// Returns the records of calls in the store. Calls are recorded while a dispatcher runs; at the
    /// end, [`CallKeeper::flush`](kvasm_service::SegmentKeeper::flush) writes the last records.
    pub fn call_keeper(&self) -> &CallKeeper {
        &self.0.call_keeper
    }

    /// Writes the records of calls and the lines of logs that are not in the store yet, for a host
    /// that stops. Gives up after 10 s for each.
    ///
    /// # Errors
    /// The last error of the store; what was not written is lost when the process ends.
    pub async fn flush_logs(
        &self,
        logs: &LogRetention,
        calls: &LogRetention,
    ) -> Result<(), StoreError> {
        // First the calls, about which lines may be due then.
        let calls = self.0.call_keeper.flush(calls).await;
        let lines = self.0.log_keeper.flush(logs).await;
        calls.and(lines)
    }

    /// Forgets what this host has in memory about an app that was deleted: its log, and records of
    /// its calls.
    pub fn forget_log(&self, app: AppId) {
        self.0.calls.remove(app);
        self.0.logs.remove(app);
    }

    /// Returns the history of all hosts. This one's is written while a dispatcher runs; at the end,
    /// [`HostHistory::beat`] says goodbye.
    pub fn history(&self) -> &HostHistory {
        &self.0.history
    }

    /// Returns the feeds of the apps whose changes are watched on this host.
    pub fn change_feeds(&self) -> &Arc<ChangeFeeds> {
        &self.0.change_feeds
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

    /// Returns where spans are recorded. A server begins one for each request, and passes the recorder
    /// on with [`Call::recorder`].
    pub fn spans(&self) -> &Spans {
        &self.0.spans
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

    /// Whether an app of this name was recently in use on this host. It does not ask the store.
    pub fn has_seen_app(&self, name: &AppName) -> bool {
        self.0.access.has_seen(name)
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

    /// Reads a module and checks whether it could be loaded, with all reasons for a refusal that
    /// can be found. It is compiled, but not run.
    ///
    /// # Errors
    /// [`LoadError::NotWasm`] if it is not a module, or truncated; an error of the host.
    pub async fn inspect(&self, wasm: impl Into<Vec<u8>>) -> Result<Inspection, LoadError> {
        self.0.runtime.inspect(wasm.into().into()).await
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
        let claim = match state.map_err(failed)? {
            None => None,
            Some(KeyedCall::Unanswered(claim)) => Some(claim),
            Some(KeyedCall::Answered(response)) => return Ok(response),
        };
        let app = match plugin.compiled.reads_settings() {
            true => self.current_app(plugin, &context).await?,
            false => None,
        };
        let app = app.as_ref().unwrap_or(&plugin.app);
        self.run(plugin, app, call, context, claim.as_ref()).await
    }

    /// Returns the current row of a plugin's app, which may have been loaded long ago.
    async fn current_app(
        &self,
        plugin: &Plugin,
        context: &CallContext,
    ) -> Result<Option<Arc<App>>, CallFailure> {
        let mut seen = SeenGeneration::default();
        let read = self.0.access.app_by_id(&mut seen, plugin.app.id);
        read_settings(context, read).await
    }

    /// Returns what a run of a plugin may read of its app's settings.
    async fn settings(
        &self,
        plugin: &Plugin,
        app: &App,
        context: &CallContext,
    ) -> Result<SettingsSnapshot, CallFailure> {
        if !plugin.compiled.reads_settings() {
            return Ok(SettingsSnapshot::default());
        }
        let read = self.0.settings.of(app, plugin.compiled.needs());
        read_settings(context, read).await
    }

    /// Creates the context of a call, whose deadline starts now.
    fn context(&self, app: &App, call: &Call) -> CallContext {
        let request_id = call.request_id.unwrap_or_else(Uuid::now_v7);
        let mut recorder = call.recorder.clone();
        let trace = call.trace.clone().unwrap_or_else(|| {
            let mut trace = TraceContext::root(request_id);
            recorder = self.0.spans.begin(&mut trace, false, app.name.as_str());
            trace
        });
        CallContext {
            caller: Caller::new(app, call.principal.clone())
                .with_trace(trace)
                .with_recorder(recorder),
            request_id,
            deadline: Deadline::after(self.0.limits.wall_time),
        }
    }

    async fn run(
        &self,
        plugin: &Plugin,
        app: &App,
        call: Call,
        context: CallContext,
        claim: Option<&AnswerClaim>,
    ) -> Result<Response, CallFailure> {
        let Call { target, input, .. } = call;
        let settings = self.settings(plugin, app, &context).await?;
        if plugin.compiled.is_transaction(&target) {
            let run = transaction::Run::new(plugin, context, settings, target, input);
            let run = run.answering(claim);
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
            settings,
            delivery: None,
            transaction: None,
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

/// Waits for a read that a run needs before it starts, until the call's deadline.
async fn read_settings<T>(
    context: &CallContext,
    read: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, CallFailure> {
    let failed = |error| CallFailure::before_the_run(error, context.request_id);
    match context.deadline.within(Stage::Loading, read).await {
        Ok(read) => read.map_err(|error| failed(CallError::Settings(error.into()))),
        Err(timeout) => Err(failed(timeout.into())),
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

    /// Returns what it declares that it needs from its app.
    pub fn needs(&self) -> &Needs {
        self.compiled.needs()
    }

    /// Returns the SHA-256 of its module.
    pub fn digest(&self) -> Digest {
        self.compiled.digest()
    }
}
