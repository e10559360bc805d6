//! Steering the in-process host of native tests. Not there on wasm32.
//!
//! Each thread has a host of its own, which starts empty; `cargo test` runs each
//! test on its own thread.
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

use crate::http::{IntoResponse, Request, Response};
use crate::sys::native;
use crate::{Context, FromInput, IntoOutput};
use std::time::Duration;

/// Moves this thread's clock forward: entries expire, and [`now`](crate::now) is later.
pub fn advance(duration: Duration) {
    native::advance(duration);
}

/// Replaces what [`context`](crate::context()) answers on this thread.
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

/// Empties this thread's store and sets clock and context back.
pub fn reset() {
    native::reset();
}

/// Calls a function as the host would, with an input of bytes, and returns its
/// output, or the message of its failure.
///
/// # Errors
/// The message that the function failed with, or that says why it could not
/// read the input.
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

/// Calls an HTTP handler as the host would: request and response go through
/// their bytes, and a response that HTTP cannot carry fails.
///
/// # Errors
/// The message that the handler failed with, or that says what is wrong with its
/// response. A client of the real host gets status 500 without it.
///
/// ```
/// use kvasm_guest::http::{Request, Response};
/// use kvasm_guest::testing;
///
/// fn greet(request: Request) -> Response {
///     Response::new(200).header("x-name", request.query_param("name").unwrap_or_default())
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
    Response::decode(&output)
}

fn invoke(input: &[u8], export: impl FnOnce() -> i32) -> Result<Vec<u8>, String> {
    native::set_input(input);
    let code = export();
    let output = native::take_output();
    if code == 0 {
        Ok(output)
    } else {
        Err(String::from_utf8_lossy(&output).into_owned())
    }
}
