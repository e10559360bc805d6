//! The outcome of a handler's run.

use std::fmt::Display;
use std::time::Duration;

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

/// Asks the host to run the handler again later, which does not count as a failure: no attempt is
/// used up, and no error is recorded. What the run has written is discarded, as after a failure.
/// Use it while something outside the plugin is not ready.
///
/// It is the `Err` of a handler, or is converted to a [`HandlerError`] by `?`:
///
/// ```
/// use kvasm_guest::{Change, HandlerError, Retry, kv, testing};
/// use std::time::Duration;
///
/// #[kvasm_guest::on_change(collection = "orders", on = "set")]
/// fn ship(change: Change<u32>) -> Result<(), HandlerError> {
///     if !kv::collection("paid").has(&change.key)? {
///         return Err(Retry::after(Duration::from_secs(60)).into());
///     }
///     kv::collection("shipped").set(&change.key, &())?;
///     Ok(())
/// }
///
/// let error = testing::change(ship, Change::set("orders", "o1", 1)).unwrap_err();
/// assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
/// ```
// It must not implement `Display`: displayable types are failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retry {
    after: Duration,
}

impl Retry {
    /// The minimum wait: 1 second.
    pub const MIN: Duration = Duration::from_millis(kvasm_abi::RETRY_MS_MIN);
    /// The maximum wait: 30 days.
    pub const MAX: Duration = Duration::from_millis(kvasm_abi::RETRY_MS_MAX);

    /// Asks for another run after this wait. One below [`Retry::MIN`] or above [`Retry::MAX`] is
    /// raised or lowered to it.
    pub fn after(wait: Duration) -> Retry {
        Retry {
            after: wait.clamp(Retry::MIN, Retry::MAX),
        }
    }
}

/// Why a handler failed. Anything that can be displayed converts to a failure that is retried,
/// [`Permanent`] to one that is not, and [`Retry`] to a wait that is no failure.
// It must not implement `Display` either: the two `From` implementations would overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    message: String,
    permanent: bool,
    retry: Option<Retry>,
}

impl HandlerError {
    /// Returns the message, which is stored with the delivery.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the wait after which the handler asks to be run again, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry.map(|retry| retry.after)
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
            retry: None,
        }
    }
}

impl<E: Display> From<Permanent<E>> for HandlerError {
    fn from(Permanent(error): Permanent<E>) -> HandlerError {
        HandlerError {
            message: error.to_string(),
            permanent: true,
            retry: None,
        }
    }
}

impl From<Retry> for HandlerError {
    fn from(retry: Retry) -> HandlerError {
        HandlerError {
            message: format!("the handler asks to be run again in {:?}", retry.after),
            permanent: false,
            retry: Some(retry),
        }
    }
}

/// A type that a handler can return: `()`, or a `Result` of it and an error. A handler has no
/// caller to return a value to.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not what a handler returns",
    note = "a handler has no caller to return a value to: return `()`, or a `Result<(), E>` where `E: std::fmt::Display`, `kvasm_guest::Permanent`, `kvasm_guest::Retry` or `kvasm_guest::HandlerError`"
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
