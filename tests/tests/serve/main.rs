//! The program `kvasm serve` as a process: how it starts and stops, what it makes
//! of slow and broken clients, of many, and of a store that fails.
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
