//! Wasm: the engine, compiled modules, and one invocation in one fresh instance.

mod cache;
mod engine;
mod error;
mod invocation;
mod limiter;
mod loader;
mod manifest;
mod module;
mod trap;
mod wasi;

pub use engine::{EngineOptions, Runtime, engine_config};
pub use error::{Blame, CallError, CallFailure, LoadError, RuntimeError};
pub use invocation::{Invocation, Request, Response, Target};
pub use module::CompiledPlugin;
