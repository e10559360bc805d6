//! Inputs and outputs of exported functions, and the code that runs one.

use crate::{HandlerError, json, sys};
use kvasm_abi::{EXIT_FAILED, EXIT_LATER, EXIT_OK, EXIT_PERMANENT, EXIT_REFUSED};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;

/// JSON as a function's input or output: `Json(value)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Json<T>(
    /// The value.
    pub T,
);

/// Raw bytes as a function's input or output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Bytes(
    /// The bytes.
    pub Vec<u8>,
);

/// An error caused by the caller: the input is rejected. Over HTTP the status is 422 with the
/// error's text, whereas any other error of a function is 500.
///
/// It is the `Err` of a function, or is converted to a [`FunctionError`] by `?`, alongside
/// errors that the caller did not cause:
///
/// ```
/// use kvasm_guest::{FunctionError, Json, Refused, kv, testing};
///
/// #[kvasm_guest::function]
/// fn pay(Json(cents): Json<i64>) -> Result<(), FunctionError> {
///     if cents <= 0 {
///         return Err(Refused("pay at least a cent").into());
///     }
///     kv::collection("sums").increment("paid", cents)?;
///     Ok(())
/// }
///
/// let error = testing::try_call(pay, "-1").unwrap_err();
/// assert!(error.is_refused());
/// assert_eq!(error.message(), "pay at least a cent");
/// ```
// It must not implement `Display`: displayable types are errors that the caller did not cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refused<E>(
    /// The error.
    pub E,
);

/// Why a function failed. Anything that can be displayed converts to a failure of the plugin,
/// and [`Refused`] to an error of its caller.
// It must not implement `Display` either: the two `From` implementations would overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionError {
    message: String,
    refused: bool,
}

impl FunctionError {
    /// Returns the message. Every caller receives that of a refusal; that of another error is for
    /// those who may read the app's log.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns whether the input was rejected.
    pub fn is_refused(&self) -> bool {
        self.refused
    }
}

// With `format!`, since each crate that uses `to_string` has its own copy of the code that writes to a
// string.
impl<E: Display> From<E> for FunctionError {
    fn from(error: E) -> FunctionError {
        FunctionError {
            message: format!("{error}"),
            refused: false,
        }
    }
}

impl<E: Display> From<Refused<E>> for FunctionError {
    fn from(Refused(error): Refused<E>) -> FunctionError {
        FunctionError {
            message: format!("{error}"),
            refused: true,
        }
    }
}

/// A type that a function can take as its one argument: [`Json`] or [`Bytes`].
#[diagnostic::on_unimplemented(
    message = "a plugin function cannot take `{Self}`",
    label = "not an input",
    note = "take no argument, `Json<T>` where `T: serde::de::DeserializeOwned`, or `Bytes`; a `Request` is for `#[kvasm_guest::http]`"
)]
pub trait FromInput: Sized {
    /// Decodes the input.
    ///
    /// # Errors
    /// A message for the caller, or for the app's log.
    fn from_input(input: Vec<u8>) -> Result<Self, String>;
}

/// A type that a function can return: `()`, [`Json`], [`Bytes`], `String`, or a `Result` of one
/// of them and an error, which is displayable, a [`Refused`] or a [`FunctionError`].
#[diagnostic::on_unimplemented(
    message = "a plugin function cannot return `{Self}`",
    label = "not an output",
    note = "return `()`, `Json<T>` where `T: serde::Serialize`, `Bytes`, `String`, or a `Result<_, E>` of one of them where `E: std::fmt::Display`, `kvasm_guest::Refused` or `kvasm_guest::FunctionError`; a `Response` is for `#[kvasm_guest::http]`"
)]
pub trait IntoOutput {
    /// Returns the output, or the error.
    ///
    /// # Errors
    /// A message for the caller.
    fn into_output(self) -> Result<Vec<u8>, FunctionError>;

    /// Returns whether it is an error, after which a transaction is undone.
    #[doc(hidden)]
    fn is_failure(&self) -> bool {
        false
    }
}

impl<T: DeserializeOwned> FromInput for Json<T> {
    fn from_input(input: Vec<u8>) -> Result<Self, String> {
        if input.is_empty() {
            return Err("the input is empty; this function takes JSON".to_owned());
        }
        json::decode(&input)
            .map(Json)
            .map_err(|why| format!("the input is not the JSON that this function takes: {why}"))
    }
}

impl FromInput for Bytes {
    fn from_input(input: Vec<u8>) -> Result<Self, String> {
        Ok(Bytes(input))
    }
}

impl IntoOutput for () {
    fn into_output(self) -> Result<Vec<u8>, FunctionError> {
        Ok(Vec::new())
    }
}

impl<T: Serialize> IntoOutput for Json<T> {
    fn into_output(self) -> Result<Vec<u8>, FunctionError> {
        json::encode(&self.0)
            .map_err(|why| format!("the output cannot be written as JSON: {why}").into())
    }
}

impl IntoOutput for Bytes {
    fn into_output(self) -> Result<Vec<u8>, FunctionError> {
        Ok(self.0)
    }
}

impl IntoOutput for String {
    fn into_output(self) -> Result<Vec<u8>, FunctionError> {
        Ok(self.into_bytes())
    }
}

impl<T: IntoOutput, E: Into<FunctionError>> IntoOutput for Result<T, E> {
    fn into_output(self) -> Result<Vec<u8>, FunctionError> {
        self.map_err(Into::into)?.into_output()
    }

    fn is_failure(&self) -> bool {
        self.is_err()
    }
}

/// Runs a function without an argument; the input is ignored.
pub fn run<R: IntoOutput>(function: impl FnOnce() -> R) -> i32 {
    sys::start();
    finish(function().into_output().map_err(Failure::from))
}

/// Runs a function with an argument.
pub fn run_with<A: FromInput, R: IntoOutput>(function: impl FnOnce(A) -> R) -> i32 {
    run_on_input(|input| -> Result<Vec<u8>, FunctionError> {
        let input = A::from_input(input).map_err(Refused)?;
        function(input).into_output()
    })
}

/// Runs a function from the input's bytes to the output's.
pub(crate) fn run_on_input<E: Into<Failure>>(
    work: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, E>,
) -> i32 {
    sys::start();
    match sys::input() {
        Ok(input) => finish(work(input).map_err(Into::into)),
        Err(error) => finish(Err(error.into())),
    }
}

/// A failure as reported to the host.
pub(crate) struct Failure {
    message: String,
    code: i32,
}

impl From<FunctionError> for Failure {
    fn from(error: FunctionError) -> Failure {
        let code = match error.refused {
            true => EXIT_REFUSED,
            false => EXIT_FAILED,
        };
        let message = error.message;
        Failure { message, code }
    }
}

impl From<HandlerError> for Failure {
    fn from(error: HandlerError) -> Failure {
        let code = match error.is_permanent() {
            true => EXIT_PERMANENT,
            false => EXIT_FAILED,
        };
        if let Some(wait) = error.retry_after() {
            return Failure {
                message: wait.as_millis().to_string(),
                code: EXIT_LATER,
            };
        }
        let message = error.message().to_owned();
        Failure { message, code }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        let code = EXIT_FAILED;
        Failure { message, code }
    }
}

/// Writes the output and returns the export's exit code. The output of a failure is its
/// message.
fn finish(result: Result<Vec<u8>, Failure>) -> i32 {
    let failure: Failure = match result {
        Ok(output) => match sys::output(&output) {
            Ok(()) => return EXIT_OK,
            Err(e) => e.into(),
        },
        Err(failure) => failure,
    };
    // If the host rejects the message too, only the exit code is left.
    let _ = sys::output(failure.message.as_bytes());
    failure.code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::native;

    fn call<A: FromInput, R: IntoOutput>(input: &[u8], function: fn(A) -> R) -> (i32, String) {
        native::set_input(input);
        let code = run_with(function);
        (code, String::from_utf8(native::take_output()).unwrap())
    }

    #[test]
    fn every_input_and_output_type_converts() {
        let double = |Json(n): Json<u32>| Json(n * 2);
        assert_eq!(call(b"21", double), (0, "42".to_owned()));
        let echo = |bytes: Bytes| bytes;
        assert_eq!(call(b"\0x", echo), (0, "\0x".to_owned()));
        assert_eq!(call(b"", echo), (0, String::new()));
        let shout = |Json(text): Json<String>| text.to_uppercase();
        assert_eq!(call(b"\"a\"", shout), (0, "A".to_owned()));
        assert_eq!(run(|| ()), 0);
        assert_eq!(native::take_output(), b"");
    }

    #[test]
    fn function_error_is_the_output_with_exit_code_1() {
        let fail = |_: Bytes| Err::<(), _>("no more paper");
        assert_eq!(call(b"", fail), (1, "no more paper".to_owned()));
        let half = |Json(n): Json<u32>| {
            if n % 2 == 0 {
                Ok(Json(n / 2))
            } else {
                Err("odd")
            }
        };
        assert_eq!(call(b"4", half), (0, "2".to_owned()));
        assert_eq!(call(b"5", half), (1, "odd".to_owned()));
    }

    #[test]
    fn oversized_output_fails_with_the_host_message() {
        let (code, message) = call(b"", |_: Bytes| Bytes(vec![0; 8 * 1024 * 1024 + 1]));
        assert_eq!(code, 1);
        assert_eq!(
            message,
            "the output is 8388609 bytes; the limit is 8388608 bytes"
        );
    }

    #[test]
    fn undecodable_input_is_reported() {
        let double = |Json(n): Json<u32>| Json(n * 2);
        let (code, message) = call(b"{\"a\":1}", double);
        assert_eq!(code, 3);
        assert!(
            message.starts_with("the input is not the JSON that this function takes: invalid type")
        );
        let (code, message) = call(b"", double);
        assert_eq!(
            (code, message.as_str()),
            (3, "the input is empty; this function takes JSON")
        );
    }

    #[test]
    fn refusal_is_the_output_with_exit_code_3() {
        let refuse = |_: Bytes| Err::<(), _>(Refused("no cents"));
        assert_eq!(call(b"", refuse), (3, "no cents".to_owned()));
        let either = |bytes: Bytes| -> Result<(), FunctionError> {
            match bytes.0.as_slice() {
                b"" => Err(Refused("nothing").into()),
                _ => Err("broken")?,
            }
        };
        assert_eq!(call(b"", either), (3, "nothing".to_owned()));
        assert_eq!(call(b"x", either), (1, "broken".to_owned()));
    }
}
