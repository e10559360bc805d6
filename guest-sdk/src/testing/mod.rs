//! Controls the in-process host of native tests. Not available on wasm32.
//!
//! [`Harness`] runs a whole plugin, with its handlers; [`#[kvasm_guest::test]`](macro@crate::test)
//! passes one to a test. The functions here deliver single events, and work with and without one.
//!
//! Under `kvasm test --wasm`, what goes through a harness runs in the built module, on a real host.
//!
//! Each thread has its own host, which is initially empty; `cargo test` runs each test on its
//! own thread.
//!
//! ```
//! use kvasm_guest::kv::{self, SetOptions};
//! use kvasm_guest::testing;
//! use std::time::Duration;
//!
//! let codes = kv::collection("codes");
//! codes.set_with("a", &1, SetOptions::new().ttl(Duration::from_secs(60)))?;
//! testing::advance(Duration::from_secs(60));
//! assert_eq!(codes.get::<i32>("a")?, None);
//! # Ok::<(), kvasm_guest::Error>(())
//! ```

mod calendar;
mod dispatch;
mod harness;
mod outcome;
mod plugin;
pub(crate) mod registry;
pub(crate) mod remote;
mod run;

pub use dispatch::Deliveries;
pub use harness::{Harness, Snapshot};
pub use outcome::{CallError, Callee, Input, Output};

use crate::dead_letters::DeadLetter;
use crate::http::{IntoResponse, Request, Response};
use crate::sys::native;
pub use crate::sys::native::Cost;
use crate::trigger::{self, ChangeValue, ToValue};
use crate::{
    Caller, Change, Context, Error, FromInput, FunctionError, HandlerError, HandlerOutput,
    IntoOutput, Permanent, Refused, Retry, ScheduledRun, Timer, Trigger,
};
use kvasm_abi::{EXIT_LATER, EXIT_OK, EXIT_PERMANENT, EXIT_REFUSED};
use serde_json::json;
use std::time::Duration;

/// Advances this thread's clock: entries expire, and [`now`](crate::now) is later.
pub fn advance(duration: Duration) {
    native::advance(duration);
}

/// Sets the result of [`context`](crate::context()) on this thread.
///
/// ```
/// let mut context = kvasm_guest::context()?;
/// context.caller = kvasm_guest::Caller::Principal;
/// kvasm_guest::testing::set_context(context);
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
pub fn set_context(context: Context) {
    native::set_context(context);
}

/// Sets a configuration value, which [`config::get`](crate::config::get) returns on this thread.
///
/// # Panics
/// If no app can have a value of this name, or this value.
pub fn set_config(name: &str, value: impl std::fmt::Display) {
    let value = value.to_string();
    if let Err(error) = native::set_config(name, &value) {
        panic!("testing::set_config({name:?}): {error}");
    }
    if let Some(remote) = remote::current() {
        remote.set("config", json!({ "name": name, "value": value }));
    }
}

/// Sets a secret, which [`secret`](crate::secret()) returns on this thread.
///
/// # Panics
/// If no app can have a secret of this name or size.
pub fn set_secret(name: &str, secret: impl AsRef<[u8]>) {
    if let Err(error) = native::set_secret(name, secret.as_ref()) {
        panic!("testing::set_secret({name:?}): {error}");
    }
    if let Some(remote) = remote::current() {
        let secret = remote::hex(secret.as_ref());
        remote.set("secret", json!({ "name": name, "secret": secret }));
    }
}

/// Sets the function that answers [`http::fetch`](crate::http::fetch) on this thread. Without one,
/// requests are refused. It gets the request as a server would, with the headers that the host
/// adds, and may use the store of the test.
///
/// ```
/// use kvasm_guest::http::{self, Request, Response};
/// use kvasm_guest::{Error, testing};
///
/// testing::on_fetch(|request| match request.url().as_deref() {
///     Some("https://api.example.com/rate?of=EUR") => Ok(Response::text("1.17")),
///     Some("https://down.example.com/") => Err(Error::Remote("connection refused".to_owned())),
///     _ => Ok(Response::new(404)),
/// });
/// let get = |url| http::fetch(Request::get(url).build());
/// assert_eq!(get("https://api.example.com/rate?of=EUR")?.body, b"1.17");
/// assert_eq!(get("https://api.example.com/other")?.status, 404);
/// assert!(matches!(get("https://down.example.com"), Err(Error::Remote(_))));
/// # Ok::<(), Error>(())
/// ```
pub fn on_fetch(responder: impl FnMut(&Request) -> Result<Response, Error> + 'static) {
    native::on_fetch(Box::new(responder));
}

/// Clears this thread's store, settings and dead letters, and resets its clock and context.
#[track_caller]
pub fn reset() {
    remote::refuse("testing::reset", "each test has a store of its own");
    native::reset();
}

/// Calls a function as the host would, with an input of bytes, and returns its output, or the
/// message of its failure.
///
/// # Errors
/// The message of the function's failure, or of the undecodable input.
///
/// ```
/// use kvasm_guest::{Json, testing};
///
/// fn double(Json(n): Json<u32>) -> Json<u32> {
///     Json(n * 2)
/// }
///
/// assert_eq!(testing::call(double, "21"), Ok(b"42".to_vec()));
/// assert!(testing::call(double, "\"x\"").unwrap_err().contains("invalid type"));
/// ```
pub fn call<A: FromInput, R: IntoOutput>(
    function: impl FnOnce(A) -> R,
    input: impl AsRef<[u8]>,
) -> Result<Vec<u8>, String> {
    invoke(input.as_ref(), || crate::function::run_with(function))
}

/// Like [`call`], but reports whether a failure is the caller's.
///
/// # Errors
/// Why the function failed; undecodable input is the caller's failure.
pub fn try_call<A: FromInput, R: IntoOutput>(
    function: impl FnOnce(A) -> R,
    input: impl AsRef<[u8]>,
) -> Result<Vec<u8>, FunctionError> {
    let (code, output) = exit(input.as_ref(), || crate::function::run_with(function));
    let message = || String::from_utf8_lossy(&output).into_owned();
    match code {
        EXIT_OK => Ok(output),
        EXIT_REFUSED => Err(Refused(message()).into()),
        _ => Err(message().into()),
    }
}

/// Calls an HTTP handler as the host would: request and response are encoded and decoded, and
/// an invalid response fails.
///
/// # Errors
/// The message of the handler's failure, or of the invalid response. A client of the real host
/// gets status 500 without it.
///
/// ```
/// use kvasm_guest::http::{Request, Response};
/// use kvasm_guest::testing;
///
/// fn greet(request: Request) -> Response {
///     match request.query_param("name") {
///         Ok(name) => Response::new(200).header("x-name", name.unwrap_or_default()),
///         Err(error) => Response::text(error.to_string()).status(400),
///     }
/// }
///
/// let greet_as = |target| testing::call_http(greet, Request::get(target).build());
/// assert_eq!(greet_as("/?name=Ada"), Ok(Response::new(200).header("x-name", "Ada")));
/// assert!(greet_as("/?name=%0A").unwrap_err().contains("cannot contain '\\n'"));
/// ```
pub fn call_http<R: IntoResponse>(
    handler: impl FnOnce(Request) -> R,
    request: Request,
) -> Result<Response, String> {
    let output = invoke(&request.encode()?, || {
        crate::http::handler::run_http(handler)
    })?;
    Response::decode(output)
}

/// Runs `work` as a transaction, as the host runs a function with `#[function(transaction)]`:
/// its writes take effect if it returns `Ok`, and are rolled back after an `Err` or a panic.
/// The versions of its own writes are valid only within it.
///
/// There are no conflicts, as each thread has its own host.
///
/// # Errors
/// The error that `work` returned.
///
/// ```
/// use kvasm_guest::{Error, Json, kv, testing};
///
/// #[kvasm_guest::function(transaction)]
/// fn take(Json(count): Json<i64>) -> Result<(), String> {
///     let stock = kv::collection("stock");
///     let left = stock.increment("paper", -count).map_err(|e| e.to_string())?;
///     if left < 0 {
///         return Err("there is not enough paper".to_owned());
///     }
///     Ok(())
/// }
///
/// kv::collection("stock").set("paper", &3)?;
/// testing::transaction(|| {
///     testing::call(take, "1")?;
///     testing::call(take, "3")
/// })
/// .unwrap_err();
/// assert_eq!(kv::collection("stock").get("paper")?, Some(3));
/// # Ok::<(), Error>(())
/// ```
pub fn transaction<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    native::transaction(work, Result::is_ok)
}

/// Delivers a change to a handler as the host would: encoded and decoded, and as a transaction.
/// The same change can be delivered again, as the host may do.
///
/// This does not write the entry itself. Without a [`Harness`] no write triggers a delivery.
///
/// # Errors
/// Why the handler failed. Its writes are then rolled back.
///
/// ```
/// use kvasm_guest::{Change, Error, kv, testing};
///
/// #[kvasm_guest::on_change(collection = "notes")]
/// fn count(change: Change<String>) -> Result<(), Error> {
///     kv::collection("counts").increment("changes", 1)?;
///     Ok(())
/// }
///
/// testing::change(count, Change::set("notes", "today", "buy paper".to_owned())).unwrap();
/// assert_eq!(kv::collection("counts").get("changes")?, Some(1));
/// # Ok::<(), Error>(())
/// ```
pub fn change<T: ChangeValue + ToValue, R: HandlerOutput>(
    handler: impl FnOnce(Change<T>) -> R,
    change: Change<T>,
) -> Result<(), HandlerError> {
    let Change {
        trigger,
        event_id,
        attempt,
        depth,
        ..
    } = &change;
    let trigger = Trigger::new(trigger, event_id, *attempt, *depth);
    deliver(trigger, &change.encode()?, || trigger::run_change(handler))
}

/// Runs a scheduled handler as the host would: with an encoded and decoded input, and as a
/// transaction. For a handler without an argument, pass `|_| handler()`.
///
/// # Errors
/// Why the handler failed. Its writes are then rolled back.
///
/// ```
/// use kvasm_guest::{ScheduledRun, kv, testing};
///
/// #[kvasm_guest::cron("*/5 * * * *")]
/// fn tick() -> Result<(), kvasm_guest::Error> {
///     kv::collection("ticks").increment("all", 1)?;
///     Ok(())
/// }
///
/// testing::scheduled(|_| tick(), ScheduledRun::at(0)).unwrap();
/// assert_eq!(kv::collection("ticks").get("all")?, Some(1));
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
pub fn scheduled<R: HandlerOutput>(
    handler: impl FnOnce(ScheduledRun) -> R,
    run: ScheduledRun,
) -> Result<(), HandlerError> {
    let trigger = Trigger::new(&run.trigger, &run.event_id, run.attempt, run.depth);
    deliver(trigger, &run.encode()?, || {
        trigger::run_scheduled_with(handler)
    })
}

/// Runs the timers that are due by this thread's clock, in the order of their times, as the host
/// would: encoded and decoded, and each as a transaction in which the timer is not set any more.
/// Timers that a handler sets for a time that has passed run too. Returns how many have succeeded.
/// [`advance`] moves the clock.
///
/// # Errors
/// Why a handler failed. Its writes are then rolled back, its timer is still set, and later ones were
/// not run.
///
/// ```
/// use kvasm_guest::{HandlerError, Permanent, Timer, testing, timer};
/// use std::time::Duration;
///
/// fn due(timer: Timer<u32>) -> Result<(), HandlerError> {
///     match timer.payload {
///         0 => Err(Permanent("zero").into()),
///         _ => Ok(()),
///     }
/// }
///
/// timer::set_after("one", Duration::from_secs(1), &1)?;
/// timer::set_after("zero", Duration::from_secs(2), &0)?;
/// assert_eq!(testing::fire_timers(due), Ok(0));
/// testing::advance(Duration::from_secs(2));
/// assert!(testing::fire_timers(due).unwrap_err().is_permanent());
/// assert_eq!(testing::timers(), ["zero"]);
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
#[track_caller]
pub fn fire_timers<T: ChangeValue, R: HandlerOutput>(
    handler: impl Fn(Timer<T>) -> R,
) -> Result<u32, HandlerError> {
    remote::refuse(
        "testing::fire_timers",
        "the host runs timers; use Harness::run_due or Harness::advance",
    );
    let mut fired = 0;
    while let Some(timer) = native::take_due_timer() {
        let event_id = format!("timer-{}", timer.number);
        let input = trigger::encode_timer(&timer.name, &timer.payload, timer.at_ms, &event_id, 1);
        let trigger = Trigger::new(kvasm_abi::TIMER_HANDLER, &event_id, 1, 1);
        let done = deliver(trigger, &input?, || trigger::run_timer(&handler));
        if let Err(error) = done {
            native::restore_timer(timer);
            return Err(error);
        }
        fired += 1;
    }
    Ok(fired)
}

/// Returns the names of this thread's timers, in the order in which they become due.
pub fn timers() -> Vec<String> {
    native::timers()
        .into_iter()
        .map(|timer| timer.name)
        .collect()
}

/// Runs `work`, and returns its result and what it used of the host: a test can assert how many
/// entries a function reads. Runs that are rolled back count too.
///
/// ```
/// use kvasm_guest::{Error, Json, kv, testing};
///
/// fn total(Json(names): Json<Vec<String>>) -> Result<Json<u64>, Error> {
///     let found = kv::collection("stock").get_many::<u64>(&names)?;
///     Ok(Json(found.into_iter().flatten().sum()))
/// }
///
/// kv::collection("stock").set("paper", &12)?;
/// let (output, cost) = testing::cost_of(|| testing::call(total, r#"["ink", "paper"]"#));
/// assert_eq!(output, Ok(b"12".to_vec()));
/// assert_eq!((cost.entries_read, cost.bytes_read, cost.entries_written), (2, 2, 0));
/// # Ok::<(), Error>(())
/// ```
pub fn cost_of<R>(work: impl FnOnce() -> R) -> (R, Cost) {
    let before = native::cost();
    let result = work();
    (result, native::cost() - before)
}

/// Adds a dead letter for [`dead_letters`](crate::dead_letters) to return. They are ordered by
/// id: the greatest is the newest.
///
/// ```
/// use kvasm_guest::dead_letters::{self, DeadLetter};
///
/// let mut letter = DeadLetter::example("1");
/// letter.function = "count".to_owned();
/// kvasm_guest::testing::add_dead_letter(letter);
/// assert_eq!(dead_letters::list().count(), 1);
/// ```
#[track_caller]
pub fn add_dead_letter(letter: DeadLetter) {
    remote::refuse(
        "testing::add_dead_letter",
        "only the host makes dead letters; let a delivery fail",
    );
    native::add_dead_letter(letter);
}

fn deliver(
    trigger: Trigger,
    input: &[u8],
    export: impl FnOnce() -> i32,
) -> Result<(), HandlerError> {
    let mut context = native::current_context();
    context.caller = Caller::Trigger;
    context.trigger = Some(trigger);
    let run = || native::transaction(|| exit(input, export), |(code, _)| *code == EXIT_OK);
    let (code, output) = native::with_context(context, run);
    let message = || String::from_utf8_lossy(&output).into_owned();
    match code {
        EXIT_OK => Ok(()),
        EXIT_PERMANENT => Err(Permanent(message()).into()),
        EXIT_LATER => match kvasm_abi::retry_ms(&output) {
            Some(ms) => Err(Retry::after(Duration::from_millis(ms)).into()),
            None => Err(message().into()),
        },
        _ => Err(message().into()),
    }
}

fn invoke(input: &[u8], export: impl FnOnce() -> i32) -> Result<Vec<u8>, String> {
    let (code, output) = exit(input, export);
    if code == EXIT_OK {
        Ok(output)
    } else {
        Err(String::from_utf8_lossy(&output).into_owned())
    }
}

/// Returns the exit code and the output of an export.
fn exit(input: &[u8], export: impl FnOnce() -> i32) -> (i32, Vec<u8>) {
    native::set_input(input);
    let code = export();
    (code, native::take_output())
}
