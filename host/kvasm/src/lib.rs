//! Kvasm hosts WebAssembly plugins for many apps, each with a durable key-value
//! store of its own that the plugin reaches only through host functions. The
//! host, never the plugin, says which app's rows they touch.
//!
//! # Embedding
//!
//! ```
//! use kvasm::model::AppName;
//! use kvasm::store::{SqliteOptions, SqliteStore};
//! use kvasm::{Call, Host};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("kvasm.db");
//! # let wasm = wat::parse_str(r#"(module
//! #   (import "kvasm_v1" "output_write" (func $write (param i32 i32) (result i64)))
//! #   (memory (export "memory") 1) (data (i32.const 0) "hello")
//! #   (func (export "greet") (result i32) (drop (call $write (i32.const 0) (i32.const 5))) (i32.const 0)))"#)?;
//! let store = SqliteStore::open(SqliteOptions::new(path)).await?;
//! let host = Host::builder().store(store).build()?;
//! let app = host.create_app(AppName::parse("demo")?).await?;
//! // `wasm` is what `cargo build --target wasm32-unknown-unknown` made.
//! let plugin = host.load(&app, wasm).await?;
//! let response = host.call(&plugin, Call::function("greet")).await?;
//! assert_eq!(response.output, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Own host functions
//!
//! An embedder's functions stand beside `kvasm_v1` under a module name of their
//! own. They find the app and the caller in the store's data.
//!
//! ```
//! use kvasm::wasmtime::Caller;
//! use kvasm::{Host, Invocation};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::builder()
//!     .extend(|linker| {
//!         linker.func_wrap("shop_v1", "is_demo", |caller: Caller<'_, Invocation>| {
//!             i32::from(caller.data().guest_state().app() == "demo")
//!         })?;
//!         Ok(())
//!     })
//!     .build()?;
//! # drop(host);
//! # Ok(())
//! # }
//! ```
//!
//! The pieces: [`Host`] is the front door, [`store`] keeps entries, [`service`]
//! decides who may do what, [`model`] has the words of all of them. Functions
//! wait on tokio, with its timer enabled.
#![deny(missing_docs)]

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

/// The JSON of the HTTP API.
#[cfg(feature = "server")]
pub use kvasm_api as api;
pub use kvasm_core as model;
pub use kvasm_dispatch as dispatch;
pub use kvasm_metrics as metrics;
#[cfg(feature = "server")]
pub use kvasm_server as server;
pub use kvasm_service as service;

/// Where entries are kept: the traits, and a store for each feature.
pub mod store {
    pub use kvasm_core::store::*;
    pub use kvasm_store_memory::MemoryStore;
    #[cfg(feature = "postgres")]
    pub use kvasm_store_postgres::{PostgresOptions, PostgresStore};
    #[cfg(feature = "sqlite")]
    pub use kvasm_store_sqlite::{IncrementalVacuum, SqliteOptions, SqliteStore};
}

pub use kvasm_core::Level;
pub use kvasm_host::{
    Call, DeliverError, DeployError, Entered, Host, HostBuilder, InvokeError, Plugin,
};
pub use kvasm_runtime::{
    BadPointer, Blame, CacheLimits, CallError, CallFailure, Compiler, DeliveryContext, GuestLog,
    GuestState, Invocation, LoadError, LogLine, Response, RuntimeError, compile_worker,
    engine_config,
};
/// The engine's own API, for own host functions.
pub use wasmtime;
