//! Handlers: functions that the host calls for a change of an entry, on a schedule, or for a
//! [timer](crate::timer), rather than for a caller that waits for the result.
//!
//! [`#[on_change]`](macro@crate::on_change), [`#[cron]`](macro@crate::cron) and
//! [`#[on_timer]`](macro@crate::on_timer) make one.
//!
//! **A delivery is made at least once, and its effects on the store happen exactly once.** Each
//! run of a handler is a transaction that commits together with the acknowledgement of the
//! delivery. A run that fails, traps or is interrupted leaves nothing in the store, and is
//! repeated. Effects outside the store, such as log lines, may happen more than once.
//!
//! An `Err` fails the run; the delivery is retried later, and becomes a [dead
//! letter](crate::dead_letters) when it has failed too often. An error in [`Permanent`] is not
//! retried, and a [`Retry`] asks for another run later without counting as a failure.

mod change;
mod outcome;
mod schedule;
mod timer;

pub use change::{Change, ChangeKind};
pub use outcome::{HandlerError, HandlerOutput, Permanent, Retry};
pub use schedule::ScheduledRun;
pub use timer::Timer;

pub(crate) use change::ChangeValue;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use change::ToValue;
#[doc(hidden)]
pub use change::run_change;
#[doc(hidden)]
pub use schedule::{run_scheduled, run_scheduled_with};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use timer::encode as encode_timer;
#[doc(hidden)]
pub use timer::run_timer;
