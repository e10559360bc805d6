//! Write Kvasm plugins in Rust.
//!
//! A plugin is a `cdylib` for `wasm32-wasip1` or `wasm32-unknown-unknown` whose functions carry
//! [`#[function]`](macro@function). It stores its data in the app's [key-value store](kv) and
//! logs through the [`log`] crate. One function can serve [HTTP requests](mod@http). The app's
//! administrators give it [configuration values](config) and [secrets](secret()).
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
//! fn visit(Json(visit): Json<Visit>) -> Result<Json<i64>, Error> {
//!     // With `get` and `set`, two visits at the same time would count as one.
//!     let count = kv::collection("visits").increment(&visit.name, 1)?;
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
//! The same code compiles natively, so that `cargo test` needs neither wasm nor a host: calls
//! go to an in-process store, one per thread, with the limits and errors of the real one.
//! [`#[kvasm_guest::test]`](macro@test) runs the whole plugin on it, with its handlers.
//!
//! On wasm32 the SDK sends `log` lines of level debug and above to the app's log
//! (`log::set_max_level` changes the level), and logs the message and location of a panic
//! before it traps.
#![deny(missing_docs)]

extern crate self as kvasm_guest;

#[cfg(all(target_os = "wasi", not(target_env = "p1")))]
compile_error!(
    "kvasm-guest does not build for this target, which makes components: build for wasm32-wasip1 or wasm32-unknown-unknown"
);

#[cfg(all(
    feature = "allocator",
    target_arch = "wasm32",
    not(target_feature = "atomics")
))]
mod allocator;
pub mod config;
mod context;
pub mod dead_letters;
mod error;
mod function;
pub mod http;
mod json;
pub mod kv;
pub mod print;
mod secret;
mod sys;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod timer;
mod transaction;
pub mod trigger;
pub mod typed;

pub use context::{Caller, Context, Trigger, context, now, now_ms, random_fill};
pub use error::Error;
pub use function::{Bytes, FromInput, FunctionError, IntoOutput, Json, Refused};
/// The `log` crate whose lines the SDK sends to the app's log.
pub use log;
pub use secret::{Secret, secret};
pub use trigger::{
    Change, ChangeKind, HandlerError, HandlerOutput, Permanent, Retry, ScheduledRun, Timer,
};

/// Turns a function into an export of the plugin that is callable by name.
///
/// The function takes no argument, [`Json<T>`](Json) or [`Bytes`], and returns `()`, `Json<T>`,
/// `Bytes`, `String`, or a `Result` of one of them and a displayable error. An `Err` fails the
/// call with its text as the message; so does undecodable input. The function remains callable
/// from the surrounding code, and natively the attribute adds nothing else.
///
/// `#[function(name = "other")]` exports it under another name: 1 to 64 of the characters
/// `a-z`, `A-Z`, `0-9`, `_`, `-` and `.`.
///
/// `#[function(transaction)]` makes each call a transaction: its writes take effect together if
/// it succeeds, and none of them if it fails or traps. It commits only if every entry that it
/// has read is unchanged; otherwise the host discards the run and starts another, until the
/// call times out. Lists are not checked for changes. The function may therefore run more than
/// once per call, and its log lines are kept for each run. Versions of its own writes are valid
/// only within the run. Called from the surrounding code, it is a transaction too, and a part of
/// the caller's if that is one, as with [`kv::transaction`]; after a conflict it is repeated if its
/// input implements `Clone`. If it cannot be committed, it panics.
///
/// The generated export is `unsafe` to the compiler. A crate with `#![deny(unsafe_code)]`
/// builds, one with `#![forbid(unsafe_code)]` does not.
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
/// /// Transfers money atomically.
/// #[kvasm_guest::function(transaction)]
/// fn transfer(Json((from, to, cents)): Json<(String, String, i64)>) -> Result<(), String> {
///     let accounts = kvasm_guest::kv::collection("accounts");
///     let left = accounts.increment(&from, -cents).map_err(|e| e.to_string())?;
///     if left < 0 {
///         return Err(format!("{from} has not enough"));
///     }
///     accounts.increment(&to, cents).map_err(|e| e.to_string())?;
///     Ok(())
/// }
///
/// assert_eq!(ping(), "pong");
/// assert_eq!(count(Bytes(vec![1, 2])), Json(2));
/// ```
///
/// A function that cannot be exported does not compile:
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

/// Turns a function into the HTTP handler of the plugin. The host rejects a plugin with more
/// than one.
///
/// The function takes a [`Request`](http::Request) and returns a [`Response`](http::Response),
/// anything that [turns into one](http::IntoResponse), or a `Result` of it and an
/// [error](http::HttpError), whose text the client does not get. A [`Router`](http::Router) calls
/// a function for each method and path. The handler remains callable from the surrounding code.
/// Unlike a [`#[function]`](macro@function) it cannot be called by name through the host.
///
/// `#[http(name = "other")]` exports it under another name.
///
/// `#[http(transaction)]` makes each request a transaction, as
/// [`#[function(transaction)]`](macro@function) does for calls: what the handler writes takes effect
/// together, unless it returns an `Err`, panics or traps, and the host runs it again after a
/// conflict. The client receives a response that is an `Err` too, and nothing that the handler wrote
/// remains. A response that is an `Ok` commits, whatever its status. Requests to other servers are
/// refused in it.
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
/// A function that cannot be a handler does not compile:
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
/// fn handle(request: Request) -> f32 {
///     1.5
/// }
/// ```
pub use kvasm_guest_macros::http;

/// Turns a function into a handler of changes: the host calls it after an entry has been
/// written or deleted.
///
/// The function takes a [`Change<T>`](Change) and returns `()` or a `Result` of it and an
/// error, which is displayable, a [`Permanent`] or a [`HandlerError`]. [`trigger`] describes
/// runs and failures.
///
/// - `collection = "orders"`: the collection to watch. Without it the handler has no trigger of
///   its own; an operator can create one.
/// - `prefix = "eu/"`: only keys that start with this.
/// - `on = "set"` or `on = "delete"`: only this kind of change; by default, both.
/// - `attempts = 4`: the maximum number of attempts of a delivery, 1 to 100; by default 12.
/// - `max_age = "1h"`: the maximum age of a delivery that has failed, from `1s` to `30d`; by default
///   24 hours. A trigger of an operator with the handler's name replaces both.
/// - `name = "other"`: exports it under another name.
///
/// ```
/// use kvasm_guest::{Change, ChangeKind, Error, kv, testing};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Order {
///     customer: String,
/// }
///
/// /// Keeps the European orders by customer.
/// #[kvasm_guest::on_change(collection = "orders", prefix = "eu/", on = "set")]
/// fn index(change: Change<Order>) -> Result<(), Error> {
///     if let Some(order) = change.value {
///         let key = format!("{}/{}", order.customer, change.key);
///         kv::collection("by-customer").set(&key, &())?;
///     }
///     Ok(())
/// }
///
/// let order = Order { customer: "ada".to_owned() };
/// testing::change(index, Change::set("orders", "eu/1", order)).unwrap();
/// assert!(kv::collection("by-customer").has("ada/eu/1")?);
/// # Ok::<(), Error>(())
/// ```
///
/// A function that cannot be a handler does not compile:
///
/// ```compile_fail
/// use kvasm_guest::Change;
///
/// #[kvasm_guest::on_change(collection = "orders", on = "update")]
/// fn index(change: Change<String>) {}
/// ```
/// ```compile_fail
/// use kvasm_guest::{Change, Json};
///
/// // A handler has no caller to return a value to.
/// #[kvasm_guest::on_change(collection = "orders")]
/// fn index(change: Change<String>) -> Json<u32> {
///     Json(1)
/// }
/// ```
/// ```compile_fail
/// use kvasm_guest::Json;
///
/// #[kvasm_guest::on_change(collection = "orders")]
/// fn index(order: Json<String>) {}
/// ```
pub use kvasm_guest_macros::on_change;

/// Turns a function into one that the host runs on a schedule.
///
/// The schedule has the five fields of cron, in UTC: minute, hour, day of the month, month, day
/// of the week. The function takes nothing or a [`ScheduledRun`], and returns what a handler of
/// [changes](macro@on_change) returns. `#[cron("0 3 * * *", name = "other")]` exports it under
/// another name.
///
/// ```
/// use kvasm_guest::{Error, kv};
///
/// /// Deletes the drafts every night at three.
/// #[kvasm_guest::cron("0 3 * * *")]
/// fn clean() -> Result<(), Error> {
///     let drafts = kv::collection("drafts");
///     for key in drafts.list().keys() {
///         drafts.delete(&key?)?;
///     }
///     Ok(())
/// }
/// ```
///
/// A function that cannot be a handler does not compile:
///
/// ```compile_fail
/// #[kvasm_guest::cron("0 3 * *")]
/// fn clean() {}
/// ```
/// ```compile_fail
/// #[kvasm_guest::cron("0 3 * * *")]
/// fn clean() -> u32 {
///     1
/// }
/// ```
pub use kvasm_guest_macros::cron;

/// Turns a function into the handler of the plugin's [timers](timer), of which there is at most one.
///
/// The function takes a [`Timer<T>`](Timer), and returns what a handler of
/// [changes](macro@on_change) returns. It is exported as `on_timer`, whatever its name, so that a
/// later version of the plugin handles the timers of an earlier one.
///
/// ```
/// use kvasm_guest::{Error, Timer, kv, testing, timer};
/// use std::time::Duration;
///
/// #[kvasm_guest::on_timer]
/// fn due(timer: Timer<u32>) -> Result<(), Error> {
///     kv::collection("done").set(&timer.name, &timer.payload)?;
///     // Repeats itself.
///     timer::set_after(&timer.name, Duration::from_secs(60), &(timer.payload + 1))
/// }
///
/// timer::set_after("tick", Duration::from_secs(60), &1)?;
/// testing::advance(Duration::from_secs(60));
/// assert_eq!(testing::fire_timers(due), Ok(1));
/// testing::advance(Duration::from_secs(60));
/// assert_eq!(testing::fire_timers(due), Ok(1));
/// assert_eq!(kv::collection("done").get("tick")?, Some(2));
/// # Ok::<(), Error>(())
/// ```
///
/// A function that cannot be a handler does not compile:
///
/// ```compile_fail
/// #[kvasm_guest::on_timer]
/// fn due(timer: String) {}
/// ```
/// ```compile_fail
/// use kvasm_guest::Timer;
///
/// #[kvasm_guest::on_timer(name = "other")]
/// fn due(timer: Timer<u32>) {}
/// ```
pub use kvasm_guest_macros::on_timer;

/// Declares what the plugin needs from its app: origins that it sends requests to, configuration
/// values, secrets and timers.
///
/// The app's administrators see the declaration (`kvasm plugin needs`), and grant origins, secrets
/// and timers (`kvasm grant`). What is not both declared and granted is denied. A version is
/// activated only if all is granted, and all that is `required` is set. A configuration value
/// can be read without a declaration; with one, the host checks its type before an activation,
/// and returns the default while it is not set. Native tests check declarations, and know
/// defaults, only with a [`Harness`](testing::Harness).
///
/// - `http "ORIGIN"`: scheme, host and perhaps a port; `https://*.example.com` is all subdomains.
/// - `[required] config NAME: TYPE [= DEFAULT] [, "DESCRIPTION"]`: the type is `String`, `bool`, an
///   integer or float type, or `Json` for any JSON.
/// - `[required] secret NAME [, "DESCRIPTION"]`
/// - `timers`
///
/// A name is an identifier, or a literal if it has other characters. The macro can be used in
/// several modules. A need that is declared again in other words is rejected by the host.
///
/// ```
/// kvasm_guest::needs! {
///     http "https://api.example.com";
///     config retries: u32 = 3, "How often to try";
///     required config currency: String, "Currency of new orders";
///     required secret "stripe-key", "Key of the payment API";
///     timers;
/// }
/// ```
///
/// A need that is not valid does not compile:
///
/// ```compile_fail
/// kvasm_guest::needs! { http "https://api.example.com/path" }
/// ```
/// ```compile_fail
/// kvasm_guest::needs! { config retries: u8 = 300 }
/// ```
/// ```compile_fail
/// kvasm_guest::needs! { required config retries: u8 = 3 }
/// ```
pub use kvasm_guest_macros::needs;

/// Turns a function into a native test of the whole plugin.
///
/// It is a `#[test]` whose function takes a [`&mut Harness`](testing::Harness): a host in the test's
/// process that runs the functions and handlers of the program, as if they were deployed. It may
/// return what a test may return, and have other attributes such as `#[should_panic]`.
///
/// ```standalone_crate
/// use kvasm_guest::{Error, Json, kv};
///
/// #[kvasm_guest::function]
/// fn visit(Json(name): Json<String>) -> Result<Json<i64>, Error> {
///     kv::collection("visits").increment(&name, 1).map(Json)
/// }
///
/// #[cfg(test)]
/// mod tests {
///     use super::*;
///     use kvasm_guest::testing::Harness;
///
///     #[kvasm_guest::test]
///     fn visits_are_counted(h: &mut Harness) {
///         assert_eq!(h.call(visit, Json("ada")).unwrap(), "1");
///         assert_eq!(h.call("visit", Json("ada")).unwrap(), "2");
///         h.fail_next(Error::Unavailable("the store is down".to_owned()));
///         assert!(h.call(visit, Json("ada")).is_err());
///         assert_eq!(h.last_cost().entries_written, 0);
///     }
/// }
/// ```
pub use kvasm_guest_macros::test;

/// Used by the macros. Not part of the public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::function::{run, run_with};
    pub use crate::http::handler::run_http;
    pub use crate::print::to as print;
    #[cfg(not(target_arch = "wasm32"))]
    pub use crate::testing::registry::{Registration, type_id};
    pub use crate::transaction::{CloneInput, KeepInput, Repeat, in_transaction, run_transaction};
    pub use crate::trigger::{run_change, run_scheduled, run_scheduled_with, run_timer};
}
