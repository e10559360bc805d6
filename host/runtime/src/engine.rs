//! The engine: settings, linker and epoch clock.

use super::cache::{CacheLimits, DiskCache};
use super::compile_queue::CompileQueue;
use super::compiler::{CompileLimits, Compiler};
use super::error::RuntimeError;
use super::invocation::Invocation;
use super::limiter::HostMemory;
use super::loader::Load;
use super::module_cache::ModuleCache;
use super::wasi;
use crate::abi;
use kvasm_core::{Digest, Limits};
use kvasm_metrics::Metrics;
use kvasm_service::{FairSemaphore, Share};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Semaphore;
use wasmtime::{
    Collector, Config, Enabled, Engine, InstanceAllocationStrategy, Linker,
    PoolingAllocationConfig, WasmBacktraceDetails,
};

/// Number of files of the cache folder read concurrently.
const READERS: usize = 4;
/// Maximum memory of a slot that is reset by writing to it and stays resident between
/// invocations: enough for a small plugin of the SDK, including its stack of 1 MiB. The rest is
/// returned to the system, which costs page faults, and an interrupt for each core that runs
/// this process: docs/decisions/0022-memory-of-an-instance.md.
const KEEP_RESIDENT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The same for a table.
const TABLE_KEEP_RESIDENT_BYTES: usize = 128 * 1024;
/// Size of an instance's state other than memories and tables: globals, imports, and function
/// references.
const INSTANCE_BYTES: usize = 1024 * 1024;
/// Part of it: one function reference in a table.
const FUNCTION_BYTES: usize = 40;
/// Maximum number of frames in a backtrace.
const BACKTRACE_FRAMES_MAX: usize = 32;

/// Options of the engine.
pub struct EngineOptions {
    /// Maximum number of concurrent instances; further calls wait for one within their deadline,
    /// and one app has at most as many as remain free. Default 256. Each reserves 4 GiB of
    /// address space, not memory, for each memory that an instance may have, and its collected
    /// heap. `None` reserves
    /// nothing: memory is allocated when an instance is created, which is slower, and the
    /// default limit applies.
    pub instances: Option<u32>,
    /// The memory of all instances together, in bytes. A call that exceeds it fails as the
    /// host's fault. Default 4 GiB.
    pub memory: u64,
    /// A folder for compiled modules, shared across processes. Default none.
    pub cache_dir: Option<PathBuf>,
    /// Limits of the folder. Default 1 GiB and 10,000 files.
    pub cache: CacheLimits,
    /// Number of compiled modules kept in memory; the least recently used ones are evicted, and
    /// later read from the folder or compiled again. Default 1,000.
    pub modules: usize,
    /// Their approximate total size in bytes; also the limit for one compiled module. Default
    /// 512 MiB.
    pub modules_bytes: usize,
    /// Where modules are compiled. Default in this process.
    pub compiler: Compiler,
    /// Number of modules compiled concurrently; as many again may run that take long. By default
    /// the number of cores minus one, at least one.
    pub compilers: Option<usize>,
    /// CPU time limit for compiling a module; in this process, wall time. Default 30 s.
    pub compile_time: Duration,
    /// Memory limit of a compiler process, in bytes. Default 1 GiB.
    pub compile_memory: u64,
}

const INSTANCES: u32 = 256;

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            instances: Some(INSTANCES),
            memory: 4 << 30,
            cache_dir: None,
            cache: CacheLimits::default(),
            modules: 1_000,
            modules_bytes: 512 << 20,
            compiler: Compiler::default(),
            compilers: None,
            compile_time: Duration::from_secs(30),
            compile_memory: 1 << 30,
        }
    }
}

/// Compiles and runs plugins. One per process serves all apps.
pub struct Runtime {
    pub(super) engine: Engine,
    pub(super) limits: Arc<Limits>,
    /// Slots of the pooling allocator, acquired before an instance is created, so that a call
    /// waits instead of failing in the allocator.
    pub(super) slots: Arc<FairSemaphore>,
    pub(super) memory: Arc<HostMemory>,
    pub(super) linker: Linker<Invocation>,
    pub(super) disk: Option<DiskCache>,
    pub(super) compiled: Mutex<ModuleCache>,
    /// Modules being loaded.
    pub(super) flights: Mutex<HashMap<Digest, Arc<Load>>>,
    /// Permits to read the cache folder.
    pub(super) readers: Semaphore,
    /// Permits to compile.
    pub(super) lanes: CompileQueue,
    pub(super) compiler: Compiler,
    pub(super) compile_limits: CompileLimits,
    /// CPU permits for guests that compute for longer than a tick.
    pub(super) computing: Arc<FairSemaphore>,
    /// Numbers calls in the order of their starts.
    pub(super) rank: AtomicU64,
    pub(super) metrics: Metrics,
}

impl Runtime {
    /// Builds the engine, links `kvasm_v1`, WASI preview 1 and the functions of `extend`, and
    /// starts the clock.
    ///
    /// # Errors
    /// If the address space cannot be reserved. An unusable cache folder is only logged as a
    /// warning.
    pub fn new(
        limits: Arc<Limits>,
        options: EngineOptions,
        metrics: Metrics,
        extend: impl FnOnce(&mut Linker<Invocation>) -> wasmtime::Result<()>,
    ) -> Result<Runtime, RuntimeError> {
        let config = match options.instances {
            Some(instances) => engine_config(&limits, instances, options.memory),
            None => plain_config(),
        };
        let engine = Engine::new(&config).map_err(|e| RuntimeError::Engine(e.into()))?;
        let mut linker = Linker::new(&engine);
        abi::link(&mut linker)
            .and_then(|()| wasi::link(&mut linker))
            .and_then(|()| extend(&mut linker))
            .map_err(|e| RuntimeError::Link(e.into()))?;
        let disk = options
            .cache_dir
            .and_then(|dir| DiskCache::open(dir, options.cache, &engine));
        start_clock(&engine)?;
        Ok(Runtime {
            engine,
            limits,
            slots: FairSemaphore::new(options.instances.unwrap_or(INSTANCES), Share::Half),
            memory: Arc::new(HostMemory::new(options.memory)),
            linker,
            disk,
            compiled: Mutex::new(ModuleCache::new(options.modules_bytes, options.modules)),
            flights: Mutex::new(HashMap::new()),
            readers: Semaphore::new(READERS),
            lanes: CompileQueue::new(
                options
                    .compilers
                    .unwrap_or(all_cores_but_one() as usize)
                    .max(1),
            ),
            compiler: options.compiler,
            compile_limits: CompileLimits {
                cpu_time: options.compile_time,
                memory_bytes: options.compile_memory,
                code_bytes: options.modules_bytes as u64,
            },
            computing: FairSemaphore::new(all_cores_but_one(), Share::All),
            rank: AtomicU64::new(0),
            metrics,
        })
    }
}

/// Returns the number of cores minus one. The remaining core serves short calls, so that they
/// never wait for long computations.
fn all_cores_but_one() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores.saturating_sub(1)).map_or(u32::MAX, |places| places.max(1))
}

/// Returns the engine settings of a host whose instances share `memory` bytes. Public, so that
/// plain wasmtime can be measured with the same settings.
pub fn engine_config(limits: &Limits, instances: u32, memory: u64) -> Config {
    let tables = instances.saturating_mul(limits.tables);
    let memories = instances.saturating_mul(memories_of_an_instance(limits));
    let functions = usize::try_from(limits.table_elements).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(instances)
        .total_stacks(instances)
        // One instance at its limits does not affect the others.
        .total_memories(memories)
        .total_tables(tables)
        .total_gc_heaps(instances)
        .max_memories_per_module(limits.memories)
        .max_tables_per_module(limits.tables)
        .table_elements(functions)
        .max_core_instance_size(
            INSTANCE_BYTES.saturating_add(functions.saturating_mul(FUNCTION_BYTES)),
        )
        .max_memory_size(limits.memory_bytes)
        .linear_memory_keep_resident(keep_resident_bytes(memory, memories))
        // Not safe in wasmtime 48: it skips pages that are swapped out or being migrated, so the
        // slot's next instance would see their contents.
        .pagemap_scan(Enabled::No)
        .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES);
    let mut config = plain_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Returns how many slots for memories an instance may use: its collected heap takes one too.
fn memories_of_an_instance(limits: &Limits) -> u32 {
    limits.memories.saturating_add(1)
}

/// Returns how much each of `slots` slots may keep resident, so that all of them keep at most
/// the memory limit of running instances.
fn keep_resident_bytes(memory: u64, slots: u32) -> usize {
    let share = memory / u64::from(slots.max(1));
    usize::try_from(share).map_or(KEEP_RESIDENT_BYTES_MAX, |share| {
        share.min(KEEP_RESIDENT_BYTES_MAX)
    })
}

/// Returns the settings of a compiler process, which compiles one module on one core. The
/// settings that affect the code are the same as the host's.
pub(super) fn compiler_config() -> Config {
    let mut config = plain_config();
    config.parallel_compilation(false);
    config
}

/// Returns the settings common to all engines.
fn plain_config() -> Config {
    let mut config = Config::new();
    config
        .memory_init_cow(true)
        .epoch_interruption(true)
        .wasm_gc(true)
        .wasm_exceptions(true)
        // It frees cycles too, and yields between its steps, after which the limits are checked.
        .collector(Collector::Copying)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES_MAX))
        // With it, wasmtime would parse the guest's debugging information at a trap, without a
        // limit. Source lines come from a table that is made when a module is compiled.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// Advances the epoch from an OS thread, which no guest or task can block. It ends with the
/// engine.
fn start_clock(engine: &Engine) -> Result<(), RuntimeError> {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("kvasm-clock".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(abi::TICK);
            }
        })
        .map(drop)
        .map_err(|e| RuntimeError::Engine(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_of_slots_is_limited() {
        let limits = Limits::default();
        let slots = INSTANCES * memories_of_an_instance(&limits);
        let default = EngineOptions::default().memory;
        // Enough for a plugin of the SDK with a stack of 1 MiB.
        assert!(keep_resident_bytes(default, slots) > 1_700_000);
        for (memory, slots) in [(64 << 20, slots), (1 << 40, slots), (1 << 30, 1), (0, 7)] {
            let kept = keep_resident_bytes(memory, slots);
            assert!(kept as u64 * u64::from(slots) <= memory);
            assert!(kept <= KEEP_RESIDENT_BYTES_MAX);
        }
        assert_eq!(keep_resident_bytes(1 << 30, 0), KEEP_RESIDENT_BYTES_MAX);
    }
}
