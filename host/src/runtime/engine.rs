//! The engine: its settings, its linker, its clock.

use super::cache::DiskCache;
use super::error::RuntimeError;
use super::invocation::Invocation;
use super::loader::Compiled;
use super::wasi;
use crate::abi;
use crate::metrics::Metrics;
use crate::model::Limits;
use crate::service::{Fair, Share};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Semaphore;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, Linker, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

/// How often the epoch advances. A guest that computes is looked at this often:
/// it yields to other work on its thread, and ends if its time is up.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Modules that are compiled at once. Each uses all cores for a part of its work.
const COMPILERS: usize = 2;
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
    /// deadline, and one app has at most as many as are then left free. Default 256.
    /// Each reserves 4 GiB of address space, not memory.
    pub instances: u32,
    /// A folder for compiled modules, kept between processes. Default none.
    pub cache_dir: Option<PathBuf>,
    /// Compiled modules that are kept in memory; of more, the least recently used
    /// are read from the folder or compiled again. Default 1,000.
    pub modules: usize,
    /// The longest that a module may take to compile. Default 30 s.
    pub compile_time: Duration,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            instances: 256,
            cache_dir: None,
            modules: 1_000,
            compile_time: Duration::from_secs(30),
        }
    }
}

/// Compiles plugins and runs them. One a process is enough for every app.
pub struct Runtime {
    pub(super) engine: Engine,
    pub(super) limits: Arc<Limits>,
    /// Slots of the pooling allocator, taken before an instance is made, so that a
    /// call waits where the allocator would fail.
    pub(super) slots: Arc<Fair>,
    pub(super) linker: Linker<Invocation>,
    pub(super) disk: Option<DiskCache>,
    pub(super) compiled: Mutex<Compiled>,
    /// Modules that may be compiled at once.
    pub(super) compilers: Arc<Semaphore>,
    pub(super) compile_time: Duration,
    /// Places of guests that compute for longer than a tick.
    pub(super) computing: Arc<Fair>,
    /// Numbers calls in the order of their starts.
    pub(super) rank: AtomicU64,
    pub(super) metrics: Metrics,
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
        metrics: Metrics,
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
            slots: Fair::new(options.instances, Share::Half),
            linker,
            disk,
            compiled: Mutex::new(Compiled::new(options.modules)),
            compilers: Arc::new(Semaphore::new(COMPILERS)),
            compile_time: options.compile_time,
            computing: Fair::new(computing_places(), Share::All),
            rank: AtomicU64::new(0),
            metrics,
        })
    }
}

/// All cores but one: that one is for calls that are short, so that they do not
/// wait for those that compute for long, however many there are.
fn computing_places() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores.saturating_sub(1)).map_or(u32::MAX, |places| places.max(1))
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
