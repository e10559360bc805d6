//! The outcome of a handler's run.

use std::fmt::Display;

/// An error that would occur again for the same delivery, so the host does not retry it.
///
/// It is the `Err` of a handler, or is converted to a [`HandlerError`] by `?`, alongside errors
/// that a retry may avoid:
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
///     // If the store is unavailable, a retry may succeed.
///     kv::collection("bills").set(&change.key, &cents)?;
///     Ok(())
/// }
///
/// let error = testing::change(bill, Change::set("orders", "o1", -1)).unwrap_err();
/// assert!(error.is_permanent());
/// assert_eq!(error.message(), "an order cannot be below zero");
/// ```
// It must not implement `Display`: displayable types are errors to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permanent<E>(
    /// The error.
    pub E,
);

/// Why a handler failed. Anything that can be displayed converts to a failure that is retried,
/// and [`Permanent`] to one that is not.
// It must not implement `Display` either: the two `From` implementations would overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    message: String,
    permanent: bool,
}

impl HandlerError {
    /// Returns the message, which is stored with the delivery.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns whether the same delivery would fail again.
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

/// A type that a handler can return: `()`, or a `Result` of it and an error. A handler has no
/// caller to return a value to.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not what a handler returns",
    note = "a handler has no caller to return a value to: return `()`, or a `Result<(), E>` where `E: std::fmt::Display`, `kvasm_guest::Permanent` or `kvasm_guest::HandlerError`"
)]
pub trait HandlerOutput {
    /// Returns `Ok(())`, or why the handler failed.
    ///
    /// # Errors
    /// The handler's error.
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
