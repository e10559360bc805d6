//! Inputs and outputs of exported functions, and the code that runs one.

use crate::{HandlerError, sys};
use kvasm_abi::{EXIT_FAILED, EXIT_OK, EXIT_PERMANENT};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;

/// JSON as a function's input or output: `Json(value)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Json<T>(
    /// The value.
    pub T,
);

/// Bytes as a function's input or output, as they came or as they shall go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Bytes(
    /// The bytes.
    pub Vec<u8>,
);

/// What a function can take as its one argument: [`Json`] or [`Bytes`].
#[diagnostic::on_unimplemented(
    message = "a plugin function cannot take `{Self}`",
    label = "not an input",
    note = "take no argument, `Json<T>` where `T: serde::de::DeserializeOwned`, or `Bytes`; a `Request` is for `#[kvasm_guest::http]`"
)]
pub trait FromInput: Sized {
    /// Reads the input.
    ///
    /// # Errors
    /// A message for the caller.
    fn from_input(input: Vec<u8>) -> Result<Self, String>;
}

/// What a function can return: `()`, [`Json`], [`Bytes`], `String`, or a
/// `Result` of one of them and an error that can be displayed.
#[diagnostic::on_unimplemented(
    message = "a plugin function cannot return `{Self}`",
    label = "not an output",
    note = "return `()`, `Json<T>` where `T: serde::Serialize`, `Bytes`, `String`, or a `Result<_, E>` of one of them where `E: std::fmt::Display`; a `Response` is for `#[kvasm_guest::http]`"
)]
pub trait IntoOutput {
    /// The output, or the message of a failure.
    ///
    /// # Errors
    /// A message for the caller.
    fn into_output(self) -> Result<Vec<u8>, String>;
}

impl<T: DeserializeOwned> FromInput for Json<T> {
    fn from_input(input: Vec<u8>) -> Result<Self, String> {
        if input.is_empty() {
            return Err("the input is empty; this function takes JSON".to_owned());
        }
        serde_json::from_slice(&input)
            .map(Json)
            .map_err(|e| format!("the input is not the JSON that this function takes: {e}"))
    }
}

impl FromInput for Bytes {
    fn from_input(input: Vec<u8>) -> Result<Self, String> {
        Ok(Bytes(input))
    }
}

impl IntoOutput for () {
    fn into_output(self) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }
}

impl<T: Serialize> IntoOutput for Json<T> {
    fn into_output(self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(&self.0)
            .map_err(|e| format!("the output cannot be written as JSON: {e}"))
    }
}

impl IntoOutput for Bytes {
    fn into_output(self) -> Result<Vec<u8>, String> {
        Ok(self.0)
    }
}

impl IntoOutput for String {
    fn into_output(self) -> Result<Vec<u8>, String> {
        Ok(self.into_bytes())
    }
}

impl<T: IntoOutput, E: Display> IntoOutput for Result<T, E> {
    fn into_output(self) -> Result<Vec<u8>, String> {
        self.map_err(|e| e.to_string())?.into_output()
    }
}

/// Runs a function without an argument; the input is not looked at.
pub fn run<R: IntoOutput>(function: impl FnOnce() -> R) -> i32 {
    sys::start();
    finish(function().into_output())
}

/// Runs a function with an argument.
pub fn run_with<A: FromInput, R: IntoOutput>(function: impl FnOnce(A) -> R) -> i32 {
    run_on_input(|input| function(A::from_input(input)?).into_output())
}

/// Runs what makes the input's bytes into the output's.
pub(crate) fn run_on_input<E: Into<HandlerError>>(
    work: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, E>,
) -> i32 {
    sys::start();
    match sys::input() {
        Ok(input) => finish(work(input)),
        Err(error) => finish(Err(error)),
    }
}

/// Writes the output and returns the export's result. The output of a failure is
/// its message.
fn finish(result: Result<Vec<u8>, impl Into<HandlerError>>) -> i32 {
    let failure: HandlerError = match result {
        Ok(output) => match sys::output(&output) {
            Ok(()) => return EXIT_OK,
            Err(e) => e.into(),
        },
        Err(error) => error.into(),
    };
    // A message that the host refuses too leaves the code to speak.
    let _ = sys::output(failure.message().as_bytes());
    if failure.is_permanent() {
        EXIT_PERMANENT
    } else {
        EXIT_FAILED
    }
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
    fn inputs_and_outputs_of_every_form() {
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
    fn an_error_is_the_output_with_code_1() {
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
    fn an_output_over_the_limit_fails_with_the_hosts_message() {
        let (code, message) = call(b"", |_: Bytes| Bytes(vec![0; 8 * 1024 * 1024 + 1]));
        assert_eq!(code, 1);
        assert_eq!(
            message,
            "the output is 8388609 bytes; the limit is 8388608 bytes"
        );
    }

    #[test]
    fn an_input_that_is_not_understood_says_so() {
        let double = |Json(n): Json<u32>| Json(n * 2);
        let (code, message) = call(b"{\"a\":1}", double);
        assert_eq!(code, 1);
        assert!(
            message.starts_with("the input is not the JSON that this function takes: invalid type")
        );
        let (code, message) = call(b"", double);
        assert_eq!(
            (code, message.as_str()),
            (1, "the input is empty; this function takes JSON")
        );
    }
}
