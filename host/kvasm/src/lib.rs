//! Kvasm runs WebAssembly plugins for many apps. Each app has its own durable key-value store,
//! which its plugins access only through host functions. The host, never the plugin, decides
//! which app's entries they touch.
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
//! // `wasm` is the output of `cargo build --target wasm32-unknown-unknown`.
//! let plugin = host.load(&app, wasm).await?;
//! let response = host.call(&plugin, Call::function("greet")).await?;
//! assert_eq!(response.output, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Custom host functions
//!
//! Embedders can add host functions next to `kvasm_v1`, under their own module name. The
//! functions get the app and the caller from the wasmtime store's data.
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
//! [`Host`] is the entry point, [`store`] persists entries, [`service`] enforces access and
//! limits, and [`model`] defines the types they share. Async functions need a tokio runtime with
//! its timer enabled.
#![deny(missing_docs)]

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

/// The JSON of the HTTP API.
#[cfg(feature = "server")]
pub use kvasm_api as api;
pub use kvasm_core as model;
pub use kvasm_dispatch as dispatch;
/// Outbound HTTP.
#[cfg(feature = "egress")]
pub use kvasm_egress as egress;
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

pub use kvasm_core::{AnswerScope, IdempotencyKey, Level};
pub use kvasm_host::{
    AdmittedCall, Call, DeliverError, DeliverFailure, DeployError, Host, HostBuilder, InvokeError,
    Plugin,
};
pub use kvasm_runtime::{
    BadPointer, Blame, CacheLimits, CallError, CallFailure, Compiler, DeliveryContext,
    FunctionKind, GuestLog, GuestState, ImportState, InspectedFunction, InspectedImport,
    Inspection, Invocation, LoadError, LogLine, MemorySize, NotCallable, Omitted, Response,
    RuntimeError, SectionSizes, TableSize, compile_worker, engine_config,
};
/// The engine's API, for custom host functions.
pub use wasmtime;
