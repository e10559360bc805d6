//! The HTTP server as its clients see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod access;
mod batches;
mod calls;
mod document;
mod entries;
mod events;
mod faults;
mod hosts;
mod limits;
mod logs;
mod outstanding;
mod plugins;
mod problems;
mod protocol;
mod schemathesis;
mod tokens;
mod triggers;
