//! Write Kvasm plugins in Rust.
//!
//! A plugin is a `cdylib` for `wasm32-unknown-unknown` whose functions carry
//! [`#[function]`](macro@function). It keeps its data in the app's
//! [key-value store](kv) and logs through the [`log`] crate. One function can
//! answer [HTTP requests](mod@http).
//!
//! ```
//! use kvasm_guest::{Error, Json, kv};
//!
//! #[derive(serde::Deserialize)]
//! struct Visit {
//!     name: String,
//! }
//!
//! /// Counts a visit and returns how many there were.
//! #[kvasm_guest::function]
//! fn visit(Json(visit): Json<Visit>) -> Result<Json<u64>, Error> {
//!     let visits = kv::collection("visits");
//!     let count = visits.get::<u64>(&visit.name)?.unwrap_or(0) + 1;
//!     visits.set(&visit.name, &count)?;
//!     log::info!("visit {count} of {}", visit.name);
//!     Ok(Json(count))
//! }
//!
//! // Natively it is an ordinary function over an in-process store.
//! let ada = || Json(Visit { name: "Ada".to_owned() });
//! assert_eq!(visit(ada()), Ok(Json(1)));
//! assert_eq!(visit(ada()), Ok(Json(2)));
//! ```
//!
//! The same code compiles natively, so that `cargo test` needs no wasm and no
//! host: calls go to a store in the process, one to each thread, with the limits
//! and errors of the real one. [`testing`] steers its clock and context.
//!
//! On wasm32 the SDK sends `log` lines of level debug and above to the app's log
//! (`log::set_max_level` changes the level), and logs the message and place of a
//! panic before it ends in a trap.
#![deny(missing_docs)]

extern crate self as kvasm_guest;

mod context;
mod error;
mod function;
pub mod http;
pub mod kv;
mod sys;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use context::{Caller, Context, context, now, now_ms, random_fill};
pub use error::Error;
pub use function::{Bytes, FromInput, IntoOutput, Json};
/// The `log` crate that the SDK listens to.
pub use log;

/// Turns a function into an export of the plugin, callable by its name.
///
/// The function takes no argument, [`Json<T>`](Json) or [`Bytes`], and returns
/// `()`, `Json<T>`, `Bytes`, `String`, or a `Result` of one of them and an error
/// that can be displayed. An `Err` fails the call with its text as the message;
/// so does an input that cannot be read. It stays an ordinary function for the
/// code around it, and natively that is all it is.
///
/// `#[function(name = "other")]` exports it under another name: 1 to 64 of the
/// characters `a-z`, `A-Z`, `0-9`, `_`, `-` and `.`.
///
/// What the export needs is `unsafe` to the compiler. A crate with
/// `#![deny(unsafe_code)]` builds, one with `#![forbid(unsafe_code)]` does not.
///
/// ```
/// use kvasm_guest::{Bytes, Json};
///
/// #[kvasm_guest::function]
/// fn ping() -> String {
///     "pong".to_owned()
/// }
///
/// #[kvasm_guest::function(name = "byte-count")]
/// fn count(Bytes(input): Bytes) -> Json<usize> {
///     Json(input.len())
/// }
///
/// assert_eq!(ping(), "pong");
/// assert_eq!(count(Bytes(vec![1, 2])), Json(2));
/// ```
///
/// What cannot be an export does not compile:
///
/// ```compile_fail
/// #[kvasm_guest::function(nam = "typo")]
/// fn ping() {}
/// ```
/// ```compile_fail
/// #[kvasm_guest::function]
/// fn add(a: u32, b: u32) -> u32 {
///     a + b
/// }
/// ```
pub use kvasm_guest_macros::function;

/// Turns a function into the HTTP handler of the plugin, of which there is at
/// most one: the host refuses a plugin with two.
///
/// The function takes a [`Request`](http::Request) and returns a
/// [`Response`](http::Response), or a `Result` of one and an error that can be
/// displayed. An `Err` fails the call; the client gets status 500 without its
/// text. The handler stays an ordinary function for the code around it. Unlike
/// one with [`#[function]`](macro@function) it cannot be called by its name.
///
/// `#[http(name = "other")]` exports it under another name.
///
/// ```
/// use kvasm_guest::http::{Request, Response};
///
/// #[kvasm_guest::http]
/// fn handle(request: Request) -> Response {
///     match (request.method(), request.path()) {
///         ("GET", "/") => Response::text("hello"),
///         ("GET", _) => Response::new(404),
///         _ => Response::new(405).header("allow", "GET"),
///     }
/// }
///
/// assert_eq!(handle(Request::get("/").build()), Response::text("hello"));
/// assert_eq!(handle(Request::get("/x").build()).status, 404);
/// ```
///
/// What cannot be a handler does not compile:
///
/// ```compile_fail
/// use kvasm_guest::{Json, http::Response};
///
/// #[kvasm_guest::http]
/// fn handle(request: Json<String>) -> Response {
///     Response::new(204)
/// }
/// ```
/// ```compile_fail
/// use kvasm_guest::http::Request;
///
/// #[kvasm_guest::http]
/// fn handle(request: Request) -> String {
///     request.path().to_owned()
/// }
/// ```
pub use kvasm_guest_macros::http;

/// What the macros' code calls. Not part of the public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::function::{run, run_with};
    pub use crate::http::handler::run_http;
}
