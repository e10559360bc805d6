//! Timers: calls of the plugin itself at a later time.
//!
//! A timer calls the plugin's [`#[on_timer]`](macro@crate::on_timer) handler once, at a time or
//! after a duration, in the version of the plugin that is active then. It is durable: it survives
//! restarts of the host, and is retried like every [delivery](crate::trigger). Without such a handler
//! the plugin cannot set timers.
//!
//! **A timer has a name**, unique within the app: 1 to 256 bytes of UTF-8. Setting it again replaces
//! the timer: the earlier one never takes effect. If its handler is running, what the handler has
//! written is discarded. Once the handler has succeeded, the name is free. The handler itself may set
//! it again, for example to repeat something.
//!
//! In a [transaction](macro@crate::function), and in every handler, timers are part of the commit:
//! they are set and cancelled if the run succeeds. Elsewhere each is durable when the call returns.
//! To combine timers with writes there, use a [`Batch`](crate::kv::Batch).
//!
//! ```
//! use kvasm_guest::{Error, HandlerError, Json, Timer, kv, testing, timer};
//! use std::time::Duration;
//!
//! /// Cancels an order that is not paid within 15 minutes.
//! #[kvasm_guest::function(transaction)]
//! fn order(Json(id): Json<String>) -> Result<(), Error> {
//!     kv::collection("orders").set(&id, "open")?;
//!     timer::set_after(&format!("unpaid/{id}"), Duration::from_secs(15 * 60), &id)?;
//!     Ok(())
//! }
//!
//! #[kvasm_guest::function(transaction)]
//! fn pay(Json(id): Json<String>) -> Result<(), Error> {
//!     kv::collection("orders").set(&id, "paid")?;
//!     timer::cancel(&format!("unpaid/{id}"))?;
//!     Ok(())
//! }
//!
//! #[kvasm_guest::on_timer]
//! fn unpaid(timer: Timer<String>) -> Result<(), HandlerError> {
//!     kv::collection("orders").set(&timer.payload, "cancelled")?;
//!     Ok(())
//! }
//!
//! order(Json("o1".to_owned()))?;
//! order(Json("o2".to_owned()))?;
//! pay(Json("o2".to_owned()))?;
//! // In tests, the clock of the native host fires the timers.
//! testing::advance(Duration::from_secs(15 * 60));
//! assert_eq!(testing::fire_timers(unpaid), Ok(1));
//! let orders = kv::collection("orders");
//! assert_eq!(orders.get::<String>("o1")?.as_deref(), Some("cancelled"));
//! assert_eq!(orders.get::<String>("o2")?.as_deref(), Some("paid"));
//! # Ok::<(), Error>(())
//! ```

use crate::{Error, json, sys};
use kvasm_abi::{TIMER_AFTER, TIMER_AFTER_MS_MAX, TIMER_AT};
use serde::Serialize;
use std::time::Duration;

/// Sets a timer for a time, in milliseconds since the Unix epoch. If that has passed, it runs at
/// once. The payload is sent as JSON, and may be as large as a value.
///
/// # Errors
/// [`Error::Invalid`] for a name or a time that is not valid, or if the plugin has no handler of
/// timers; [`Error::Quota`] if the app has too many timers or deliveries; as a write.
pub fn set_at<T: Serialize + ?Sized>(name: &str, at_ms: i64, payload: &T) -> Result<(), Error> {
    set_at_bytes(name, at_ms, encode(name, payload)?)
}

/// Like [`set_at`], with a payload of bytes.
///
/// # Errors
/// As [`set_at`].
pub fn set_at_bytes(name: &str, at_ms: i64, payload: impl AsRef<[u8]>) -> Result<(), Error> {
    sys::timer_set(name, TIMER_AT, at_ms, payload.as_ref())
}

/// Sets a timer for a duration from the commit on, at most 100 years.
///
/// # Errors
/// As [`set_at`].
pub fn set_after<T: Serialize + ?Sized>(
    name: &str,
    after: Duration,
    payload: &T,
) -> Result<(), Error> {
    set_after_bytes(name, after, encode(name, payload)?)
}

/// Like [`set_after`], with a payload of bytes.
///
/// # Errors
/// As [`set_at`].
pub fn set_after_bytes(
    name: &str,
    after: Duration,
    payload: impl AsRef<[u8]>,
) -> Result<(), Error> {
    sys::timer_set(name, TIMER_AFTER, millis(after), payload.as_ref())
}

/// Cancels a timer. Returns whether it was set. A cancelled timer never takes effect, even if its
/// handler is running.
///
/// # Errors
/// [`Error::Invalid`] for a name that is not valid, or if the plugin has no handler of timers; as a
/// write.
pub fn cancel(name: &str) -> Result<bool, Error> {
    sys::timer_cancel(name)
}

/// Returns a duration in milliseconds, one that is too long as one above the limit.
pub(crate) fn millis(after: Duration) -> i64 {
    i64::try_from(after.as_millis()).unwrap_or(TIMER_AFTER_MS_MAX + 1)
}

pub(crate) fn encode<T: Serialize + ?Sized>(name: &str, payload: &T) -> Result<Vec<u8>, Error> {
    json::encode(payload).map_err(|why| {
        Error::Encode(format!(
            "the payload of the timer {name:?} cannot be written as JSON: {why}"
        ))
    })
}
