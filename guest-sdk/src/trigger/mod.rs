//! Handlers: functions that the host calls for a change of an entry or on a schedule, rather
//! than for a caller that waits for the result.
//!
//! [`#[on_change]`](macro@crate::on_change) and [`#[cron]`](macro@crate::cron) make one.
//!
//! **A delivery is made at least once, and its effects on the store happen exactly once.** Each
//! run of a handler is a transaction that commits together with the acknowledgement of the
//! delivery. A run that fails, traps or is interrupted leaves nothing in the store, and is
//! repeated. Effects outside the store, such as log lines, may happen more than once.
//!
//! An `Err` fails the run; the delivery is retried later, and becomes a [dead
//! letter](crate::dead_letters) when it has failed too often. An error in [`Permanent`] is not
//! retried.

mod change;
mod outcome;
mod schedule;

pub use change::{Change, ChangeKind};
pub use outcome::{HandlerError, HandlerOutput, Permanent};
pub use schedule::ScheduledRun;

#[doc(hidden)]
pub use change::run_change;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use change::{ChangeValue, ToValue};
#[doc(hidden)]
pub use schedule::{run_scheduled, run_scheduled_with};
