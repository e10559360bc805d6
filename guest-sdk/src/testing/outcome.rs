//! What a test passes to a call, and what it gets back.

use crate::{Bytes, Error, FromInput, IntoOutput, Json};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::TypeId;
use std::fmt;

/// The input of a call: text, bytes, [`Json`], [`Bytes`](crate::Bytes), or `()` for none.
pub trait Input {
    /// Returns the bytes.
    fn into_input(self) -> Vec<u8>;
}

impl Input for () {
    fn into_input(self) -> Vec<u8> {
        Vec::new()
    }
}

impl Input for &str {
    fn into_input(self) -> Vec<u8> {
        self.into()
    }
}

impl Input for String {
    fn into_input(self) -> Vec<u8> {
        self.into()
    }
}

impl Input for &[u8] {
    fn into_input(self) -> Vec<u8> {
        self.into()
    }
}

impl<const N: usize> Input for &[u8; N] {
    fn into_input(self) -> Vec<u8> {
        self.into()
    }
}

impl Input for Vec<u8> {
    fn into_input(self) -> Vec<u8> {
        self
    }
}

impl Input for Bytes {
    fn into_input(self) -> Vec<u8> {
        self.0
    }
}

impl<T: Serialize> Input for Json<T> {
    /// # Panics
    /// If the value cannot be written as JSON.
    fn into_input(self) -> Vec<u8> {
        serde_json::to_vec(&self.0)
            .unwrap_or_else(|error| panic!("the input cannot be written as JSON: {error}"))
    }
}

/// The output of a call. It can be compared with a text.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Output(pub(super) Vec<u8>);

impl Output {
    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text.
    ///
    /// # Panics
    /// If the output is not UTF-8.
    pub fn text(&self) -> &str {
        match std::str::from_utf8(&self.0) {
            Ok(text) => text,
            Err(error) => panic!("the output is not text: {error}"),
        }
    }

    /// Returns the value that the output is the JSON of.
    ///
    /// # Panics
    /// If it is not the JSON of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.0).unwrap_or_else(|error| {
            panic!("the output {self:?} is not the JSON asked for: {error}")
        })
    }
}

impl PartialEq<str> for Output {
    fn eq(&self, text: &str) -> bool {
        self.0 == text.as_bytes()
    }
}

impl PartialEq<&str> for Output {
    fn eq(&self, text: &&str) -> bool {
        self.0 == text.as_bytes()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) => text.fmt(f),
            Err(_) => self.0.fmt(f),
        }
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The function refused the input: over HTTP, status 422.
    Refused(String),
    /// The function failed with this message: over HTTP, status 500.
    Failed(String),
    /// The function panicked; the message and its location. On a host this is a trap.
    Panicked(String),
    /// The transaction could not be committed.
    NotCommitted(Error),
    /// The host has crashed, as [`Harness::crash_after`](super::Harness::crash_after) asked for.
    Crashed,
}

impl CallError {
    /// Returns the message.
    pub fn message(&self) -> &str {
        match self {
            CallError::Refused(message)
            | CallError::Failed(message)
            | CallError::Panicked(message) => message,
            CallError::NotCommitted(error) => error.message(),
            CallError::Crashed => "the host has crashed",
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Refused(message) | CallError::Failed(message) => f.write_str(message),
            CallError::Panicked(message) => write!(f, "the plugin {message}"),
            CallError::NotCommitted(error) => {
                write!(f, "the transaction was not committed: {error}")
            }
            CallError::Crashed => f.write_str(self.message()),
        }
    }
}

impl std::error::Error for CallError {}

/// For tests that also read the store: a function that returns the error fails in the same way.
impl From<Error> for CallError {
    fn from(error: Error) -> CallError {
        CallError::Failed(error.to_string())
    }
}

/// What a test can call: an exported function, by its name or its item; or any other function or
/// closure of the same form. `M` distinguishes them.
pub trait Callee<M> {
    #[doc(hidden)]
    fn target(self) -> Target;
}

/// The target of a call.
#[doc(hidden)]
pub enum Target {
    /// An export of this name.
    Name(String),
    /// A function of this type, which may be an export, and its run.
    Function(TypeId, Box<dyn Fn() -> i32>),
}

impl Callee<String> for &str {
    fn target(self) -> Target {
        Target::Name(self.to_owned())
    }
}

impl<F: Fn() -> R + 'static, R: IntoOutput> Callee<fn() -> R> for F {
    fn target(self) -> Target {
        let run = move || crate::function::run(&self);
        Target::Function(TypeId::of::<F>(), Box::new(run))
    }
}

impl<F: Fn(A) -> R + 'static, A: FromInput, R: IntoOutput> Callee<fn(A) -> R> for F {
    fn target(self) -> Target {
        let run = move || crate::function::run_with(&self);
        Target::Function(TypeId::of::<F>(), Box::new(run))
    }
}
