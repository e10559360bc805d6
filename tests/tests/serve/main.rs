//! The program `kvasm serve` as a process: start and stop, slow, broken and numerous clients,
//! and a failing store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod admin;
mod clients;
mod clocks;
mod deploy;
mod folders;
mod metrics;
mod people;
mod requests;
mod start;
mod stop;
mod stores;
mod upgrade;
