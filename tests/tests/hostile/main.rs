//! Misbehaving guests, and how the host handles them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod arguments;
mod batches;
mod blame;
mod deadlines;
mod embedding;
mod examples;
mod gate;
mod io;
mod many;
mod memory;
mod modules;
mod packed;
mod pointers;
mod random;
mod service;
mod turns;
mod wasi;
