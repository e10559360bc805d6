//! Calls of an app's active plugin, and how a plugin becomes active.

use super::{AdmittedCall, Host, Plugin};
use bytes::Bytes;
use kvasm_core::store::StoreError;
use kvasm_core::{
    AnswerScope, App, AppId, Capability, Cost, Digest, Exports, IdempotencyKey, Pieces,
    PluginVersion, Principal, TraceContext,
};
use kvasm_runtime::{CallFailure, CompiledPlugin, InvocationTarget, LoadError, Response};
use kvasm_service::{
    Actor, Deadline, OpenSpan, Refusal, ServiceError, SpanKind, SpanRecorder, Stage, Timeout,
};
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;
use uuid::Uuid;

/// Number of versions of a deleted app whose modules are evicted from memory at once. Those of
/// older versions are evicted as they become least recently used.
const VERSIONS_EVICTED_MAX: u32 = 1_000;

/// A failed call of an app's active plugin.
#[derive(Debug, Error)]
pub enum InvokeError {
    /// The app has no active plugin, or the store failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The app has too many concurrent calls, or exceeds its rate.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The active plugin cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The call timed out before the plugin ran.
    #[error(transparent)]
    Timeout(#[from] Timeout),
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallFailure),
}

impl InvokeError {
    /// Returns its class, as one word.
    pub(super) fn class(&self) -> &'static str {
        match self {
            InvokeError::Service(_) => "service",
            InvokeError::Refused(refusal) => refusal.class(),
            InvokeError::Load(_) => "load",
            InvokeError::Timeout(_) => "timeout",
            InvokeError::Call(failure) => failure.error.outcome(),
        }
    }

    /// Returns what the call used, if the plugin ran.
    pub fn cost(&self) -> Option<&Cost> {
        match self {
            InvokeError::Call(failure) => Some(&failure.cost).filter(|cost| cost.runs > 0),
            _ => None,
        }
    }
}

impl From<StoreError> for InvokeError {
    fn from(error: StoreError) -> InvokeError {
        InvokeError::Service(error.into())
    }
}

/// A failed deployment.
#[derive(Debug, Error)]
pub enum DeployError {
    /// The module is not a valid plugin for this host.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It was refused, or the store failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// A call of a function.
#[derive(Debug, Clone)]
pub struct Call {
    pub(super) target: InvocationTarget,
    pub(super) input: Pieces,
    pub(super) principal: Option<Principal>,
    pub(super) request_id: Option<Uuid>,
    pub(super) trace: Option<TraceContext>,
    pub(super) recorder: Option<SpanRecorder>,
    pub(super) idempotency_key: Option<IdempotencyKey>,
    pub(super) answer_scope: Option<AnswerScope>,
}

impl Call {
    /// A public call without input.
    pub fn function(name: impl Into<Arc<str>>) -> Call {
        Call::of(InvocationTarget::Function(name.into()))
    }

    /// A public call of the HTTP handler, whose input and output are framed as in
    /// `kvasm_abi::http`.
    pub fn http() -> Call {
        Call::of(InvocationTarget::Http)
    }

    fn of(target: InvocationTarget) -> Call {
        Call {
            target,
            input: Pieces::default(),
            principal: None,
            request_id: None,
            trace: None,
            recorder: None,
            idempotency_key: None,
            answer_scope: None,
        }
    }

    /// Sets the request id. By default a new one is generated.
    #[must_use]
    pub fn request_id(mut self, id: Uuid) -> Call {
        self.request_id = Some(id);
        self
    }

    /// Sets the trace context: the span of the call. By default it starts a trace, whose id is the
    /// request id.
    #[must_use]
    pub fn trace(mut self, trace: TraceContext) -> Call {
        self.trace = Some(trace);
        self
    }

    /// Sets the recorder of the request's spans, from [`Host::spans`] for the context of
    /// [`trace`](Call::trace). By default a call with a trace context of its own is not recorded.
    #[must_use]
    pub fn recorder(mut self, recorder: Option<SpanRecorder>) -> Call {
        self.recorder = recorder;
        self
    }

    /// Sets the input, whose format is up to the function.
    #[must_use]
    pub fn input(mut self, input: impl Into<Pieces>) -> Call {
        self.input = input.into();
        self
    }

    /// Makes the call idempotent: if it was answered, a later call of the app with the same key, by
    /// the same caller and with the same request gets that answer, with
    /// [`Response::replayed`](kvasm_runtime::Response::replayed), and does not run. Answers are kept
    /// for [`Limits::idempotency`](kvasm_core::Limits::idempotency). `docs/http.md` says what is
    /// kept, and when an effect can be repeated. Once it runs, an admitted call with a key ends even
    /// if its future is dropped.
    #[must_use]
    pub fn idempotency_key(mut self, key: IdempotencyKey) -> Call {
        self.idempotency_key = Some(key);
        self
    }

    /// Sets whose call it is, for its idempotency key: keys of different callers are unrelated. By
    /// default all public calls are those of one caller, and so are those of all principals with
    /// the same permissions.
    #[must_use]
    pub fn answer_scope(mut self, scope: AnswerScope) -> Call {
        self.answer_scope = Some(scope);
        self
    }

    /// Sets the principal. Each key-value operation then requires one of its scopes.
    #[must_use]
    pub fn principal(mut self, principal: Principal) -> Call {
        self.principal = Some(principal);
        self
    }
}

impl Host {
    /// Counts an administrator's write of an entry against the app's call rate. Each commit of
    /// several entries is one write.
    ///
    /// # Errors
    /// [`Refusal::Rate`].
    pub fn admit_write(&self, app: &App) -> Result<(), Refusal> {
        self.0.writes.admit(app, Instant::now())
    }

    /// Admits a call of an app's active plugin before its input is read: checks that the plugin
    /// has the function and that the app's limits allow another call, and counts it.
    ///
    /// Get `app` from [`Host::app`] for each call: its active plugin and limits are taken from
    /// it.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn admit(
        &self,
        app: impl Into<Arc<App>>,
        mut call: Call,
    ) -> Result<AdmittedCall, InvokeError> {
        let app = app.into();
        let active = app.active.ok_or(ServiceError::NoActivePlugin)?;
        let ticket = self.0.admission.enter(&app).inspect_err(|refusal| {
            if let Some(recorder) = &call.recorder {
                admission_span(recorder).fail(refusal.class());
            }
        })?;
        let offered = match self.0.runtime.loaded(&active.digest) {
            Some(plugin) => plugin.require(&call.target),
            None => match self.0.store.plugin(app.id, active.version).await? {
                Some(plugin) => call.target.require(&plugin.exports),
                // It has been deleted in the meantime, which the call will detect.
                None => Ok(()),
            },
        };
        let request_id = *call.request_id.get_or_insert_with(Uuid::now_v7);
        let failed = |error| CallFailure::before_the_run(error, request_id);
        let missing = match offered.map_err(failed) {
            Err(failure) if call.idempotency_key.is_some() => Some(failure),
            offered => offered.map(|()| None)?,
        };
        Ok(AdmittedCall {
            host: self.clone(),
            digest: active.digest,
            app,
            call,
            ticket,
            missing,
        })
    }

    /// Calls the app's active plugin, subject to the app's call limits, and keeps its log.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn invoke(&self, app: &App, call: Call) -> Result<Response, InvokeError> {
        let entered = self.admit(app.clone(), call).await?;
        entered.run(std::future::pending()).await
    }

    /// Compiles a module and adds it to an app as a new plugin version. Activates it if
    /// `activate`.
    ///
    /// # Errors
    /// [`DeployError`].
    pub async fn deploy(
        &self,
        actor: &Actor,
        app: &App,
        wasm: impl Into<Vec<u8>>,
        activate: bool,
    ) -> Result<(PluginVersion, Digest, Exports), DeployError> {
        // First, so that nothing is compiled for an actor without permission.
        actor.require(Capability::PluginDeploy(app.id))?;
        let wasm = Bytes::from(wasm.into());
        let plugin = self.0.runtime.load(app.id, wasm.clone()).await?;
        let (digest, exports) = (plugin.digest(), plugin.exports());
        let added = self
            .admin()
            .add_plugin(actor, app, wasm, digest, exports.clone(), activate);
        Ok((added.await?, digest, exports))
    }

    /// Returns the plugin of an admitted call. Its version, or the app, may have been deleted
    /// since.
    pub(super) async fn current_plugin(
        &self,
        app: Arc<App>,
        digest: Digest,
        deadline: &Deadline,
        recorder: Option<&SpanRecorder>,
    ) -> Result<Plugin, InvokeError> {
        let id = app.id;
        let error = match self.plugin_of(app, digest, deadline, recorder).await {
            Err(error @ InvokeError::Load(_)) => error,
            other => return other,
        };
        let now = self.0.store.app_by_id(id).await?;
        let now = now.ok_or(ServiceError::AppNotFound)?;
        match now.active {
            Some(active) if active.digest != digest => {
                self.plugin_of(Arc::new(now), active.digest, deadline, recorder)
                    .await
            }
            _ => Err(error),
        }
    }

    /// Loads a stored module as a plugin of an app.
    pub(super) async fn plugin_of(
        &self,
        app: Arc<App>,
        digest: Digest,
        deadline: &Deadline,
        recorder: Option<&SpanRecorder>,
    ) -> Result<Plugin, InvokeError> {
        let span = recorder.map(|recorder| {
            let mut span = recorder.start(SpanKind::Internal, "load");
            span.set("kvasm.plugin.digest", digest.to_string());
            if let Some(active) = app.active {
                span.set("kvasm.plugin.version", active.version.to_string());
            }
            // From the folder of compiled plugins, or compiled now, if it is not in memory.
            let is_cold = self.0.runtime.loaded(&digest).is_none();
            span.set("faas.coldstart", is_cold);
            span
        });
        let loaded = self.load_plugin(app, digest, deadline).await;
        OpenSpan::finish(span, &loaded, InvokeError::class);
        loaded
    }

    async fn load_plugin(
        &self,
        app: Arc<App>,
        digest: Digest,
        deadline: &Deadline,
    ) -> Result<Plugin, InvokeError> {
        let compiled = deadline.within(Stage::Loading, self.compiled(app.id, digest));
        Ok(Plugin {
            compiled: compiled.await??,
            app_name: app.name.as_str().into(),
            app,
        })
    }

    /// Returns the plugin of a stored module, from memory or loaded now.
    async fn compiled(
        &self,
        app: AppId,
        digest: Digest,
    ) -> Result<Arc<CompiledPlugin>, InvokeError> {
        if let Some(plugin) = self.0.runtime.loaded(&digest) {
            return Ok(plugin);
        }
        let store = Arc::clone(&self.0.store);
        let fetch = async move {
            let failed = |error: StoreError| LoadError::Store(Arc::new(error.into()));
            let wasm = store.module(digest).await.map_err(failed)?;
            let lost = || LoadError::host("an active plugin's module is not in the store");
            wasm.ok_or_else(lost)
        };
        Ok(self.0.runtime.load_stored(app, digest, fetch).await?)
    }

    /// Deletes a version that is not active, and evicts its compiled module from memory unless
    /// another version has the same module.
    ///
    /// # Errors
    /// As [`Admin::delete_plugin`](kvasm_service::Admin::delete_plugin).
    pub async fn delete_plugin(
        &self,
        actor: &Actor,
        app: &App,
        version: PluginVersion,
    ) -> Result<(), ServiceError> {
        let plugin = self.0.store.plugin(app.id, version).await?;
        self.admin().delete_plugin(actor, app, version).await?;
        if let Some(plugin) = plugin {
            self.forget_unless_stored(plugin.digest).await;
        }
        Ok(())
    }

    /// Evicts a compiled module that is no longer in the store. If the store fails, the module
    /// is evicted when it becomes least recently used.
    async fn forget_unless_stored(&self, digest: Digest) {
        if let Ok(None) = self.0.store.module(digest).await {
            self.0.runtime.evict(&digest);
        }
    }

    /// Returns the app's modules that this host has in memory.
    async fn modules_of(&self, app: AppId) -> Vec<Digest> {
        let plugins = self.0.store.plugins(app, None, VERSIONS_EVICTED_MAX).await;
        let plugins = plugins.unwrap_or_default();
        let mut digests: Vec<_> = plugins.into_iter().map(|plugin| plugin.digest).collect();
        digests.sort_unstable();
        digests.dedup();
        digests.retain(|digest| self.0.runtime.holds(digest));
        digests
    }

    /// Deletes an app, and its state in this host's memory.
    ///
    /// # Errors
    /// As [`Admin::delete_app`](kvasm_service::Admin::delete_app).
    pub async fn delete_app(&self, actor: &Actor, app: &App) -> Result<(), ServiceError> {
        let modules = self.modules_of(app.id).await;
        self.admin().delete_app(actor, app).await?;
        self.forget_log(app.id);
        // If this fails, upkeep removes it later.
        let _ = self.log_keeper().remove_of(app.id).await;
        let _ = self.call_keeper().remove_of(app.id).await;
        self.metrics().forget_app(app.name.as_str());
        for digest in modules {
            self.forget_unless_stored(digest).await;
        }
        Ok(())
    }

    /// Returns an actor for requests that originate in the host itself.
    pub fn operator(&self, name: impl Into<String>) -> Actor {
        Actor::operator(name, Uuid::now_v7())
    }
}

/// Starts the span of the wait for other calls of the app.
pub(super) fn admission_span(recorder: &SpanRecorder) -> OpenSpan {
    recorder.start(SpanKind::Internal, "admission")
}
