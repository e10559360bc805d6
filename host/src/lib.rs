//! Kvasm hosts WebAssembly plugins for many apps, each with a durable key-value
//! store of its own.
#![deny(missing_docs)]

mod abi;
mod host;
pub mod model;
mod runtime;
pub mod service;
pub mod store;

pub use abi::{BadPointer, GuestLog, GuestState, Level, LogLine};
pub use host::{Call, Host, HostBuilder, Plugin};
pub use runtime::{
    Blame, CallError, CallFailure, Invocation, LoadError, Response, RuntimeError, engine_config,
};
/// The engine's own API, for own host functions.
pub use wasmtime;
