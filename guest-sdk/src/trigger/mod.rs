//! Handlers: functions that the host calls for a change of an entry or when a
//! time has come, rather than for somebody who waits for an answer.
//!
//! [`#[on_change]`](macro@crate::on_change) and [`#[cron]`](macro@crate::cron) make one.
//!
//! **A delivery comes at least once, and its effects on the store happen exactly
//! once.** Each run of a handler is a transaction that commits together with the
//! note that the delivery is done. A run that fails, traps or is cut off leaves
//! nothing in the store, and another follows. What is not the store's, such as
//! a line of the log, may happen more than once.
//!
//! An `Err` fails the run; the delivery is tried again later, and becomes a
//! [dead letter](crate::dead_letters) when it has failed too often. An error in
//! [`Permanent`] says that it will fail again, and is given up at once.

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
