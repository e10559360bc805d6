//! The engine: its settings, its linker, its clock.

use super::cache::DiskCache;
use super::error::{LoadError, RuntimeError};
use super::invocation::Invocation;
use super::module::{self, CompiledPlugin};
use super::pool::Pool;
use super::wasi;
use crate::abi;
use crate::model::{Invalid, Limits, Subject};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, Linker, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

/// How often the epoch advances. A guest that computes is looked at this often:
/// it yields to other work on its thread, and ends if its time is up.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Compiled modules that are kept in memory after their last plugin is gone.
const COMPILED_MAX: usize = 256;
/// Memory of a slot that stays resident between invocations, so that a small
/// guest costs few page faults.
const KEEP_RESIDENT_BYTES: usize = 128 * 1024;
/// The most memories of one module.
const MEMORIES_MAX: u32 = 8;
/// The most frames of a backtrace.
const BACKTRACE_FRAMES_MAX: usize = 32;

/// How the engine is set up.
pub struct EngineOptions {
    /// Instances that exist at once; further calls wait for one within their
    /// deadline. Default 256. Each reserves 4 GiB of address space, not memory.
    pub instances: u32,
    /// A folder for compiled modules, kept between processes. Default none.
    pub cache_dir: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            instances: 256,
            cache_dir: None,
        }
    }
}

/// Compiles plugins and runs them. One a process is enough for every app.
pub struct Runtime {
    pub(super) engine: Engine,
    pub(super) limits: Arc<Limits>,
    pub(super) pool: Pool,
    linker: Linker<Invocation>,
    disk: Option<DiskCache>,
    compiled: Mutex<Compiled>,
}

/// Compiled modules by the hash of their bytes; the least recently used goes first.
#[derive(Default)]
struct Compiled {
    modules: HashMap<[u8; 32], (Arc<CompiledPlugin>, u64)>,
    clock: u64,
}

impl Runtime {
    /// Builds the engine, links `kvasm_v1`, WASI preview 1 and what `extend`
    /// adds, and starts the clock.
    ///
    /// # Errors
    /// When the machine cannot give the address space, or the cache folder
    /// cannot be used.
    pub fn new(
        limits: Arc<Limits>,
        options: EngineOptions,
        extend: impl FnOnce(&mut Linker<Invocation>) -> wasmtime::Result<()>,
    ) -> Result<Runtime, RuntimeError> {
        let engine = Engine::new(&engine_config(&limits, options.instances))
            .map_err(|e| RuntimeError::Engine(e.into()))?;
        let mut linker = Linker::new(&engine);
        abi::link(&mut linker)
            .and_then(|()| wasi::link(&mut linker))
            .and_then(|()| extend(&mut linker))
            .map_err(|e| RuntimeError::Link(e.into()))?;
        let disk = options
            .cache_dir
            .map(|dir| DiskCache::open(dir, &engine))
            .transpose()?;
        start_clock(&engine)?;
        Ok(Runtime {
            engine,
            limits,
            pool: Pool::new(options.instances),
            linker,
            disk,
            compiled: Mutex::default(),
        })
    }

    /// Compiles a module, or finds it compiled, and checks that it can run here.
    /// This computes for as long as the module is large: call it off the
    /// threads that serve requests.
    ///
    /// # Errors
    /// [`LoadError`], which says what is wrong with the module.
    pub fn load(&self, wasm: &[u8]) -> Result<Arc<CompiledPlugin>, LoadError> {
        if wasm.len() > self.limits.module_bytes {
            return Err(LoadError::Invalid(Invalid::TooLarge {
                subject: Subject::Module,
                len: wasm.len() as u64,
                limit: self.limits.module_bytes as u64,
            }));
        }
        let digest: [u8; 32] = Sha256::digest(wasm).into();
        if let Some(plugin) = self.compiled.lock().get(&digest) {
            return Ok(plugin);
        }
        let module = module::compile(&self.engine, self.disk.as_ref(), &digest, wasm)?;
        let plugin = Arc::new(CompiledPlugin::new(&self.linker, module, digest, wasm)?);
        self.compiled.lock().put(digest, &plugin);
        Ok(plugin)
    }
}

impl Compiled {
    fn get(&mut self, digest: &[u8; 32]) -> Option<Arc<CompiledPlugin>> {
        self.clock += 1;
        let (plugin, used) = self.modules.get_mut(digest)?;
        *used = self.clock;
        Some(Arc::clone(plugin))
    }

    fn put(&mut self, digest: [u8; 32], plugin: &Arc<CompiledPlugin>) {
        self.clock += 1;
        self.modules
            .insert(digest, (Arc::clone(plugin), self.clock));
        if self.modules.len() > COMPILED_MAX {
            let oldest = self.modules.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                self.modules.remove(&oldest);
            }
        }
    }
}

/// The settings of every engine of this host, so that bare wasmtime can be
/// measured with the same.
pub fn engine_config(limits: &Limits, instances: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(instances)
        .total_stacks(instances)
        .total_memories(instances)
        .total_tables(instances)
        .max_memories_per_module(MEMORIES_MAX.min(instances))
        .max_memory_size(limits.memory_bytes)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_init_cow(true)
        .epoch_interruption(true)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES_MAX))
        // Lines of the guest's source would need its debug information, which
        // costs at every trap; function names come from the name section.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// Advances the epoch from a thread of the system, which no guest and no task
/// can hold up. It ends with the engine.
fn start_clock(engine: &Engine) -> Result<(), RuntimeError> {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("kvasm-clock".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })
        .map(drop)
        .map_err(|e| RuntimeError::Engine(e.into()))
}
