//! The wasm runtime: the engine, compiled modules, and invocations in fresh instances.
#![deny(missing_docs)]

mod abi;
mod cache;
mod call_span;
mod compile_queue;
mod compiler;
mod declared;
mod engine;
mod error;
mod inspect;
mod invocation;
mod limiter;
mod loader;
mod manifest;
mod module;
mod module_cache;
mod module_parts;
mod needs;
mod precheck;
mod request;
mod source_lines;
mod trap;
mod unknown_import;
mod wasi;
mod worker;

pub use abi::{BadPointer, DeliveryContext, GuestLog, GuestState, LogLine};
#[cfg(feature = "fuzzing")]
pub use abi::{fuzz_batch, fuzz_fetch};
pub use cache::CacheLimits;
pub use compiler::Compiler;
pub use declared::FunctionKind;
pub use engine::{EngineOptions, Runtime, engine_config};
pub use error::{Blame, CallError, CallFailure, LoadError, RuntimeError};
pub use inspect::{
    ImportState, InspectedFunction, InspectedImport, Inspection, MemorySize, NotCallable, Omitted,
    SectionSizes, TableSize,
};
pub use invocation::Invocation;
#[cfg(feature = "fuzzing")]
pub use manifest::{fuzz_declarations, section as fuzz_section};
pub use module::CompiledPlugin;
pub use request::{InvocationRequest, InvocationTarget, Response};
pub use worker::compile_worker;
