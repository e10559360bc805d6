//! From a module's bytes to a plugin that can run: out of memory, out of the
//! cache folder, or compiled, always away from the threads that serve requests.

use super::engine::Runtime;
use super::error::LoadError;
use super::module::{self, CompiledPlugin};
use crate::metrics::ModuleSource;
use crate::model::{Digest, Invalid, Subject};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use wasmtime::Module;

/// Compiled modules by the hash of their bytes; the least recently used goes first.
pub(super) struct Compiled {
    modules: HashMap<Digest, (Arc<CompiledPlugin>, u64)>,
    clock: u64,
    modules_max: usize,
}

impl Compiled {
    pub(super) fn new(modules_max: usize) -> Compiled {
        Compiled {
            modules: HashMap::new(),
            clock: 0,
            modules_max: modules_max.max(1),
        }
    }

    fn get(&mut self, digest: &Digest) -> Option<Arc<CompiledPlugin>> {
        self.clock += 1;
        let (plugin, used) = self.modules.get_mut(digest)?;
        *used = self.clock;
        Some(Arc::clone(plugin))
    }

    fn put(&mut self, digest: Digest, plugin: &Arc<CompiledPlugin>) {
        self.clock += 1;
        self.modules
            .insert(digest, (Arc::clone(plugin), self.clock));
        if self.modules.len() > self.modules_max {
            let oldest = self.modules.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                self.modules.remove(&oldest);
            }
        }
    }
}

impl Runtime {
    /// The plugin of a module, if it is in memory.
    pub fn loaded(&self, digest: &Digest) -> Option<Arc<CompiledPlugin>> {
        let plugin = self.compiled.lock().get(digest)?;
        self.metrics.module(ModuleSource::Memory);
        Some(plugin)
    }

    /// Compiles a module, or finds it compiled, and checks that it can run here.
    /// Works on threads of its own; a bounded number of modules is compiled at
    /// once, each for a bounded time.
    ///
    /// A compiler cannot be stopped from outside. One that is over its time is
    /// waited for no longer, but keeps its place among the compilers until it
    /// ends, so that modules made to be slow cannot take all cores.
    ///
    /// # Errors
    /// [`LoadError`], which says what is wrong with the module.
    pub async fn load(self: &Arc<Self>, wasm: Arc<[u8]>) -> Result<Arc<CompiledPlugin>, LoadError> {
        self.check_size(&wasm)?;
        let this = Arc::clone(self);
        let bytes = Arc::clone(&wasm);
        let found = spawn_blocking(move || {
            let digest = Digest(Sha256::digest(&bytes).into());
            (digest, this.find(digest, &bytes))
        });
        let (digest, found) = found.await.map_err(|e| LoadError::Host(e.into()))?;
        if let Some(plugin) = found? {
            return Ok(plugin);
        }

        let place = Arc::clone(&self.compilers).acquire_owned();
        let place = timeout(self.compile_time, place).await;
        let Ok(Ok(place)) = place else {
            return Err(LoadError::Busy);
        };
        // Another load may have compiled it meanwhile.
        if let Some(plugin) = self.loaded(&digest) {
            return Ok(plugin);
        }
        let this = Arc::clone(self);
        let compiling = spawn_blocking(move || {
            let _place = place;
            this.compile(digest, &wasm)
        });
        match timeout(self.compile_time, compiling).await {
            Ok(ended) => ended.map_err(|e| LoadError::Host(e.into()))?,
            Err(_) => Err(LoadError::TooSlow(self.compile_time)),
        }
    }

    fn check_size(&self, wasm: &[u8]) -> Result<(), Invalid> {
        if wasm.len() > self.limits.module_bytes {
            return Err(Invalid::TooLarge {
                subject: Subject::Module,
                len: wasm.len() as u64,
                limit: self.limits.module_bytes as u64,
            });
        }
        Ok(())
    }

    /// In memory, or in the cache folder.
    fn find(&self, digest: Digest, wasm: &[u8]) -> Result<Option<Arc<CompiledPlugin>>, LoadError> {
        if let Some(plugin) = self.loaded(&digest) {
            return Ok(Some(plugin));
        }
        let kept = self
            .disk
            .as_ref()
            .and_then(|disk| disk.get(&self.engine, &digest.0));
        let Some(module) = kept else {
            return Ok(None);
        };
        self.metrics.module(ModuleSource::Disk);
        self.plugin(module, digest, wasm).map(Some)
    }

    fn compile(&self, digest: Digest, wasm: &[u8]) -> Result<Arc<CompiledPlugin>, LoadError> {
        self.metrics.module(ModuleSource::Compiled);
        let module = module::compile(&self.engine, self.disk.as_ref(), &digest.0, wasm)?;
        self.plugin(module, digest, wasm)
    }

    fn plugin(
        &self,
        module: Module,
        digest: Digest,
        wasm: &[u8],
    ) -> Result<Arc<CompiledPlugin>, LoadError> {
        let plugin = Arc::new(CompiledPlugin::new(&self.linker, module, digest.0, wasm)?);
        self.compiled.lock().put(digest, &plugin);
        Ok(plugin)
    }
}
