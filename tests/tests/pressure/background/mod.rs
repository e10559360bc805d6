//! Background work: a failure of one app does not affect others, and failures are reported.

mod apps;
mod clocks;
mod graves;
mod ready;
mod stage;
mod unread;
