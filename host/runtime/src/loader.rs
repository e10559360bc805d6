//! Loads plugins: from memory, from the cache folder, or by compiling. Concurrent requests for
//! one module share one load, which continues if they are cancelled.

use super::compile_queue::{Apps, CompilePermit, CompileQueueKind};
use super::compiler::RunningCompilation;
use super::engine::Runtime;
use super::error::LoadError;
use super::manifest;
use super::module::{CompiledPlugin, LoadedModule};
use super::module_parts;
use super::precheck;
use super::source_lines::SourceLines;
use bytes::Bytes;
use kvasm_core::{AppId, Digest, Invalid, Subject};
use kvasm_metrics::ModuleSource;
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{interval, timeout};
use wasmtime::{Engine, Module};

/// Interval at which a compilation is checked.
const LOOK: Duration = Duration::from_millis(100);

type Outcome = Result<Arc<CompiledPlugin>, LoadError>;
type Fetch = Pin<Box<dyn Future<Output = Result<Bytes, LoadError>> + Send>>;

/// One load of one module, and its waiters.
pub(super) struct Load {
    apps: Apps,
    outcome: watch::Sender<Option<Outcome>>,
}

/// The source of a module's bytes.
enum Source {
    /// Available. Not needed any more once nobody waits.
    Given(Bytes),
    /// Fetched when the module acquires its permit, so that queued loads hold no bytes.
    Stored(Fetch),
}

/// The outcome of watching a compilation.
enum Step {
    Ended(Result<Vec<u8>, LoadError>),
    /// It was slow to compile while others were waiting, and has to be stopped.
    Stopped,
}

impl Runtime {
    /// Returns the plugin of a module, if it is in memory.
    pub fn loaded(&self, digest: &Digest) -> Option<Arc<CompiledPlugin>> {
        let plugin = self.compiled.lock().get(digest)?;
        self.metrics.module(ModuleSource::Memory);
        Some(plugin)
    }

    /// Evicts a module from memory that is no longer stored. Running calls keep it until they
    /// end.
    pub fn evict(&self, digest: &Digest) {
        self.compiled.lock().remove(digest);
    }

    /// Whether a module is in memory. Does not count as a use.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.compiled.lock().holds(digest)
    }

    /// Returns the number of modules in memory, and their size in bytes.
    pub fn modules(&self) -> (usize, usize) {
        self.compiled.lock().size()
    }

    /// Compiles a module for an app, or finds it compiled, and checks that it can run here.
    /// Dropping the future does not cancel a load that others wait for.
    ///
    /// Compiling is limited to `compile_time`, and waiting to start to ten times that. If a
    /// compilation has to restart in the slow queue, it waits there without a limit.
    ///
    /// # Errors
    /// [`LoadError`], with the reason.
    pub async fn load(self: &Arc<Self>, app: AppId, wasm: Bytes) -> Outcome {
        self.check_size(&wasm)?;
        let limits = Arc::clone(&self.limits);
        let bytes = wasm.clone();
        let checked = spawn_blocking(move || {
            precheck::check(&bytes, &limits)?;
            Ok::<_, LoadError>(Digest::of(&bytes))
        });
        let digest = checked.await.map_err(LoadError::host)??;
        self.join(app, digest, Source::Given(wasm)).await
    }

    /// Like [`load`](Runtime::load), for a module whose digest is known and whose bytes may not
    /// be needed: `fetch` is polled only if they are.
    ///
    /// # Errors
    /// As [`load`](Runtime::load), and the errors of `fetch`.
    pub async fn load_stored(
        self: &Arc<Self>,
        app: AppId,
        digest: Digest,
        fetch: impl Future<Output = Result<Bytes, LoadError>> + Send + 'static,
    ) -> Outcome {
        self.join(app, digest, Source::Stored(Box::pin(fetch)))
            .await
    }

    /// Waits for the load of a module, and starts it if necessary.
    async fn join(self: &Arc<Self>, app: AppId, digest: Digest, source: Source) -> Outcome {
        if let Some(plugin) = self.loaded(&digest) {
            return Ok(plugin);
        }
        let mut outcome = {
            let mut flights = self.flights.lock();
            match flights.get(&digest) {
                Some(flight) => {
                    let mut apps = flight.apps.lock();
                    if !apps.contains(&app) {
                        apps.push(app);
                    }
                    flight.outcome.subscribe()
                }
                None => {
                    let flight = Arc::new(Load {
                        apps: Arc::new(Mutex::new(vec![app])),
                        outcome: watch::Sender::new(None),
                    });
                    flights.insert(digest, Arc::clone(&flight));
                    let outcome = flight.outcome.subscribe();
                    tokio::spawn(Arc::clone(self).run_load(digest, flight, source));
                    outcome
                }
            }
        };
        // An app that joins may be next where the first was not.
        self.lanes.serve();
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Err(LoadError::host(std::io::Error::other(
                "loading a module ended without a result",
            ))),
        }
    }

    async fn run_load(self: Arc<Self>, digest: Digest, flight: Arc<Load>, source: Source) {
        // Also on a panic, so that the next request starts over.
        let landing = LoadGuard(&self, digest, &flight);
        let outcome = match &source {
            Source::Stored(_) => self.load_module(digest, &flight, source).await,
            Source::Given(_) => {
                tokio::select! {
                    outcome = self.load_module(digest, &flight, source) => outcome,
                    () = self.abandoned(digest, &flight) => return,
                }
            }
        };
        drop(landing);
        flight.outcome.send_replace(Some(outcome));
    }

    /// Waits until nobody waits for a module, and then removes its load.
    async fn abandoned(&self, digest: Digest, flight: &Load) {
        loop {
            flight.outcome.closed().await;
            let mut flights = self.flights.lock();
            if flight.outcome.receiver_count() == 0 {
                flights.remove(&digest);
                return;
            }
        }
    }

    async fn load_module(
        self: &Arc<Self>,
        digest: Digest,
        flight: &Load,
        source: Source,
    ) -> Outcome {
        if let Some(plugin) = self.loaded(&digest) {
            return Ok(plugin);
        }
        if let Some(plugin) = self.from_disk(digest).await? {
            return Ok(plugin);
        }
        let waiting = self.lanes.acquire(CompileQueueKind::Quick, &flight.apps);
        let turn = timeout(self.compile_limits.wall_time(), waiting).await;
        let turn = turn.map_err(|_| LoadError::Busy)??;
        let wasm = match source {
            Source::Given(wasm) => wasm,
            Source::Stored(fetch) => self.check_stored(digest, fetch.await?).await?,
        };
        // With the permit, since reading a hostile module takes memory.
        let bytes = wasm.clone();
        let checked = spawn_blocking(move || module_parts::check_exports(&bytes));
        checked.await.map_err(LoadError::host)??;
        self.metrics.module(ModuleSource::Compiled);
        let code = self.compile(turn, flight, wasm.clone()).await?;

        let this = Arc::clone(self);
        let ready = spawn_blocking(move || {
            let section = manifest::section(&wasm);
            let module = deserialize(&this.engine, &code)?;
            let plugin = this.plugin(module, digest, section)?;
            // Stored only now that the module is known to run here.
            if let Some(disk) = &this.disk {
                disk.put(&digest.0, section, &code);
            }
            Ok(plugin)
        });
        ready.await.map_err(LoadError::host)?
    }

    async fn from_disk(
        self: &Arc<Self>,
        digest: Digest,
    ) -> Result<Option<Arc<CompiledPlugin>>, LoadError> {
        if self.disk.is_none() {
            return Ok(None);
        }
        // Bounded, because each reader holds a whole file.
        let place = self.readers.acquire().await.map_err(LoadError::host)?;
        let this = Arc::clone(self);
        let found = spawn_blocking(move || {
            let found = this
                .disk
                .as_ref()
                .and_then(|disk| disk.get(&this.engine, &digest.0));
            let Some((module, section)) = found else {
                return Ok(None);
            };
            this.metrics.module(ModuleSource::Disk);
            this.plugin(module, digest, section.as_deref()).map(Some)
        });
        let found = found.await.map_err(LoadError::host)?;
        drop(place);
        found
    }

    /// Fetches a stored module, and checks its digest and the current limits.
    async fn check_stored(&self, digest: Digest, wasm: Bytes) -> Result<Bytes, LoadError> {
        let limits = Arc::clone(&self.limits);
        let checked = spawn_blocking(move || {
            if Digest::of(&wasm) != digest {
                return Err(LoadError::host(std::io::Error::other(
                    "a stored module does not match its digest",
                )));
            }
            precheck::check(&wasm, &limits)?;
            Ok(wasm)
        });
        checked.await.map_err(LoadError::host)?
    }

    /// Compiles a module. It starts in the quick queue; if it takes long, it continues in the
    /// slow one, or restarts there if others are waiting for its permit.
    async fn compile(
        &self,
        turn: CompilePermit,
        flight: &Load,
        wasm: Bytes,
    ) -> Result<Vec<u8>, LoadError> {
        let mut turn = Arc::new(turn);
        loop {
            let held = Arc::clone(&turn);
            let limits = self.compile_limits;
            let mut running = self
                .compiler
                .start(&self.engine, wasm.clone(), limits, held)?;
            if let Step::Ended(ended) = self.watch(&mut running, &turn).await {
                return ended;
            }
            running.kill();
            let _stopped = (&mut running.ended).await;
            drop(turn);
            turn = Arc::new(
                self.lanes
                    .acquire(CompileQueueKind::Slow, &flight.apps)
                    .await?,
            );
        }
    }

    async fn watch(&self, running: &mut RunningCompilation, turn: &CompilePermit) -> Step {
        let wall_time = match running.can_be_stopped() {
            true => self.compile_limits.wall_time(),
            false => self.compile_limits.cpu_time,
        };
        let mut look = interval(LOOK);
        loop {
            tokio::select! {
                biased;
                ended = &mut running.ended => {
                    return Step::Ended(ended.map_err(LoadError::host).and_then(|code| code));
                }
                _ = look.tick() => {}
            }
            if running.elapsed() > wall_time {
                return Step::Ended(Err(match running.can_be_stopped() {
                    // The kernel would have ended it at its CPU time limit, so it had no CPU.
                    true => LoadError::host(std::io::Error::other(
                        "the compiler timed out after ten times its CPU time limit",
                    )),
                    false => LoadError::TooSlow(self.compile_limits.cpu_time),
                }));
            }
            if turn.is_quick()
                && running.is_slow()
                && !turn.move_to_slow()
                && running.can_be_stopped()
                && turn.blocks_others()
            {
                return Step::Stopped;
            }
        }
    }

    pub(super) fn check_size(&self, wasm: &[u8]) -> Result<(), Invalid> {
        if wasm.len() > self.limits.module_bytes {
            return Err(Invalid::TooLarge {
                subject: Subject::Module,
                len: wasm.len() as u64,
                limit: self.limits.module_bytes as u64,
            });
        }
        Ok(())
    }

    fn plugin(&self, module: LoadedModule, digest: Digest, section: Option<&[u8]>) -> Outcome {
        let plugin = Arc::new(CompiledPlugin::new(&self.linker, module, digest, section)?);
        self.compiled.lock().put(digest, &plugin);
        Ok(plugin)
    }
}

/// Removes a load from the map of loads in progress.
struct LoadGuard<'r>(&'r Runtime, Digest, &'r Arc<Load>);

impl Drop for LoadGuard<'_> {
    fn drop(&mut self) {
        let mut flights = self.0.flights.lock();
        // It may already be removed, and replaced with another one.
        if flights
            .get(&self.1)
            .is_some_and(|flight| Arc::ptr_eq(flight, self.2))
        {
            flights.remove(&self.1);
        }
    }
}

#[allow(unsafe_code)]
fn deserialize(engine: &Engine, compiled: &[u8]) -> Result<LoadedModule, LoadError> {
    let (lines, code) = SourceLines::decode(compiled).ok_or_else(|| {
        LoadError::host(std::io::Error::other("the compiler's output is malformed"))
    })?;
    // SAFETY: `deserialize` trusts its bytes to come from `Module::serialize` or
    // `Engine::precompile_module`. These come from the latter: of this process, or
    // of one that this process has just started of a program that the operator or
    // the embedder named for it, over a pipe that no other process holds. That program
    // is trusted as this one is; by default it is the same file.
    let module = unsafe { Module::deserialize(engine, code) };
    // It was compiled for this engine, so the error is about the size of instances.
    let module = module.map_err(|error| {
        tracing::info!(%error, "a compiled module cannot be instantiated here");
        LoadError::InstanceTooLarge
    })?;
    Ok(LoadedModule { module, lines })
}
