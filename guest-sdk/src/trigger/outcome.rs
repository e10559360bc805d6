//! How a handler's run ends.

use std::fmt::Display;

/// An error that the same delivery would meet again. The host gives the delivery
/// up at once.
///
/// It is the `Err` of a handler, or becomes a [`HandlerError`] by `?`, beside
/// errors that a later attempt may not meet:
///
/// ```
/// use kvasm_guest::{Change, HandlerError, Permanent, kv, testing};
///
/// #[kvasm_guest::on_change(collection = "orders", on = "set")]
/// fn bill(change: Change<i64>) -> Result<(), HandlerError> {
///     let cents = change.value.unwrap_or(0);
///     if cents < 0 {
///         return Err(Permanent("an order cannot be below zero").into());
///     }
///     // If the store is not there just now, it may be later.
///     kv::collection("bills").set(&change.key, &cents)?;
///     Ok(())
/// }
///
/// let error = testing::change(bill, Change::set("orders", "o1", -1)).unwrap_err();
/// assert!(error.is_permanent());
/// assert_eq!(error.message(), "an order cannot be below zero");
/// ```
// It must not have `Display`: what has it is an error to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permanent<E>(
    /// The error.
    pub E,
);

/// Why a handler failed. Anything that can be displayed becomes a failure that a
/// later attempt may not meet, and [`Permanent`] one that it will.
// It must not have `Display` either, or it would be made from itself in two ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    message: String,
    permanent: bool,
}

impl HandlerError {
    /// The message, which the delivery keeps.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same delivery will fail again.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }
}

impl<E: Display> From<E> for HandlerError {
    fn from(error: E) -> HandlerError {
        HandlerError {
            message: error.to_string(),
            permanent: false,
        }
    }
}

impl<E: Display> From<Permanent<E>> for HandlerError {
    fn from(Permanent(error): Permanent<E>) -> HandlerError {
        HandlerError {
            message: error.to_string(),
            permanent: true,
        }
    }
}

/// What a handler can return: `()`, or a `Result` of it and an error. A handler
/// has no caller, so there is nobody to return a value to.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not what a handler returns",
    note = "a handler has no caller to return a value to: return `()`, or a `Result<(), E>` where `E: std::fmt::Display`, `kvasm_guest::Permanent` or `kvasm_guest::HandlerError`"
)]
pub trait HandlerOutput {
    /// Nothing, or why the handler failed.
    ///
    /// # Errors
    /// What the handler returned.
    fn into_result(self) -> Result<(), HandlerError>;
}

impl HandlerOutput for () {
    fn into_result(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl<E: Into<HandlerError>> HandlerOutput for Result<(), E> {
    fn into_result(self) -> Result<(), HandlerError> {
        self.map_err(Into::into)
    }
}
