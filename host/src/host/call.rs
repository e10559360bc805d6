//! Calls of an app's active plugin, and how a plugin becomes active.

use super::{Call, Host, Plugin};
use crate::abi::GuestLog;
use crate::model::{App, AppId, Capability, Digest, Exports, Level, PluginVersion, Timestamp};
use crate::runtime::{CallFailure, CompiledPlugin, LoadError, Response};
use crate::service::{
    Actor, Deadline, LogRecord, LogSource, Refusal, ServiceError, Stage, Ticket, Timeout,
};
use crate::store::StoreError;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;
use uuid::Uuid;

/// Why a call of an app's active plugin did not succeed.
#[derive(Debug, Error)]
pub enum InvokeError {
    /// The app has no active plugin, or the store failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The app has too many calls.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The active plugin cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The time of the call was over before the plugin ran.
    #[error(transparent)]
    Timeout(#[from] Timeout),
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallFailure),
}

impl From<StoreError> for InvokeError {
    fn from(error: StoreError) -> InvokeError {
        InvokeError::Service(error.into())
    }
}

/// Why a module did not become a plugin version.
#[derive(Debug, Error)]
pub enum DeployError {
    /// The module cannot be a plugin here.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It was refused, or the store failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// A call that was let in by [`Host::enter`]. It counts among the app's calls until
/// it has ended or this is dropped.
pub struct Entered {
    host: Host,
    app: Arc<App>,
    digest: Digest,
    call: Call,
    ticket: Ticket,
}

impl Entered {
    /// Makes the call, now that its input is there. Its time begins here:
    /// `limits.wall_time` for waiting, loading, running and committing together.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn call(mut self, input: Vec<u8>) -> Result<Response, InvokeError> {
        self.call.input = input;
        self.run().await
    }

    async fn run(self) -> Result<Response, InvokeError> {
        let Entered {
            host,
            app,
            digest,
            call,
            ticket,
        } = self;
        let context = host.context(&app, &call);
        let _pass = ticket.admit(&context.deadline).await?;
        let plugin = host
            .plugin_of(Arc::clone(&app), digest, &context.deadline)
            .await?;
        let name: Arc<str> = call.target.name(&plugin.compiled).into();
        let result = host.run(&plugin, call, context).await;
        host.keep_log(app.id, name, &result);
        Ok(result?)
    }
}

impl Host {
    /// Counts a write of an entry by an administrator, who may write as often as the
    /// app may be called. Each commit of several entries is one write.
    ///
    /// # Errors
    /// [`Refusal::Rate`].
    pub fn admit_write(&self, app: &App) -> Result<(), Refusal> {
        self.0.writes.admit(app, Instant::now())
    }

    /// Lets a call of an app's active plugin in, before its input is there: checks
    /// that the plugin has the function and that the app may have one more call, and
    /// counts it.
    ///
    /// Take `app` fresh from the store: its active plugin and limits are looked
    /// up in it.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn enter(&self, app: App, mut call: Call) -> Result<Entered, InvokeError> {
        let active = app.active.ok_or(ServiceError::NoActivePlugin)?;
        let ticket = self.0.admission.enter(&app)?;
        let exports = match self.0.runtime.loaded(&active.digest) {
            Some(plugin) => Some(plugin.exports()),
            None => {
                let plugin = self.0.store.plugin(app.id, active.version).await?;
                plugin.map(|plugin| plugin.exports)
            }
        };
        // If it was deleted meanwhile, the call finds out.
        let request_id = *call.request_id.get_or_insert_with(Uuid::now_v7);
        if let Some(exports) = exports
            && let Err(error) = call.target.require(&exports)
        {
            return Err(CallFailure::before_the_run(error, request_id).into());
        }
        Ok(Entered {
            host: self.clone(),
            digest: active.digest,
            app: Arc::new(app),
            call,
            ticket,
        })
    }

    /// Calls the active plugin of an app as it is in the store, within the app's
    /// limits of calls, and keeps what it logs.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn invoke(&self, app: &App, call: Call) -> Result<Response, InvokeError> {
        let entered = self.enter(app.clone(), call).await?;
        entered.run().await
    }

    /// Adds a module to an app as a new plugin version, after compiling it, and
    /// makes it the active one if so asked.
    ///
    /// # Errors
    /// [`DeployError`].
    pub async fn deploy(
        &self,
        actor: &Actor,
        app: &App,
        wasm: impl Into<Arc<[u8]>>,
        activate: bool,
    ) -> Result<(PluginVersion, Digest, Exports), DeployError> {
        // Before anything is compiled for somebody who may not.
        actor.require(Capability::PluginDeploy(app.id))?;
        let wasm = wasm.into();
        let plugin = self.0.runtime.load(Arc::clone(&wasm)).await?;
        let (digest, exports) = (plugin.digest(), plugin.exports());
        let added = self
            .admin()
            .add_plugin(actor, app, wasm, digest, exports.clone(), activate);
        Ok((added.await?, digest, exports))
    }

    /// A stored module as a plugin of an app.
    pub(super) async fn plugin_of(
        &self,
        app: Arc<App>,
        digest: Digest,
        deadline: &Deadline,
    ) -> Result<Plugin, InvokeError> {
        let compiled = deadline.within(Stage::Loading, self.compiled(digest));
        Ok(Plugin {
            compiled: compiled.await??,
            app_name: app.name.as_str().into(),
            app,
        })
    }

    /// The plugin of a stored module: from memory, or loaded now.
    async fn compiled(&self, digest: Digest) -> Result<Arc<CompiledPlugin>, InvokeError> {
        if let Some(plugin) = self.0.runtime.loaded(&digest) {
            return Ok(plugin);
        }
        let damaged = |why: &str| LoadError::Host(why.into());
        let wasm = self.0.store.module(digest).await?;
        let wasm = wasm.ok_or_else(|| damaged("the store lacks the module of an active plugin"))?;
        if Sha256::digest(&wasm).as_slice() != digest.0 {
            return Err(damaged("a stored module is not what its digest says").into());
        }
        Ok(self.0.runtime.load(wasm.into()).await?)
    }

    /// Puts what an invocation logged into the app's log, and why it failed. Lines
    /// of runs that were thrown away come first, and are marked.
    pub(super) fn keep_log(
        &self,
        app: AppId,
        function: Arc<str>,
        result: &Result<Response, CallFailure>,
    ) {
        let (request_id, log, thrown, error) = match result {
            Ok(done) => (done.request_id, &done.log, &done.discarded, None),
            Err(failure) => {
                let error = Some(&failure.error);
                (failure.request_id, &failure.log, &failure.discarded, error)
            }
        };
        let at = Timestamp::now();
        let record = |level, source, message, discarded| LogRecord {
            seq: 0,
            at,
            level,
            source,
            function: Arc::clone(&function),
            request_id,
            message,
            discarded,
        };
        let lines = |log: &GuestLog, discarded| {
            let own = log.lines().iter();
            let own = own.map(|line| {
                record(
                    line.level,
                    LogSource::Plugin,
                    line.message.clone(),
                    discarded,
                )
            });
            let dropped = (log.dropped() > 0).then(|| {
                let message = format!("{} more lines of this call were dropped", log.dropped());
                record(Level::Warn, LogSource::Host, message, discarded)
            });
            own.chain(dropped).collect::<Vec<_>>()
        };
        let thrown = thrown.iter().flat_map(|log| lines(log, true));
        let failed =
            error.map(|error| record(Level::Error, LogSource::Host, error.to_string(), false));
        let all = thrown.chain(lines(log, false)).chain(failed);
        self.logs().push(app, all);
    }

    /// Deletes an app, and what this host keeps of it in memory.
    ///
    /// # Errors
    /// As [`Admin::delete_app`](crate::service::Admin::delete_app).
    pub async fn delete_app(&self, actor: &Actor, app: &App) -> Result<(), ServiceError> {
        self.admin().delete_app(actor, app).await?;
        self.logs().remove(app.id);
        Ok(())
    }

    /// Who stands behind a request that nobody but the host itself makes.
    pub fn operator(&self, name: impl Into<String>) -> Actor {
        Actor::operator(name, Uuid::now_v7())
    }
}
