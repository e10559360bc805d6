//! Triggers, handlers and transactional functions: real plugins on a host with a dispatcher.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod bank;
mod contention;
mod cron;
mod faults;
mod handlers;
mod hosts;
mod leases;
mod lives;
mod orders;
mod retry;
mod serial;
mod stage;
mod transactions;
mod upkeep;
mod waiting;
