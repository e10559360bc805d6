//! Shared by the test suites: guests, hosts over each store, and Postgres clusters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod crash_app;
pub mod fuzz;
pub mod guests;
pub mod postgres;
pub mod program;
pub mod receiver;
pub mod remote;
pub mod server;
pub mod slow_modules;
pub mod till;
