//! The engine: its settings, its linker, its clock.

use super::cache::{CacheLimits, DiskCache};
use super::compiled::Compiled;
use super::compiler::{CompileLimits, Compiler};
use super::error::RuntimeError;
use super::invocation::Invocation;
use super::lanes::Lanes;
use super::limiter::HostMemory;
use super::loader::Flight;
use super::wasi;
use crate::abi;
use kvasm_core::{Digest, Limits};
use kvasm_metrics::Metrics;
use kvasm_service::{Fair, Share};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Semaphore;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, Linker, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

/// Files of the cache folder that are read at once.
const READERS: usize = 4;
/// The most memory of a slot that is reset by writing to it and stays resident between
/// invocations: all that a small plugin of the SDK has, its stack of 1 MiB too. What is
/// above is given back to the system, which costs page faults, and an interrupt for each
/// core that runs this process: docs/decisions/0022-memory-of-an-instance.md.
const KEEP_RESIDENT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The same for a table.
const TABLE_KEEP_RESIDENT_BYTES: usize = 128 * 1024;
/// What the engine keeps for an instance beside its memories and tables: globals,
/// imports, and references to functions.
const INSTANCE_BYTES: usize = 1024 * 1024;
/// Of these, one reference to a function in a table.
const FUNCTION_BYTES: usize = 40;
/// The most frames of a backtrace.
const BACKTRACE_FRAMES_MAX: usize = 32;

/// How the engine is set up.
pub struct EngineOptions {
    /// Instances that exist at once; further calls wait for one within their
    /// deadline, and one app has at most as many as are then left free. Default 256.
    /// Each reserves 4 GiB of address space, not memory, for each memory that an
    /// instance may have. None reserves nothing: room is asked for when an instance is
    /// made, which is slower, and as many as by default exist at once.
    pub instances: Option<u32>,
    /// The memory of all instances together, in bytes. A call that needs more fails
    /// as the host's fault. Default 4 GiB.
    pub memory: u64,
    /// A folder for compiled modules, kept between processes. Default none.
    pub cache_dir: Option<PathBuf>,
    /// What the folder may hold. Default 1 GiB and 10,000 files.
    pub cache: CacheLimits,
    /// Compiled modules that are kept in memory; of more, the least recently used
    /// are read from the folder or compiled again. Default 1,000.
    pub modules: usize,
    /// Their bytes, about; also the most that one compiled module may have.
    /// Default 512 MiB.
    pub modules_bytes: usize,
    /// Where modules are compiled. Default in this process.
    pub compiler: Compiler,
    /// Modules that are compiled at once, and as many again that take long. By
    /// default as many as there are cores but one, and at least one.
    pub compilers: Option<usize>,
    /// The CPU time that a module may take to compile; in this process, the wall
    /// time. Default 30 s.
    pub compile_time: Duration,
    /// The memory that a process may take to compile a module, in bytes. Default
    /// 1 GiB.
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

/// Compiles plugins and runs them. One a process is enough for every app.
pub struct Runtime {
    pub(super) engine: Engine,
    pub(super) limits: Arc<Limits>,
    /// Slots of the pooling allocator, taken before an instance is made, so that a
    /// call waits where the allocator would fail.
    pub(super) slots: Arc<Fair>,
    pub(super) memory: Arc<HostMemory>,
    pub(super) linker: Linker<Invocation>,
    pub(super) disk: Option<DiskCache>,
    pub(super) compiled: Mutex<Compiled>,
    /// Modules that are being loaded.
    pub(super) flights: Mutex<HashMap<Digest, Arc<Flight>>>,
    /// Who may read the cache folder.
    pub(super) readers: Semaphore,
    /// Who may compile.
    pub(super) lanes: Lanes,
    pub(super) compiler: Compiler,
    pub(super) compile_limits: CompileLimits,
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
    /// When the machine cannot give the address space. A cache folder that cannot be
    /// used is a warning in the log.
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
            slots: Fair::new(options.instances.unwrap_or(INSTANCES), Share::Half),
            memory: Arc::new(HostMemory::new(options.memory)),
            linker,
            disk,
            compiled: Mutex::new(Compiled::new(options.modules_bytes, options.modules)),
            flights: Mutex::new(HashMap::new()),
            readers: Semaphore::new(READERS),
            lanes: Lanes::new(
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
            computing: Fair::new(all_cores_but_one(), Share::All),
            rank: AtomicU64::new(0),
            metrics,
        })
    }
}

/// All cores but one: that one is for calls that are short, so that they do not
/// wait for what computes for long, however much there is of it.
fn all_cores_but_one() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores.saturating_sub(1)).map_or(u32::MAX, |places| places.max(1))
}

/// The settings of the engine of a host whose instances have so many bytes of memory
/// together, so that bare wasmtime can be measured with the same.
pub fn engine_config(limits: &Limits, instances: u32, memory: u64) -> Config {
    let tables = instances.saturating_mul(limits.tables);
    let memories = instances.saturating_mul(limits.memories);
    let functions = usize::try_from(limits.table_elements).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(instances)
        .total_stacks(instances)
        // An instance that has all that it may have leaves the others theirs.
        .total_memories(memories)
        .total_tables(tables)
        .max_memories_per_module(limits.memories)
        .max_tables_per_module(limits.tables)
        .table_elements(functions)
        .max_core_instance_size(
            INSTANCE_BYTES.saturating_add(functions.saturating_mul(FUNCTION_BYTES)),
        )
        .max_memory_size(limits.memory_bytes)
        .linear_memory_keep_resident(keep_resident_bytes(memory, memories))
        // Not safe in wasmtime 48: it passes over pages that are swapped out or are being
        // moved, and what they hold is seen by the slot's next instance.
        .pagemap_scan(Enabled::No)
        .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES);
    let mut config = plain_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// What each of so many slots may keep, so that all of them keep no more than what
/// running instances may have.
fn keep_resident_bytes(memory: u64, slots: u32) -> usize {
    let share = memory / u64::from(slots.max(1));
    usize::try_from(share).map_or(KEEP_RESIDENT_BYTES_MAX, |share| {
        share.min(KEEP_RESIDENT_BYTES_MAX)
    })
}

/// The settings of an engine that compiles, in a process of its own, one module on
/// one core. What they mean for the code is what those of the host mean.
pub(super) fn compiler_config() -> Config {
    let mut config = plain_config();
    config.parallel_compilation(false);
    config
}

/// The settings that all engines share.
fn plain_config() -> Config {
    let mut config = Config::new();
    config
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
    fn what_slots_keep_is_at_most_the_memory_of_running_instances() {
        let limits = Limits::default();
        let slots = INSTANCES * limits.memories;
        let default = EngineOptions::default().memory;
        assert_eq!(keep_resident_bytes(default, slots), KEEP_RESIDENT_BYTES_MAX);
        for (memory, slots) in [(64 << 20, slots), (1 << 40, slots), (1 << 30, 1), (0, 7)] {
            let kept = keep_resident_bytes(memory, slots);
            assert!(kept as u64 * u64::from(slots) <= memory);
            assert!(kept <= KEEP_RESIDENT_BYTES_MAX);
        }
        assert_eq!(keep_resident_bytes(1 << 30, 0), KEEP_RESIDENT_BYTES_MAX);
    }
}
