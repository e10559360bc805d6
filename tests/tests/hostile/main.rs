//! Misbehaving guests, and how the host handles them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod arguments;
mod batches;
mod collected_heap;
mod cost;
mod cpu_permits;
mod deadlines;
mod embedding;
mod examples;
mod failure_classification;
mod fetch;
mod get_many;
mod io;
mod memory;
mod modules;
mod packed;
mod permissions;
mod pointers;
mod proposals;
mod random;
mod scopes;
mod service;
mod settings;
mod timers;
mod vectors;
mod wasi;
