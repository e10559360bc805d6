//! Background work: one app's failure is its own, and what fails shows.

mod apps;
mod clocks;
mod graves;
mod ready;
mod stage;
mod unread;
