//! Background work: a failure of one app does not affect others, and failures are reported.

mod apps;
mod clocks;
mod readiness;
mod stage;
mod tombstones;
mod unreadable_apps;
